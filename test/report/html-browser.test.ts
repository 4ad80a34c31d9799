import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { AnyReport } from '../../src/report/any-report.js';
import { type AuditSet, buildAuditSet } from '../../src/report/audit-set.js';
import { render } from '../../src/report/render.js';
import { CHROMIUM_PATH, launchChromium } from './chromium.js';
import {
  HOSTILE_NAMES,
  makeCleanReport,
  makeDeepReport,
  makeHostileReport,
  makeInspectReport,
  makeLayer,
  makeMixedReport,
  makeReport,
} from './sample-reports.js';
import { makeTrace } from './sample-traces.js';

/** Several audits: drift, nothing, and one that could not be done. */
const SET = buildAuditSet([
  { ...makeMixedReport(), after: { ...makeMixedReport().after, path: 'runs/epoch-2.pt' } },
  makeCleanReport(),
  {
    before: 'runs/base.pt',
    after: 'runs/broken.pt',
    code: 'truncated',
    message: 'runs/broken.pt: expected 8 bytes, found 3',
    hint: 'Was the download interrupted?',
  },
]);

describe.skipIf(CHROMIUM_PATH === null)('the HTML page in Chromium', { timeout: 60_000 }, () => {
  let browser: Browser;
  let directory: string;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'bn-audit-html-'));
    browser = await launchChromium();
  }, 60_000);

  afterAll(async () => {
    await browser?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  /** Opens a report from a file; collects what the console says and what the page asks the network for. */
  async function openReport(
    report: AnyReport | AuditSet,
    options: BrowserContextOptions = {},
  ): Promise<{ readonly page: Page; readonly problems: readonly string[] }> {
    const path = join(directory, 'report.html');
    writeFileSync(path, render(report, { format: 'html' }));
    const page = await (
      await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
    ).newPage();
    const problems: string[] = [];
    page.on('console', (message) => problems.push(`console: ${message.text()}`));
    page.on('pageerror', (error) => problems.push(`error: ${error.message}`));
    page.on('dialog', async (dialog) => {
      problems.push(`dialog: ${dialog.message()}`);
      await dialog.dismiss();
    });
    page.on('request', (request) => {
      if (request.url() !== `file://${path}`) problems.push(`request: ${request.url()}`);
    });
    await page.goto(`file://${path}`);
    return { page, problems };
  }

  test('of a run draws a line for each layer, marks the onset, and is quick with 300 layers over 500 checkpoints', async () => {
    const { page, problems } = await openReport(makeTrace({ layers: 150, checkpoints: 500, onset: 120 }));
    await page.waitForSelector('#run-chart .lines path');
    expect(await page.locator('#run-chart .lines path').count()).toBe(300);
    expect(await page.textContent('#run-chart .onset-label')).toBe('drift begins: epoch 121');
    await page.focus('#run-chart .plot');
    const milliseconds = await page.evaluate<number>(`(() => {
      const start = performance.now();
      document.querySelector('#run-chart input').click();
      return performance.now() - start;
    })()`);
    expect(milliseconds).toBeLessThan(2000);
    await page.keyboard.press('End');
    expect(await page.textContent('#run-chart .readout')).toMatch(/^epoch 500: backbone\.layer0\.bn 0\.76/);
    await page.hover('#layers table tbody tr:first-child');
    expect(await page.locator('#run-chart path.lit').count()).toBe(1);
    expect(problems).toEqual([]);
  });

  test('opens 300 layers in less than a second of work, without an error or a request', async () => {
    const { page, problems } = await openReport(makeDeepReport(300));
    const session = await page.context().newCDPSession(page);
    // The time of the thread itself: other programs on the machine do not count.
    await session.send('Performance.enable', { timeDomain: 'threadTicks' });
    await page.reload();
    const { metrics } = await session.send('Performance.getMetrics');
    expect(metrics.find(({ name }) => name === 'TaskDuration')?.value).toBeLessThan(1);
    expect(await page.locator('#layer-chart rect[class^=is-]').count()).toBeGreaterThan(300);
    expect(problems).toEqual([]);
  });

  test('begins a long table with 25 rows, whatever sorts or filters it, and shows the rest when asked', async () => {
    const { page } = await openReport(makeDeepReport(300));
    const rows = page.locator('#layer-table tbody tr[id]:visible');
    const rest = page.getByRole('button', { name: /^Show all/ });
    expect(await rows.count()).toBe(25);
    expect(await rest.textContent()).toBe('Show all 300 layers');
    await page.getByRole('button', { name: 'Layer', exact: true }).click();
    expect(await rows.count()).toBe(25);
    await page.getByRole('searchbox').fill('layer1 bn2');
    expect(await rows.count()).toBeLessThan(26);
    expect(await rest.isVisible()).toBe(false);
    await page.getByRole('searchbox').fill('');
    await rest.click();
    expect(await rows.count()).toBe(300);
    expect(await rest.isVisible()).toBe(false);
  });

  test('has no chart where nothing moved, and no error for want of it', async () => {
    const { page, problems } = await openReport(makeCleanReport());
    expect(await page.locator('.chart').count()).toBe(0);
    expect(problems).toEqual([]);
  });

  test('marks what is no number with a cross, not with a bar', async () => {
    const broken = makeLayer('broken', { status: 'invalid', outputShift: Number.NaN });
    const { page } = await openReport(makeReport({ layers: [makeLayer('moved'), broken], findings: [] }));
    const plot = page.locator('#layer-chart .plot');
    expect(await plot.locator('path.cross.is-invalid').count()).toBe(1);
    expect(await plot.locator('rect.is-drifted[rx="2"]').count()).toBe(1);
    expect(await plot.locator('rect.is-invalid[rx="2"]').count()).toBe(0);
    expect(await page.locator('#layer-chart .meaning').textContent()).toContain('not a finite number');
  });

  test('sorts by a column, and says so', async () => {
    const { page } = await openReport(makeDeepReport(40));
    const header = page.locator('th', { hasText: 'Channels' });
    const channels = () => page.locator('#layer-table tbody tr[id] td:nth-child(4)').allInnerTexts();
    const sorted = (sign: number) => async () => {
      const numbers = (await channels()).map((text) => Number(text.replace(/,|.* of /g, '')));
      expect(numbers).toEqual([...numbers].sort((x, y) => sign * (x - y)));
    };
    await header.getByRole('button').click();
    expect(await header.getAttribute('aria-sort')).toBe('descending');
    await sorted(-1)();
    await header.getByRole('button').press('Enter');
    expect(await header.getAttribute('aria-sort')).toBe('ascending');
    await sorted(1)();
    expect(await page.locator('th[aria-sort]:not([aria-sort=none])').count()).toBe(1);
  });

  test('filters by name and by status, and counts what is left', async () => {
    const { page } = await openReport(makeDeepReport(300));
    const output = page.locator('#layer-filter output');
    await page.getByRole('searchbox').fill('LAYER1 bn2');
    expect(await output.textContent()).toMatch(/^\d+ of 300 layers$/);
    for (const name of await page.locator('#layer-table tbody tr[id]:visible th').allInnerTexts()) {
      expect(name).toMatch(/layer1.*bn2/);
    }
    await page.getByRole('searchbox').fill('');
    const chip = page.getByRole('button', { name: /^trained/ });
    await chip.click();
    expect(await chip.getAttribute('aria-pressed')).toBe('true');
    expect(await page.locator('#layer-table tbody tr[id]:visible').count()).toBe(14);
  });

  test('opens a layer from the chart by keyboard, with its plots and their table', async () => {
    const { page, problems } = await openReport(makeDeepReport(40));
    const chart = page.getByRole('slider', { name: 'Movement along the depth' });
    await chart.focus();
    await chart.press('Home');
    expect(await chart.getAttribute('aria-valuetext')).toMatch(
      /^backbone\.layer1\.0\.bn1: locked, output shift 0$/,
    );
    await chart.press('End');
    await chart.press('ArrowLeft');
    expect(await chart.getAttribute('aria-valuenow')).toBe('39');
    await chart.press('Enter');
    const detail = page.locator('#layer-38 + .detail');
    await detail.waitFor();
    expect(page.url()).toMatch(/#layer-38$/);
    expect(await detail.locator('.plot path.after').count()).toBe(2);
    await detail.getByText('These channels as a table').click();
    const rows = detail.locator('.channel-table tbody tr');
    // The rows come with the event that follows the opening, not with the click.
    await rows.first().waitFor();
    expect(await rows.count()).toBe(1024);
    const plot = detail.getByRole('slider', { name: 'Running mean by channel' });
    await plot.focus();
    await plot.press('ArrowRight');
    expect(await plot.getAttribute('aria-valuetext')).toMatch(/^channel \d+: before \S+, after \S+$/);
    expect(problems).toEqual([]);
  });

  test('follows the links of the module tree to a row that a filter hides', async () => {
    const { page } = await openReport(makeDeepReport(40));
    await page.getByRole('searchbox').fill('no such layer');
    await page.locator('#modules details').evaluateAll((all) => {
      for (const details of all) details.setAttribute('open', '');
    });
    await page.locator('#modules a[href="#layer-5"]').click();
    await page.locator('#layer-5').waitFor({ state: 'visible' });
    expect(await page.locator('#layer-5 .open').getAttribute('aria-expanded')).toBe('true');
  });

  test('is light or dark as the system, or as the reader chooses', async () => {
    const { page } = await openReport(makeMixedReport(), { colorScheme: 'dark' });
    const brightness = () => page.evaluate<number>(READ_BRIGHTNESS);
    expect(await brightness()).toBeLessThan(60);
    await page.getByRole('radio', { name: 'Light' }).check({ force: true });
    expect(await brightness()).toBeGreaterThan(200);
    await page.getByRole('radio', { name: 'Auto' }).check({ force: true });
    expect(await brightness()).toBeLessThan(60);
  });

  test('reads without scripts', async () => {
    const { page } = await openReport(makeMixedReport(), { javaScriptEnabled: false });
    expect(await page.locator('h1').textContent()).toBe(
      'backbone was frozen, its statistics were not (3 of 3 moved, 1 allowed)',
    );
    expect(await page.locator('#layer-table tbody tr').count()).toBe(6);
    expect(await page.locator('noscript').isVisible()).toBe(true);
  });

  test.each([320, 768])('does not scroll sideways at a width of %d', async (width) => {
    const { page } = await openReport(makeMixedReport(), { viewport: { width, height: 800 } });
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
  });

  test('opens at a layer that the address names, however far down the table', async () => {
    const { page } = await openReport(makeDeepReport(300));
    const address = page.url();
    await page.goto('about:blank');
    await page.goto(`${address}#layer-0`);
    await page.locator('#layer-0').waitFor({ state: 'visible' });
    expect(await page.locator('#layer-0 .open').getAttribute('aria-expanded')).toBe('true');
    await expect.poll(() => page.evaluate('scrollY')).toBeGreaterThan(2000);
  });

  test.each([
    ['without scripts', { javaScriptEnabled: false }],
    ['on paper', {}],
  ] as const)('shows all rows %s', async (_, options) => {
    const { page } = await openReport(makeDeepReport(60), options);
    await page.emulateMedia({ media: 'print' });
    expect(await page.locator('#layer-table tbody tr[id]:visible').count()).toBe(60);
  });

  test('prints', async () => {
    const { page } = await openReport(makeMixedReport());
    expect((await page.pdf({ format: 'A4' })).subarray(0, 5).toString()).toBe('%PDF-');
    await page.emulateMedia({ media: 'print', colorScheme: 'dark' });
    expect(await page.locator('#theme').isVisible()).toBe(false);
    expect(await page.locator('#layer-table').isVisible()).toBe(true);
  });

  test.each([
    ['an audit', makeHostileReport()],
    ['an inspection', makeInspectReport(Object.values(HOSTILE_NAMES))],
  ])('shows hostile names of %s as text', async (_, report) => {
    const { page, problems } = await openReport(report);
    await page.evaluate(
      "for (const button of document.querySelectorAll('#layer-table .open')) button.click()",
    );
    const chart = page.getByRole('slider', { name: /along the depth$/ });
    await chart.focus();
    await chart.press('ArrowRight');
    expect(await page.locator('img, iframe, object, embed, link, base, form').count()).toBe(0);
    expect(await page.locator('script').count()).toBe(3);
    expect(await page.locator('a:not([href^="#"])').count()).toBe(0);
    expect(problems).toEqual([]);
  });

  describe('of several checkpoints', () => {
    test('opens a checkpoint by keyboard to its findings and its worst layers', async () => {
      const { page, problems } = await openReport(SET);
      const audit = page.locator('.audit', { hasText: 'epoch-2.pt' });
      await audit.locator('summary').press('Enter');
      expect(await audit.locator('.said').first().textContent()).toMatch(
        /^error Statistics of a frozen layer/,
      );
      const names = await audit.locator('.layers tbody th').allInnerTexts();
      expect(names).toHaveLength(6);
      expect(names[0]).toBe('backbone.layer1.bn1');
      expect(problems).toEqual([]);
    });

    test('reads without scripts', async () => {
      const { page } = await openReport(SET, { javaScriptEnabled: false });
      expect(await page.locator('h1').textContent()).toBe(
        '1 of 3 checkpoints drifted, 1 failed: it could not be audited',
      );
      expect(await page.locator('.audit').count()).toBe(3);
    });

    test('is light or dark as the reader chooses', async () => {
      const { page } = await openReport(SET, { colorScheme: 'dark' });
      await page.getByRole('radio', { name: 'Light' }).check({ force: true });
      expect(await page.evaluate<number>(READ_BRIGHTNESS)).toBeGreaterThan(200);
    });

    test.each([320, 768])('does not scroll sideways at a width of %d', async (width) => {
      const { page } = await openReport(SET, { viewport: { width, height: 800 } });
      for (const summary of await page.locator('.audit > summary').all()) await summary.click();
      expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
    });

    test('prints what each opens to', async () => {
      const { page } = await openReport(SET);
      const table = page.locator('.audit .layers').first();
      expect(await table.isVisible()).toBe(false);
      await page.emulateMedia({ media: 'print' });
      expect(await table.isVisible()).toBe(true);
    });

    test('shows hostile names as text', async () => {
      const { page, problems } = await openReport(buildAuditSet([makeHostileReport(), makeHostileReport()]));
      expect(await page.locator('img, iframe, object, embed, link, base, form').count()).toBe(0);
      expect(await page.locator('script').count()).toBe(1);
      expect(problems).toEqual([]);
    });
  });
});

/** The red of the page's background, which is grey. */
const READ_BRIGHTNESS = 'Number(/\\d+/.exec(getComputedStyle(document.body).backgroundColor)[0])';
