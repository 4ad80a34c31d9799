// Markdown, for comments on pull requests and job summaries.

import { type Finding, type FindingKind, titleOf } from '../compare/findings.js';
import { escapeControls, failUnreachable } from '../errors.js';
import { describeAnswer, type Outcome } from './answer.js';
import { type AnyReport, LIMITS, showSafely, writePhrase } from './any-report.js';
import type { AuditReport } from './audit-report.js';
import { countOutcomes, getCommonBefore, isAuditSet, listDetailed, type ReportSet } from './audit-set.js';
import { describeReport } from './describe-report.js';
import type { Block, Document, Fact, Table } from './document.js';
import { type FindingGroup, groupFindings, listKinds } from './finding-groups.js';
import { findPage } from './finding-help.js';
import { type Advice, splitCodeWords } from './fix-advice.js';
import { formatCount, formatMagnitude, formatPlural } from './format-numbers.js';
import { nameLayers } from './layer-nouns.js';
import { NO_VALUE, type Pieces, type TextOptions } from './text-layout.js';

/** GitHub refuses longer comments, counted in characters. */
export const MAX_COMMENT_LENGTH = 65_536;

/** GitHub refuses a longer job summary of one step: 1 MiB. Room is left for what else the step writes. */
export const MAX_SUMMARY_LENGTH = 1_000_000;

/** With all rows asked for: even with the longest names these leave half a summary free. */
const MAX_ROWS = 500;

/** So many findings of a kind and notes are shown; with all rows asked for, four times as many. */
const SHOWN_FINDINGS = 5;
const SHOWN_REGIONS = 20;

/** Longer code is of no use to a reader, and would fill a comment; a text report prints any. */
const MAX_CODE_LENGTH = 16_000;

/** What stands before an outcome's word. */
const OUTCOME_SIGNS: Readonly<Record<Outcome, string>> = {
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
  const pages =
    report.findings.length > 0 ? ' · `bn-audit explain KIND` prints the page about a kind of finding' : '';
  return writeMarkdown(describeReport(report, { all }), {
    all,
    foot: `${report.tool.name} ${report.tool.version}${pages}`,
  });
}

/** What a report says as Markdown; what does not fit a comment, or with all rows a job summary, is left out. */
export function writeMarkdown(
  { answer, facts, blocks }: Document,
  { all, foot }: { readonly all: boolean; readonly foot: string },
): string {
  const limit = all ? MAX_SUMMARY_LENGTH : MAX_COMMENT_LENGTH;
  const written = [
    `### ${OUTCOME_SIGNS[answer.outcome]} ${answer.word}: ${sayPhrase(answer.headline)}`,
    sayPhrase(answer.explanation),
    writeFacts(facts),
    ...blocks.flatMap((block) => writeBlock(block, all)),
  ];
  return `${fitBlocks(written, limit - 200).join('\n\n')}\n\n<sub>${foot}</sub>\n`;
}

function sayPhrase(phrase: string): string {
  return writePhrase(phrase, showCode);
}

/** Blocks, the last left out that do not fit, with a word about it. Tables count their own rows. */
function fitBlocks(blocks: readonly string[], limit: number): readonly string[] {
  let length = 0;
  const fitting = blocks.filter((block) => {
    length += Buffer.byteLength(block) + 2;
    return length <= limit;
  });
  const dropped = blocks.length - fitting.length;
  return dropped > 0
    ? [...fitting, `*Too long for here: ${formatPlural(dropped, 'section')} left out.*`]
    : fitting;
}

function writeBlock(block: Block, all: boolean): readonly string[] {
  switch (block.kind) {
    case 'table':
      return writeRows(block, all);
    case 'findings':
      return groupFindings(block.findings).map((group) => writeGroup(group, all));
    case 'regions':
      return writeRegions(block.report);
    case 'notes':
      return writeNotes(block.notes, all);
    case 'moves':
      return [];
    case 'terms':
      return [
        ...(block.title === undefined ? [] : [`**${block.title}.**`]),
        block.terms.map(([term, meaning]) => `- **${term}**: ${sayPhrase(meaning)}`).join('\n'),
      ];
    case 'remedies':
      return block.remedies.map((remedy) => `**What to do.** ${remedy}`);
    case 'advice':
      return [writeAdvice(block.advice)];
    default:
      return failUnreachable(block);
  }
}

