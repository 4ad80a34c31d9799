// Markdown, for comments on pull requests and job summaries.

import { type Finding, makeFinding, titleOf } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import { describeAnswer, keepCurableByEval, listRemedies, type Outcome } from './answer.js';
import {
  type AnyReport,
  type FindingGroup,
  groupFindings,
  isAudit,
  listKinds,
  showSafely,
} from './any-report.js';
import { type AuditLayer, type AuditReport, type CheckpointSummary, sortByShift } from './audit-report.js';
import { countOutcomes, getCommonBefore, isAuditSet, listDetailed, type ReportSet } from './audit-set.js';
import { adviseFreeze, isFrozenDrift, splitCodeWords } from './fix-advice.js';
import {
  formatBatches,
  formatCount,
  formatMagnitude,
  formatMeasure,
  formatOptional,
  formatPlural,
  formatStdRatio,
} from './format-numbers.js';
import type { InspectLayer, InspectReport } from './inspect-report.js';
import type { Pieces, TextOptions } from './text-layout.js';

/** GitHub refuses longer comments, counted in characters. */
export const MAX_COMMENT_LENGTH = 65_536;

/** GitHub refuses a longer job summary of one step: 1 MiB. Room is left for what else the step writes. */
export const MAX_SUMMARY_LENGTH = 1_000_000;

const SHOWN_ROWS = 20;

/** With all rows asked for: even with the longest names these leave half a summary free. */
const MAX_ROWS = 500;

const SHOWN_FINDINGS = 5;
const MAX_NAME_LENGTH = 100;
const MAX_MESSAGE_LENGTH = 400;

/** Longer code is of no use to a reader, and would fill a comment; a text report prints any. */
const MAX_CODE_LENGTH = 16_000;

/** What stands before an outcome's word. */
export const OUTCOME_SIGNS: Readonly<Record<Outcome, string>> = {
  failed: '❌',
  drifted: '❌',
  unhealthy: '❌',
  warned: '⚠️',
  clean: '✅',
};

/**
 * A report as GitHub-flavoured Markdown, for a pull-request comment or, with all layers, a job summary: the answer, the
 * worst layers, what else was found, and how to fix it. Of several audits: a table with a row for each checkpoint, then
 * the report of the one that drifted most, or, with `all`, of every one that drifted, as far as they fit.
 *
 * Names are shown as code, where nothing in them is markup, a mention or a link.
 */
export function renderMarkdown(report: AnyReport | ReportSet, { all = false }: TextOptions): Pieces {
  return [isAuditSet(report) ? renderSet(report, all) : renderOne(report, all)];
}

function renderOne(report: AnyReport, all: boolean): string {
  const answer = describeAnswer(report, (name) => showCode(name));
  const limit = all ? MAX_SUMMARY_LENGTH : MAX_COMMENT_LENGTH;
  const blocks = isAudit(report) ? renderAudit(report, all) : renderInspection(report, all);
  const head = [
    `### ${OUTCOME_SIGNS[answer.outcome]} ${answer.word}: ${answer.headline}`,
    answer.explanation,
  ];
  const pages =
    report.findings.length > 0 ? ' · `bn-audit explain KIND` prints the page about a kind of finding' : '';
  const foot = `<sub>${report.tool.name} ${report.tool.version}${pages}</sub>`;
  return `${fitBlocks([...head, ...blocks], limit - 200).join('\n\n')}\n\n${foot}\n`;
}

/** Blocks, the last left out that do not fit, with a word about it. Tables count their own rows. */
function fitBlocks(blocks: readonly string[], limit: number): readonly string[] {
  let length = 0;
  const fitting = blocks.filter((block) => {
    length += new TextEncoder().encode(block).length + 2;
    return length <= limit;
  });
  const dropped = blocks.length - fitting.length;
  return dropped > 0
    ? [...fitting, `*Too long for here: ${formatPlural(dropped, 'section')} left out.*`]
    : fitting;
}

