import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { CHROMIUM_PATH, launchChromium } from '../report/chromium.js';
import { runCli } from './run.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const SVG = readFileSync(join(root, 'docs/images/diff.svg'), 'utf8');

test('the picture in the README shows what the command prints: npm run picture draws it again', async () => {
  const lines = [...SVG.matchAll(/<text [^>]*>(.*)<\/text>/g)].map(([, line = '']) =>
    line
      .replace(/<\/?tspan[^>]*>/g, '')
      .replaceAll('&lt;', '<')
      .replaceAll('&gt;', '>')
      .replaceAll('&amp;', '&'),
  );
  const [command = '', ...shown] = lines;
  const args = command.replace(/^\$ bn-audit /, '').split(' ');
  const { stdout } = await runCli(args, join(root, 'fixtures/pairs/requires-grad-leak'), {
    env: { COLUMNS: '92' },
  });
  expect(shown).toEqual(stdout.split('\n').filter((line) => line !== ''));
});

/** Where a browser shows a line: its text, and where each character starts, null for spaces. */
interface ShownLine {
  readonly text: string;
  readonly left: number;
  readonly starts: readonly (number | null)[];
}

/** Runs in the page. */
const MEASURE = `[...document.querySelectorAll('text')].map((line) => ({
  text: line.textContent,
  left: Number(line.getAttribute('x')),
  starts: [...line.textContent].map((character, index) =>
    character === ' ' || index >= line.getNumberOfChars() ? null : line.getStartPositionOfChar(index).x),
}))`;

async function measureLines(): Promise<readonly ShownLine[]> {
  const browser = await launchChromium();
  try {
    const page = await browser.newPage();
    await page.setContent(`<!doctype html>${SVG}`);
    return await page.evaluate(MEASURE);
  } finally {
    await browser.close();
  }
}

test.skipIf(CHROMIUM_PATH === null)(
  'a browser shows the picture in columns, every space as wide as a letter',
  { timeout: 60_000 },
  async () => {
    const lines = await measureLines();
    expect(lines.length).toBeGreaterThan(15);
    const [first] = lines;
    const cell = Number(/textLength="([\d.]+)"/.exec(SVG)?.[1]) / (first?.text.length ?? 0);
    for (const { text, left, starts } of lines)
      for (const [index, start] of starts.entries()) {
        if (text[index] === ' ') continue;
        const column = (Number(start ?? Number.NaN) - left) / cell;
        expect(Math.abs(column - index), `column of ${text[index]} in "${text}"`).toBeLessThan(0.5);
      }
  },
);