function writeFacts(facts: readonly Fact[]): string {
  return writeTable(
    ['', 'checkpoint', ''],
    facts.map(({ role, what, contents }) => [role, sayPhrase(what), contents.join(', ')]),
  );
}

function writeRows(table: Table, all: boolean): readonly string[] {
  if (table.length === 0) return [];
  const { columns, noun, sort } = table;
  const rows = table.take(all ? Math.max(MAX_ROWS, table.shown.markdown) : table.shown.markdown, false);
  const cells = rows.map((row) =>
    row.map(({ phrase }, index) => {
      const said = sayPhrase(phrase);
      return columns[index]?.isStrong && said !== NO_VALUE ? `**${said}**` : said;
    }),
  );
  const titles = columns.map(({ title, isNumber }) => (isNumber ? `${title}:` : title));
  const more = table.length - rows.length;
  return [
    ...(sort === undefined ? [] : [nameSort(sort)]),
    writeTable(titles, cells),
    ...(more > 0 ? [`… and ${formatPlural(more, `more ${noun}`)}${table.rest ?? ''}.`] : []),
  ];
}

const LEVEL_SIGNS = { error: '❌', warning: '⚠️', note: 'ℹ️' } as const;

/** The page of a kind of finding: its address, which Markdown links, or the command that prints it. */
function namePage(kind: FindingKind): string {
  const page = findPage(kind);
  return page.startsWith('https:') ? `<${page}>` : `\`${page}\``;
}

/** What a sort of findings is about, and the page that explains it. */
function nameSort({ level, kind }: Finding): string {
  return `${LEVEL_SIGNS[level]} **${titleOf(kind)}** (${level} \`${kind}\`, ${namePage(kind)})`;
}

function writeGroup(group: FindingGroup, all: boolean): string {
  const limit = all ? SHOWN_FINDINGS * 4 : SHOWN_FINDINGS;
  const rest = group.length - limit;
  return [
    nameSort(group[0]),
    '',
    ...group.slice(0, limit).map(({ layer, message }) => `- ${showCode(layer)}: ${showText(message)}`),
    ...(rest > 0 ? [`- … and ${formatCount(rest)} more`] : []),
  ].join('\n');
}

function writeRegions({ regions, layers: all }: AuditReport): readonly string[] {
  if (regions.length === 0) return [];
  const sorted = [...regions].sort(
    (x, y) => y.drifted - x.drifted || y.learned.elements - x.learned.elements,
  );
  const rest = sorted.length - SHOWN_REGIONS;
  const table = writeTable(
    ['region', 'learned tensors', `${nameLayers(all)}:`, 'drifted:'],
    sorted
      .slice(0, SHOWN_REGIONS)
      .map(({ path, status, learned, layers, drifted }) => [
        path === '' ? 'whole model' : showCode(path),
        `${formatCount(learned.tensors)} ${status} (${formatMagnitude(learned.elements)} values)`,
        formatCount(layers),
        drifted === 0 ? '0' : `**${formatCount(drifted)}**`,
      ]),
  );
  return [
    fold('Frozen and trained regions', [
      table,
      ...(rest > 0 ? [`… and ${formatPlural(rest, 'more region')}.`] : []),
    ]),
  ];
}

function writeNotes(notes: readonly string[], all: boolean): readonly string[] {
  if (notes.length === 0) return [];
  const count = all ? SHOWN_FINDINGS * 4 : SHOWN_FINDINGS;
  const rest = notes.length - count;
  const lines = notes.slice(0, count).map((note) => `> - ${showText(note)}`);
  return [['> **Note**', ...lines, ...(rest > 0 ? [`> - … and ${formatCount(rest)} more`] : [])].join('\n')];
}

function writeAdvice(advice: Advice): string {
  const say = (sentence: string) =>
    splitCodeWords(sentence)
      .map((part, index) => (index % 2 === 0 ? part : `\`${part}\``))
      .join('');
  const ways = advice.ways.filter(({ code }) => code.join('\n').length <= MAX_CODE_LENGTH);
  return fold('How to keep it frozen', [
    say(advice.why),
    ...ways.flatMap(({ where, code }) => [say(where), fence(code)]),
    ...(ways.length < advice.ways.length ? ['The code is long: the text report holds it.'] : []),
  ]);
}