function renderAudit(report: AuditReport, all: boolean): readonly string[] {
  return [
    renderCheckpoints([
      ['before', report.before],
      ['after', report.after],
    ]),
    ...renderDrift(report, all),
    ...renderFindings(
      report.findings.filter((finding) => !isFrozenDrift(finding)),
      all,
    ),
    ...renderRegions(report),
    ...listWarnings(report.warnings),
    ...listRemedies(report).map((remedy) => `**What to do.** ${remedy}`),
    ...renderAdvice(keepCurableByEval(report)),
  ];
}

function renderCheckpoints(
  rows: readonly (readonly [role: string, checkpoint: CheckpointSummary])[],
): string {
  return renderTable(rows, [
    ['', ([role]) => role],
    ['checkpoint', ([, { path }]) => showCode(path)],
    ['format', ([, { format }]) => format],
    ['norm layers:', ([, { layers }]) => formatCount(layers)],
    ['learned tensors:', ([, { learned }]) => formatCount(learned)],
  ]);
}

function renderDrift(report: AuditReport, all: boolean): readonly string[] {
  const leading = report.findings.filter(isFrozenDrift);
  const drifted = new Set(leading.map(({ layer }) => layer));
  const rows = sortByShift(all ? report.layers : report.layers.filter(({ name }) => drifted.has(name)));
  if (rows.length === 0) return [];
  const shown = rows.slice(0, all ? MAX_ROWS : SHOWN_ROWS);
  const table = renderTable(
    shown,
    LAYER_COLUMNS.filter(([title]) => all || title !== 'status'),
  );
  const rest = rows.length - shown.length;
  return [
    ...leading.slice(0, 1).map(nameSort),
    table,
    ...(rest > 0 ? [`… and ${formatPlural(rest, 'more layer')} that moved less.`] : []),
  ];
}

/** A column: its title, which ends in a colon for numbers, and its cell. */
export type Column<Row> = readonly [title: string, cell: (row: Row) => string];

const LAYER_COLUMNS: readonly Column<AuditLayer>[] = [
  ['layer', ({ name }) => showCode(name)],
  ['status', ({ status, allowed }) => (allowed ? `${status} (allowed)` : status)],
  ['channels:', ({ channels, channelsMoved }) => describeChannels(channels, channelsMoved)],
  ['batches:', ({ batches }) => formatBatches(batches)],
  ['mean shift:', ({ meanShift }) => formatOptional(meanShift?.rms, (value) => `${formatMeasure(value)} σ`)],
  ['std ratio:', ({ logStdRatio }) => formatOptional(logStdRatio?.rms, formatStdRatio)],
  [
    'output shift:',
    ({ outputShift }) => formatOptional(outputShift, (value) => `**${formatMeasure(value)}**`),
  ],
];

function describeChannels(channels: number, moved: number | null): string {
  return moved === null || moved === channels
    ? formatCount(channels)
    : `${formatCount(moved)} of ${formatCount(channels)}`;
}

/** Findings grouped by level and kind, errors first, a few of each. */
function renderFindings(findings: readonly Finding[], all: boolean): readonly string[] {
  const limit = all ? SHOWN_FINDINGS * 4 : SHOWN_FINDINGS;
  return groupFindings(findings).map((group) => renderFindingGroup(group, limit));
}

const LEVEL_SIGNS = { error: '❌', warning: '⚠️', note: 'ℹ️' } as const;

/** What a sort of findings is about, and the page that explains it. */
function nameSort({ level, kind, docs }: Finding): string {
  return `${LEVEL_SIGNS[level]} **${titleOf(kind)}** (${level} \`${kind}\`, \`${docs}\`)`;
}

function renderFindingGroup(group: FindingGroup, limit: number): string {
  const rest = group.length - limit;
  return [
    nameSort(group[0]),
    '',
    ...group.slice(0, limit).map(({ layer, message }) => `- ${showCode(layer)}: ${showText(message)}`),
    ...(rest > 0 ? [`- … and ${formatCount(rest)} more`] : []),
  ].join('\n');
}

