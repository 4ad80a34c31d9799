import { createRequire } from 'node:module';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ProbeReport, renderProbe } from '../../src/probe/probe-report.js';
import type { AnyReport } from '../../src/report/any-report.js';
import { buildAuditSet } from '../../src/report/audit-set.js';
import { render } from '../../src/report/render.js';
import { layer, makeProbeReport } from '../probe/sample-probe.js';
import { CHROMIUM_PATH, launchChromium } from './chromium.js';
import {
  makeCleanReport,
  makeDeepReport,
  makeInspectReport,
  makeLayer,
  makeMixedReport,
  makeReport,
} from './sample-reports.js';
import { makeTrace } from './sample-traces.js';

const WIDTHS = [320, 360, 640, 800, 1024, 1440];

/** Layers that are called as those of transformers are. */
function makeLongNamedReport(length: number): AnyReport {
  const names = Array.from(
    { length },
    (_, index) =>
      `resnet.encoder.stages.${Math.floor(index / 75)}.layers.${Math.floor((index % 75) / 3)}.layer.${index % 3}.normalization`,
  );
  return makeReport({
    layers: names.map((name) => makeLayer(name, { channels: 2048, channelsMoved: 1024, batches: 1_250_000 })),
  });
}

/** A probe of 60 layers. */
function makeLongProbe(): ProbeReport {
  const layers = Array.from({ length: 60 }, (_, index) => ({
    ...layer,
    name: `resnet.encoder.stages.1.layers.${index}.layer.1.normalization`,
  }));
  return makeProbeReport({ layers });
}

const PAGES: Readonly<Record<string, string>> = {
  'a mixed audit': render(makeMixedReport(), { format: 'html' }),
  'a clean audit': render(makeCleanReport(), { format: 'html' }),
  'a deep audit': render(makeDeepReport(40), { format: 'html' }),
  '300 long names': render(makeLongNamedReport(300), { format: 'html' }),
  'few long names': render(makeLongNamedReport(9), { format: 'html' }),
  'an inspection': render(makeInspectReport(), { format: 'html' }),
  'several audits': render(buildAuditSet([makeMixedReport(), makeCleanReport()]), { format: 'html' }),
  'a run': render(makeTrace({ layers: 20, checkpoints: 30, onset: 12 }), { format: 'html' }),
  'a probe': renderProbe(makeLongProbe(), { format: 'html' }),
};

/** What a browser makes of a page's tables. */
interface Layout {
  readonly pageWidth: number;
  readonly pageHeight: number;
  /** The narrowest name of a layer, as a share of its table and in pixels, and the highest row. */
  readonly narrowestShare: number;
  readonly narrowest: number;
  readonly highest: number;
  /** Tables that must be scrolled sideways. */
  readonly scrolling: readonly string[];
  /** Cells whose contents stand out of them. */
  readonly overflowing: readonly string[];
}

const MEASURE = `(() => {
  const shown = [...document.querySelectorAll('table:is(.layers, .plain) > tbody > tr:not(.detail)')].filter((row) => row.checkVisibility());
  const heads = shown.map((row) => row.querySelector('th'));
  const widths = heads.map((head) => head.getBoundingClientRect().width);
  const shares = heads.map((head, index) => widths[index] / head.closest('table').getBoundingClientRect().width);
  const cells = shown.flatMap((row) => [...row.cells]).filter((cell) => cell.checkVisibility({ visibilityProperty: true }));
  return {
    pageWidth: document.documentElement.scrollWidth,
    pageHeight: document.documentElement.scrollHeight,
    narrowest: Math.min(...widths),
    narrowestShare: Math.min(...shares),
    highest: Math.max(...shown.map((row) => row.getBoundingClientRect().height)),
    scrolling: [...document.querySelectorAll('.scroll')].filter((panel) => panel.scrollWidth > panel.clientWidth + 1).map((panel) => panel.textContent.trim().slice(0, 50)),
    overflowing: cells.filter((cell) => cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent),
  };
})()`;

const LIST_VIOLATIONS =
  'axe.run({ resultTypes: ["violations"] }).then(({ violations }) => violations.map(({ id, nodes }) => [id, nodes[0].html, nodes[0].failureSummary]))';

const AXE_SOURCE: string = createRequire(import.meta.url)('axe-core').source;

describe.skipIf(CHROMIUM_PATH === null)('the layout of the HTML pages', { timeout: 60_000 }, () => {
  let browser: Browser;

  beforeAll(async () => {
    browser = await launchChromium();
  }, 60_000);

  afterAll(() => browser?.close());

  describe.each(Object.entries(PAGES))('of %s', (what, markup) => {
    test.each(WIDTHS)('gives names and rows their room at a width of %d', async (width) => {
      // A page of its own: what a policy forbids stays forbidden in the next document.
      const page = await browser.newPage({ viewport: { width, height: 900 } });
      await page.setContent(markup);
      for (const summary of await page.locator('.audit > summary').all()) await summary.click();
      const layout = await page.evaluate<Layout>(MEASURE);
      await page.close();
      expect(layout.pageWidth).toBe(width);
      expect(layout.overflowing).toEqual([]);
      expect(layout.scrolling).toEqual([]);
      // On a telephone the name has the row to itself.
      if (width < 500) expect(layout.narrowestShare).toBeGreaterThan(0.85);
      else expect(layout.narrowest).toBeGreaterThan(220);
      // Three lines of text at most, on a telephone one more; two more where a row is a list of what each column says.
      const isList = what === 'a probe' || what === 'a run';
      expect(layout.highest).toBeLessThan((width < 500 ? 105 : 80) + (isList ? 65 : 0));
      expect(layout.pageHeight).toBeLessThan(width < 500 ? 11_000 : 7500);
    });

    // A minute for 300 rows, which are like nine.
    test.skipIf(what === '300 long names')(
      'has nothing that axe finds inaccessible, light or dark, at three widths',
      {
        timeout: 180_000,
      },
      async () => {
        const page = await browser.newPage();
        await page.setContent(markup);
        for (const summary of await page.locator('.audit > summary').all()) await summary.click();
        await page.evaluate(AXE_SOURCE);
        for (const [width, colorScheme] of [
          [360, 'light'],
          [800, 'dark'],
          [1440, 'light'],
        ] as const) {
          await page.setViewportSize({ width, height: 900 });
          await page.emulateMedia({ colorScheme });
          expect(await page.evaluate(LIST_VIOLATIONS), `at a width of ${width}`).toEqual([]);
        }
        await page.close();
      },
    );
  });
});
