import { lexer, type Token, walkTokens } from 'marked';
import { describe, expect, test } from 'vitest';
import type { AnyReport } from '../../src/report/any-report.js';
import { MAX_COMMENT_LENGTH, MAX_SUMMARY_LENGTH } from '../../src/report/markdown.js';
import {
  HOSTILE_NAMES,
  makeCleanReport,
  makeDeepReport,
  makeHostileReport,
  makeInspectReport,
  makeLayer,
  makeMixedReport,
  makeReport,
  renderAs,
} from './sample-reports.js';

const renderMarkdown = renderAs('markdown');

function tokensOf(markdown: string): readonly Token[] {
  const tokens: Token[] = [];
  walkTokens(lexer(markdown, { gfm: true }), (token) => {
    tokens.push(token);
  });
  return tokens;
}

/** The HTML that the renderer writes itself, by which a report is folded. */
const OWN_HTML = /^(?:<\/?(?:details|summary|sub)>|<details><summary>[\w -]+<\/summary>)$/;

const HOSTILE_REPORTS: readonly (readonly [string, AnyReport])[] = [
  ['all hostile names', makeHostileReport()],
  ['an inspection of them', makeInspectReport(Object.values(HOSTILE_NAMES))],
  ...Object.entries(HOSTILE_NAMES).map(([what, name]) => [what, makeHostileReport([name])] as const),
];

describe('Markdown', () => {
  test('gives the answer, the worst layers, the findings and the way out', async () => {
    await expect(renderMarkdown(makeMixedReport())).toMatchFileSnapshot('__snapshots__/mixed.md');
  });

  test('of a clean report is short', async () => {
    await expect(renderMarkdown(makeCleanReport())).toMatchFileSnapshot('__snapshots__/clean.md');
  });

  test('of an inspection lists its layers', async () => {
    await expect(renderMarkdown(makeInspectReport())).toMatchFileSnapshot('__snapshots__/inspect.md');
  });

  test('begins with a heading that answers', () => {
    const [heading] = tokensOf(renderMarkdown(makeMixedReport()));
    expect(heading).toMatchObject({
      type: 'heading',
      text: '❌ Drifted: `backbone` was frozen, its statistics were not (3 of 3 moved, 1 allowed)',
    });
  });

  test('counts the layers that it does not show', () => {
    const markdown = renderMarkdown(makeDeepReport(300));
    expect(markdown).toContain('… and 248 more layers that moved less.');
    expect(tokensOf(markdown).filter((token) => token.type === 'table')).toHaveLength(3);
  });

  test.each(HOSTILE_REPORTS)('is no HTML, link, image or mention out of %s', (_, report) => {
    for (const token of tokensOf(renderMarkdown(report, { all: true }))) {
      expect(['link', 'image', 'def']).not.toContain(token.type);
      if (token.type === 'html') expect(token.raw.trim()).toMatch(OWN_HTML);
      if (token.type === 'text' && !('tokens' in token))
        expect(token.raw).not.toMatch(/[@#<>|`\\]|:\/\/|www\./);
    }
  });

  test.each(HOSTILE_REPORTS)('has tables of whole rows from %s', (_, report) => {
    const tables = renderMarkdown(report, { all: true }).match(/(?:^\|.*\|\n)+/gm) ?? [];
    expect(tables.length).toBeGreaterThan(0);
    for (const table of tables) {
      const pipes = table
        .trimEnd()
        .split('\n')
        .map((line) => line.split('|').length);
      expect(new Set(pipes).size).toBe(1);
    }
  });

  test('keeps Python in its fence', () => {
    const fences = tokensOf(renderMarkdown(makeHostileReport(['``` x']))).filter(
      ({ type }) => type === 'code',
    );
    expect(fences).toHaveLength(2);
    for (const fence of fences) expect(fence.raw).toMatch(/^```python\n[^`]*\n```$/);
  });

  test('fits a comment, and with all layers a job summary, whatever the names', () => {
    const names = Array.from({ length: 3000 }, (_, index) => `${index}${'`|@<😀'.repeat(500)}`);
    const report = makeHostileReport(names);
    expect(renderMarkdown(report).length).toBeLessThanOrEqual(MAX_COMMENT_LENGTH);
    expect(Buffer.byteLength(renderMarkdown(report, { all: true }))).toBeLessThanOrEqual(MAX_SUMMARY_LENGTH);
  }, 60_000);

  test('shows a status column only with all layers', () => {
    const report = makeReport({
      layers: [makeLayer('bn1'), makeLayer('bn2', { status: 'trained' })],
      findings: [],
    });
    expect(renderMarkdown(report)).not.toContain('| status |');
    expect(renderMarkdown(report, { all: true })).toContain('| `bn2` | trained |');
  });
});
