import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

/** Where a Chromium may be installed; CHROMIUM_PATH names another. */
const CHROMIUM_PATHS = [
  process.env['CHROMIUM_PATH'] ?? '',
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];
const executablePath = CHROMIUM_PATHS.find((path) => path !== '' && existsSync(path));
/** Whether tests can run in a browser. */
export const hasChromium = executablePath !== undefined;
if (!hasChromium) {
  console.warn('Tests in a browser are skipped: no Chromium found (set CHROMIUM_PATH).');
}

const CHROMIUM_OPTIONS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** Starts it. */
export function launchChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: executablePath ?? '', args: CHROMIUM_OPTIONS });
}
