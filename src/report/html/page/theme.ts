// The choice of light and dark: all the script of a page of several checkpoints, and a part of that of one.

import { makeSegments } from './dom.js';

const THEMES = ['auto', 'light', 'dark'] as const;
const KEY = 'bn-audit-theme';

/** A switch between light, dark and what the system says; remembered where the browser lets a file remember. */
function addThemeSwitch(box: HTMLElement): void {
  const apply = (index: number) => {
    const theme = THEMES[index] ?? 'auto';
    if (theme === 'auto') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = theme;
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // A page from a file may be forbidden to store anything; the switch works all the same.
    }
  };
  const chosen = Math.max(0, THEMES.map(String).indexOf(readTheme() ?? 'auto'));
  if (chosen > 0) apply(chosen);
  box.replaceChildren(makeSegments('Theme', { choices: ['Auto', 'Light', 'Dark'], chosen, onChoose: apply }));
}

function readTheme(): string | null {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

const box = document.getElementById('theme');
if (box !== null) addThemeSwitch(box);
