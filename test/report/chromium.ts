import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

/** Where a Chromium may be installed; CHROMIUM_PATH names another. */
const PLACES = [
  process.env['CHROMIUM_PATH'] ?? '',
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

/** The Chromium of this machine; null without one, and then tests that need it are skipped. */
export const CHROMIUM_PATH = PLACES.find((path) => path !== '' && existsSync(path)) ?? null;

if (CHROMIUM_PATH === null)
  console.warn('The tests of pages in a browser are skipped: no Chromium found (set CHROMIUM_PATH).');

const OPTIONS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** Starts Chromium; call it only where {@link CHROMIUM_PATH} is one. */
export function launchChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: CHROMIUM_PATH ?? '', args: OPTIONS });
}