function renderRegions({ regions }: AuditReport): readonly string[] {
  if (regions.length === 0) return [];
  const sorted = [...regions].sort(
    (x, y) => y.drifted - x.drifted || y.learned.elements - x.learned.elements,
  );
  const rest = sorted.length - SHOWN_ROWS;
  const table = renderTable(sorted.slice(0, SHOWN_ROWS), [
    ['region', ({ path }) => (path === '' ? 'whole model' : showCode(path))],
    [
      'learned tensors',
      ({ status, learned }) =>
        `${formatCount(learned.tensors)} ${status} (${formatMagnitude(learned.elements)} values)`,
    ],
    ['norm layers:', ({ layers }) => formatCount(layers)],
    ['drifted:', ({ drifted }) => (drifted === 0 ? '0' : `**${formatCount(drifted)}**`)],
  ]);
  return [
    fold('Frozen and trained regions', [
      table,
      ...(rest > 0 ? [`… and ${formatPlural(rest, 'more region')}.`] : []),
    ]),
  ];
}

/** What a reader should know beyond the findings: so many of the sentences. */
export function listWarnings(warnings: readonly string[], count = SHOWN_FINDINGS): readonly string[] {
  if (warnings.length === 0) return [];
  const rest = warnings.length - count;
  const lines = warnings.slice(0, count).map((warning) => `> - ${showText(warning)}`);
  return [['> **Note**', ...lines, ...(rest > 0 ? [`> - … and ${formatCount(rest)} more`] : [])].join('\n')];
}

function renderAdvice(report: AuditReport): readonly string[] {
  const advice = adviseFreeze(report);
  if (advice === null) return [];
  const say = (sentence: string) =>
    splitCodeWords(sentence)
      .map((part, index) => (index % 2 === 0 ? part : `\`${part}\``))
      .join('');
  const ways = advice.ways.filter(({ code }) => code.join('\n').length <= MAX_CODE_LENGTH);
  return [
    fold('How to keep it frozen', [
      say(advice.why),
      ...ways.flatMap(({ where, code }) => [say(where), fence(code)]),
      ...(ways.length < advice.ways.length ? ['The code is long: the text report holds it.'] : []),
    ]),
  ];
}

function renderInspection(report: InspectReport, all: boolean): readonly string[] {
  const rows = report.layers.slice(0, all ? MAX_ROWS : SHOWN_ROWS);
  const rest = report.layers.length - rows.length;
  return [
    renderCheckpoints([['', report.checkpoint]]),
    ...renderFindings(report.findings, all),
    ...(rows.length > 0 ? [renderTable(rows, INSPECT_COLUMNS)] : []),
    ...(rest > 0 ? [`… and ${formatPlural(rest, 'more layer')}.`] : []),
    ...listWarnings(report.warnings),
  ];
}

const INSPECT_COLUMNS: readonly Column<InspectLayer>[] = [
  ['layer', ({ name }) => showCode(name)],
  ['status', ({ status }) => status],
  ['channels:', ({ channels }) => formatCount(channels)],
  ['mean rms:', ({ mean }) => formatOptional(mean?.rms, formatMeasure)],
  ['variance:', ({ variance }) => formatOptional(variance?.geometricMean, formatMeasure)],
  ['batches:', ({ batches }) => (batches === null ? '–' : formatCount(batches))],
  ['mode', ({ mode }) => (mode === 'unknown' ? '–' : mode)],
];

/** A table; a title that ends in a colon is that of a column of numbers. */
export function renderTable<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [
    line(columns.map(([title]) => title.replace(/:$/, ''))),
    line(columns.map(([title]) => (title.endsWith(':') ? '--:' : ':--'))),
    ...rows.map((row) => line(columns.map(([, cell]) => cell(row)))),
  ].join('\n');
}

/** A section that is folded away until a reader opens it. */
function fold(title: string, blocks: readonly string[]): string {
  return [`<details><summary>${title}</summary>`, ...blocks, '</details>'].join('\n\n');
}

/** Python in a fence that is longer than any in the code. */
function fence(lines: readonly string[]): string {
  const code = breakFences(lines.join('\n'));
  return ['```python', code, '```'].join('\n');
}