/** A table; a title that ends in a colon is that of a column of numbers. */
function writeTable(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [
    line(titles.map((title) => title.replace(/:$/, ''))),
    line(titles.map((title) => (title.endsWith(':') ? '--:' : ':--'))),
    ...rows.map(line),
  ].join('\n');
}

function fold(title: string, blocks: readonly string[]): string {
  return [`<details><summary>${title}</summary>`, ...blocks, '</details>'].join('\n\n');
}

/** Python in a fence. Backticks stand in strings only, where Python reads the escape as the character. */
function fence(lines: readonly string[]): string {
  return ['```python', lines.join('\n').replaceAll('`', '\\x60'), '```'].join('\n');
}

/**
 * A name as a code span: nothing in it is markup, HTML, a mention or a link. Backticks would end the span, pipes the cell,
 * and an angle bracket is HTML to whoever searches the text for it: all are escaped visibly.
 */
export function showCode(name: string, width: number = LIMITS.markdown.name): string {
  return `\`${showSafely(name, width).replace(/[`|<]/g, (character) => `\\u{${character.charCodeAt(0).toString(16)}}`)}\``;
}

/** Words that no flavour of Markdown takes for markup, a mention or a link. */
const PLAIN_WORD =
  /^(?!www\.)[\p{L}\p{M}\p{N}(][\p{L}\p{M}\p{N}.,;()'’%+–−=/-]*:?$|^(?:--?[\p{L}-]+|[=+–−])$/u;

/** A sentence that may hold names from files: whatever is no plain word is shown as code. */
export function showText(text: string): string {
  const words = escapeControls(text).slice(0, LIMITS.markdown.message).toWellFormed().split(/\s+/);
  return words
    .filter((word) => word !== '')
    .map((word) => (PLAIN_WORD.test(word) ? word : showCode(word)))
    .join(' ');
}

/** So many checkpoints have a row; with the longest names these leave half a comment free. */
const MAX_AUDITS = 60;

function renderSet(set: ReportSet, all: boolean): string {
  const limit = all ? MAX_SUMMARY_LENGTH : MAX_COMMENT_LENGTH;
  const before = getCommonBefore(set);
  const head = [
    `### ${OUTCOME_SIGNS[set.verdict]} ${countOutcomes(set)}`,
    ...(before === null ? [] : [`Compared with ${showCode(before)}.`]),
    ...renderRows(set, before === null),
    ...namePages(set),
  ].join('\n\n');
  let text = `${head}\n`;
  for (const report of listDetailed(set, all)) {
    const details = `\n${renderOne(report, all)}`;
    if (Buffer.byteLength(text) + Buffer.byteLength(details) > limit)
      return `${text}\n*Too long for here: more reports left out.*\n`;
    text += details;
  }
  return text;
}

/** The pages of all kinds of finding: a row of the table tells what was found, and not where to read on. */
function namePages({ heads }: ReportSet): readonly string[] {
  const kinds = listKinds(heads.flatMap(({ findings }) => findings));
  const pages = kinds.map(namePage);
  return pages.length === 0 ? [] : [`What these findings mean: ${pages.join(', ')}.`];
}

/** What could not be audited comes first: it is easily overlooked. */
function renderRows({ reports, failures }: ReportSet, isBeforeShown: boolean): readonly string[] {
  const name = (before: string, after: string) =>
    isBeforeShown ? `${showCode(before)} → ${showCode(after)}` : showCode(after);
  const rows = failures.map(({ before, after, message }) => [
    `${OUTCOME_SIGNS.failed} Failed`,
    name(before, after),
    showCode(message, LIMITS.markdown.message),
  ]);
  for (const report of reports) {
    const { outcome, word, headline } = describeAnswer(report);
    const path = name(report.before.path, report.after.path);
    rows.push([`${OUTCOME_SIGNS[outcome]} ${word}`, path, sayPhrase(headline)]);
  }
  const shown = rows.slice(0, MAX_AUDITS);
  const rest = rows.length - shown.length;
  return [
    writeTable(['', 'checkpoint', ''], shown),
    ...(rest > 0 ? [`… and ${formatPlural(rest, 'more checkpoint')}.`] : []),
  ];
}
