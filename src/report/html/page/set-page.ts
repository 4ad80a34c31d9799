// The page's script for several reports.

import { addThemeSwitch } from './dom.js';

/** The page of several checkpoints works without a script; this adds the choice of light and dark. */
const box = document.getElementById('theme');
if (box !== null) addThemeSwitch(box);