/** Backticks stand in strings only, where Python reads the escape as the character. */
function breakFences(code: string): string {
  return code.replaceAll('`', '\\x60');
}

/**
 * A name as a code span: nothing in it is markup, HTML, a mention or a link. Backticks would end the span, pipes the cell,
 * and an angle bracket is HTML to whoever searches the text for it: all are escaped visibly.
 */
export function showCode(name: string, width: number = MAX_NAME_LENGTH): string {
  return `\`${showSafely(name, width).replace(/[`|<]/g, escapeVisibly)}\``;
}

function escapeVisibly(character: string): string {
  return `\\u{${character.charCodeAt(0).toString(16)}}`;
}

/** Words that no flavour of Markdown takes for markup, a mention or a link. */
const PLAIN_WORD =
  /^(?!www\.)[\p{L}\p{M}\p{N}(][\p{L}\p{M}\p{N}.,;()'’%+–−=/-]*:?$|^(?:--?[\p{L}-]+|[=+–−])$/u;

/** A sentence that may hold names from files: whatever is no plain word is shown as code. */
export function showText(text: string): string {
  const words = escapeControls(text).slice(0, MAX_MESSAGE_LENGTH).toWellFormed().split(/\s+/);
  return words
    .filter((word) => word !== '')
    .map((word) => (PLAIN_WORD.test(word) ? word : showCode(word)))
    .join(' ');
}

/** So many checkpoints have a row; with the longest names these leave half a comment free. */
const MAX_AUDITS = 60;

function renderSet(set: ReportSet, all: boolean): string {
  const limit = all ? MAX_SUMMARY_LENGTH : MAX_COMMENT_LENGTH;
  const sign = OUTCOME_SIGNS[set.verdict];
  const before = getCommonBefore(set);
  const head = [
    `### ${sign} ${countOutcomes(set)}`,
    ...(before === null ? [] : [`Compared with ${showCode(before)}.`]),
    ...renderRows(set, before === null),
    ...namePages(set),
  ].join('\n\n');
  let text = `${head}\n`;
  for (const report of listDetailed(set, all)) {
    const details = `\n${renderOne(report, all)}`;
    if (byteLengthOf(text) + byteLengthOf(details) > limit) {
      return `${text}\n*Too long for here: more reports left out.*\n`;
    }
    text += details;
  }
  return text;
}

/** The pages of all kinds of finding: a row of the table tells what was found, and not where to read on. */
function namePages({ heads }: ReportSet): readonly string[] {
  const kinds = listKinds(heads.flatMap(({ findings }) => findings));
  const pages = kinds.map((kind) => `\`${makeFinding(kind, '', '').docs}\``);
  return pages.length === 0 ? [] : [`What these findings mean: ${pages.join(', ')}.`];
}

/** What could not be audited comes first: it is easily overlooked. */
function renderRows({ reports, failures }: ReportSet, isBeforeShown: boolean): readonly string[] {
  const name = (before: string, after: string) =>
    isBeforeShown ? `${showCode(before)} → ${showCode(after)}` : showCode(after);
  const rows = [
    ...failures.map(({ before, after, message }) => [
      `${OUTCOME_SIGNS.failed} Failed`,
      name(before, after),
      showCode(message, MAX_MESSAGE_LENGTH),
    ]),
  ];
  for (const report of reports) {
    const { outcome, word, headline } = describeAnswer(report, showCode);
    rows.push([`${OUTCOME_SIGNS[outcome]} ${word}`, name(report.before.path, report.after.path), headline]);
  }
  const shown = rows.slice(0, MAX_AUDITS);
  const table = [
    '| | checkpoint | |',
    '| :-- | :-- | :-- |',
    ...shown.map((cells) => `| ${cells.join(' | ')} |`),
  ];
  const rest = rows.length - shown.length;
  return [table.join('\n'), ...(rest > 0 ? [`… and ${formatPlural(rest, 'more checkpoint')}.`] : [])];
}

function byteLengthOf(text: string): number {
  return new TextEncoder().encode(text).length;
}
