// npm run picture: draws the top of the HTML report, as the second picture of the README, with the Chromium of this machine.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

/** Wide enough for two columns, and down to the end of the fix. */
const VIEWPORT = { width: 1000, height: 1010 };

const pair = fileURLToPath(new URL('../fixtures/pairs/requires-grad-leak', import.meta.url));
const program = fileURLToPath(new URL('../bin/bn-audit.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'bn-audit-page-'));
try {
  const page = join(folder, 'report.html');
  const args = ['diff', 'before.pt', 'after.pt', '--format', 'html', '--output', page];
  const { status, stderr } = spawnSync(process.execPath, [program, ...args], { cwd: pair, encoding: 'utf8' });
  if (status !== 1) throw new Error(`expected exit code 1, drift found, found ${status}: ${stderr}`);
  const executablePath = process.env.CHROMIUM_PATH ?? '/usr/bin/chromium';
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
  try {
    const tab = await browser.newPage({ viewport: VIEWPORT, colorScheme: 'light', reducedMotion: 'reduce' });
    await tab.goto(`file://${page}`);
    await tab.waitForSelector('#layer-chart rect');
    await tab.screenshot({ path: fileURLToPath(new URL('images/report.png', import.meta.url)) });
  } finally {
    await browser.close();
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
