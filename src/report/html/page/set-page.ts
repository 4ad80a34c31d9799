import { addThemeSwitch } from './theme.js';

/** The page of several checkpoints works without a script; this adds the choice of light and dark. */
const box = document.getElementById('theme');
if (box !== null) addThemeSwitch(box);
