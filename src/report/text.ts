// Reports as text for the terminal.

import { type Finding, type FindingLevel, titleOf } from '../compare/findings.js';
import { escapeControls, failUnreachable, toShellWord } from '../errors.js';
import { type Answer, describeAnswer, nameEquality, type Outcome } from './answer.js';
import { type AnyReport, isAudit, writePhrase } from './any-report.js';
import type { AuditLayer, AuditReport } from './audit-report.js';
import { countOutcomes, getCommonBefore, isAuditSet, listDetailed, type ReportSet } from './audit-set.js';
import { describeReport } from './describe-report.js';
import { type Block, type Document, type Fact, listChannels, type Table } from './document.js';
import { type FindingGroup, groupFindings, groupFindingsBy, listKinds } from './finding-groups.js';
import type { Advice } from './fix-advice.js';
import { formatBar, formatCount, formatMeasure, formatPlural } from './format-numbers.js';
import { formatLayers } from './layer-nouns.js';
import { listNextCommands } from './next-commands.js';
import {
  chooseLayout,
  fitName,
  layOutTable,
  MAX_NAME_LENGTH,
  type Pieces,
  type PrintingOptions,
  plain,
  showName,
  type TableColumn,
  type TextLayout,
  type TextOptions,
  type Tone,
  wrapText,
  writeBlocks,
} from './text-layout.js';

/** Lines that belong together, between empty ones. */
type Lines = readonly string[];

/**
 * A report as text for a terminal. An audit: the answer in a line or two, the worst layers, what else was found, what is
 * fine, and how to keep the frozen part still; or one layer alone. An inspection: every norm layer, then what is wrong.
 * Several audits: a line for each checkpoint, then the whole report of the one that drifted most, or, with `all`, of
 * every one that drifted.
 *
 * @throws RangeError when `layer` names none of the report's layers.
 */
export function renderText(report: AnyReport | ReportSet, options: PrintingOptions): Pieces {
  const layout = chooseLayout(options);
  if (isAuditSet(report)) return writeBlocks(layOutSet(report, layout));
  if (!isAudit(report) || options.layer === undefined)
    return writeBlocks([
      ...layOutDocument(describeReport(report, layout), layout),
      isAudit(report) ? layOutNext(report, options.matching ?? [], layout) : [],
      layOutPages(report.findings, layout),
    ]);
  const layer = report.layers.find(({ name }) => name === options.layer);
  if (layer === undefined) throw new RangeError(`the report has no layer ${options.layer}`);
  return writeBlocks(layOutLayer(layer, layout));
}

/** What a report says as text for a terminal, with a line end. */
export function writeText(document: Document, options: TextOptions): string {
  return [...writeBlocks(layOutDocument(document, chooseLayout(options)))].join('');
}

function layOutDocument({ facts, answer, blocks }: Document, layout: TextLayout): readonly Lines[] {
  return [
    layOutFacts(facts, layout),
    layOutAnswer(answer, layout),
    ...blocks.flatMap((block) => layOutBlock(block, layout)),
  ];
}

function layOutBlock(block: Block, layout: TextLayout): readonly Lines[] {
  switch (block.kind) {
    case 'table':
      return [layOutRows(block, layout)];
    case 'findings':
      return groupFindings(block.findings).map((group) => layOutGroup(group, layout));
    case 'regions':
      return [layOutRegions(block.report, layout)];
    case 'notes':
      return [layOutNotes(block.notes, layout)];
    case 'moves':
      return [];
    case 'terms': {
      const lines = layOutTerms(block.terms, { ...layout, paint: plain });
      // Under a title they are what the report says; without one they explain it.
      const { title } = block;
      return [
        title === undefined
          ? lines.map((line) => layout.paint('faint', line))
          : [layout.paint('strong', title), ...lines],
      ];
    }
    case 'remedies':
      return block.remedies.map((remedy) => layOutSection('What to do', [remedy], layout));
    case 'advice':
      return [layOutAdvice(block.advice, layout)];
    default:
      return failUnreachable(block);
  }
}

function layOutFacts(facts: readonly Fact[], layout: TextLayout): Lines {
  const labelWidth = Math.max(...facts.map(({ role }) => role.length));
  const rows = facts.map(({ role, what, contents }) => ({
    label: role,
    tone: 'faint' as const,
    name: writePhrase(what, (name) => fitName(name, layout.width - labelWidth - 2, layout)),
    about: contents.join(', '),
  }));
  return layOutNamed(rows, layout, { isAlike: true });
}

interface NamedLine {
  readonly label: string;
  readonly tone: Tone;
  readonly name: string;
  /** Stands in the line where it fits, else below. */
  readonly about: string;
}

/**
 * Lays out what is said of several names.
 *
 * @param isAlike whether all stand below where one does.
 */
export function layOutNamed(
  rows: readonly NamedLine[],
  layout: Pick<TextLayout, 'width' | 'wholeNames' | 'paint'>,
  { isAlike }: { readonly isAlike: boolean },
): Lines {
  const { width, paint } = layout;
  const labelWidth = Math.max(...rows.map(({ label }) => label.length));
  const indent = ' '.repeat(labelWidth + 2);
  const filled = rows.filter(({ about }) => about !== '');
  const nameWidth = Math.max(...filled.map(({ name }) => [...name].length));
  const fits = ({ about }: NamedLine) => indent.length + nameWidth + 2 + [...about].length <= width;
  const isNarrow = isAlike && !filled.every(fits);
  return rows.flatMap((row) => {
    const head = `${paint(row.tone, row.label.padEnd(labelWidth))}  ${row.name}`;
    if (row.about === '') return [head];
    const gap = ' '.repeat(Math.max(0, nameWidth - [...row.name].length) + 2);
    return fits(row) && !isNarrow
      ? [head + gap + paint('faint', row.about)]
      : [
          head,
          ...wrapText(row.about, { ...layout, indent }).map(
            (line) => indent + paint('faint', line.trimStart()),
          ),
        ];
  });
}

const OUTCOME_SIGNS: Readonly<Record<Outcome, readonly [sign: string, tone: Tone]>> = {
  failed: ['✖', 'error'],
  drifted: ['✖', 'error'],
  unhealthy: ['✖', 'error'],
  warned: ['!', 'warning'],
  clean: ['✔', 'good'],
};

/** What an audit came to, as a line among others says it. */
export function describeOutcome(
  report: AuditReport,
  layout: Pick<TextLayout, 'wholeNames'>,
): Omit<NamedLine, 'name'> {
  const { outcome, word, headline } = describeAnswer(report);
  const [sign, tone] = OUTCOME_SIGNS[outcome];
  return { label: `${sign} ${word.toLowerCase()}`, tone, about: sayPhrase(headline, layout) };
}

/** Names in sentences are cut to this many characters. */
const NAME_WIDTH = 50;

function sayPhrase(phrase: string, layout: Pick<TextLayout, 'wholeNames'>): string {
  return writePhrase(phrase, (name) => fitName(name, NAME_WIDTH, layout));
}

/** The answer: a headline, and a few lines that a human can act on. */
function layOutAnswer({ outcome, word, headline, explanation }: Answer, layout: TextLayout): Lines {
  const { paint } = layout;
  const [sign, tone] = OUTCOME_SIGNS[outcome];
  const label = `${sign} ${word.toUpperCase()}`;
  const indent = ' '.repeat(label.length + 2);
  const [first = '', ...rest] = wrapText(sayPhrase(headline, layout), { ...layout, indent });
  return [
    `${paint(tone, label)}  ${paint('strong', first.trimStart())}`,
    ...rest.map((line) => paint('strong', line)),
    ...wrapText(sayPhrase(explanation, layout), { ...layout, indent: '  ' }),
  ];
}

/** Text behind a label, two spaces apart; the indent of its further lines is as wide as the two. */
function hang(label: string, text: string, layout: TextLayout & { readonly indent: string }): Lines {
  const [first = '', ...rest] = wrapText(text, layout);
  return [`${label}  ${first.trimStart()}`, ...rest];
}

/** Cells of a bar beside a number. */
const BAR_CELLS = 7;

type Row = ReturnType<Table['take']>[number];

function layOutRows(table: Table, layout: TextLayout): Lines {
  if (table.length === 0) return [];
  const { paint, all } = layout;
  const rows = table.take(all ? table.length : table.shown.text, true);
  const margin = table.isFlush ? '' : '  ';
  const columns = table.columns.flatMap((column, index): readonly TableColumn<Row>[] => {
    const { text = {}, title, isNumber, isSpare, bar, full } = column;
    if (text === false) return [];
    const say = (row: Row) =>
      writePhrase(row[index]?.phrase ?? '', (name) => showName(name, MAX_NAME_LENGTH));
    const shown = {
      title: text.title ?? title,
      align: isNumber ? 'right' : 'left',
      cell: say,
      isSpare,
    } as const;
    if (bar === undefined || text.hasNoBar) return [shown];
    const sizes = rows.map((row) => row[index]?.size ?? 0);
    const longest = full ?? Math.max(...sizes.map((size) => (Number.isFinite(size) ? size : 0)));
    const draw = (row: Row) => formatBar(row[index]?.size ?? 0, { full: longest, cells: BAR_CELLS });
    return [{ ...shown, title, roomyCell: (row) => `${draw(row).padEnd(BAR_CELLS)} ${say(row)}` }];
  });
  const tableWidth = layout.tableWidth - margin.length;
  const lines = layOutTable(rows, columns, { ...layout, tableWidth });
  // The header, and what all names begin with over it.
  const heads = lines.length - rows.length;
  const more = table.length - rows.length;
  const left = `… ${formatPlural(more, `more ${table.noun}`)}${table.rest ?? ''} (--all)`;
  return [
    ...wrapText(table.title ?? '', { ...layout, indent: '' }).map((line) => paint('strong', line)),
    ...lines.map((line, index) => (index < heads ? paint('faint', margin + line) : margin + line)),
    ...[...(more > 0 ? [left] : []), table.footnote ?? ''].flatMap((line) =>
      wrapText(line, { ...layout, indent: margin }).map((part) => paint('faint', part)),
    ),
  ];
}

/** So many layers of one sort are named unless all are asked for. */
const NAMED_LAYERS = 6;

const SIGNS: Readonly<Record<FindingLevel, string>> = { error: '✖', warning: '!', note: '·' };
const TONES = { error: 'error', warning: 'warning', note: 'faint' } as const;

/** What to do about drift: commands that are ready to run. */
function layOutNext(report: AuditReport, matching: readonly string[], layout: TextLayout): Lines {
  const commands = listNextCommands(report, matching).map((words) => words.map(toShellWord).join(' '));
  return layOutCommands(
    'next',
    commands.map((command) => `bn-audit ${command}`),
    layout,
  );
}

/** Where to read on: the command that prints the page of each kind. */
function layOutPages(findings: readonly Finding[], layout: TextLayout): Lines {
  const commands = listKinds(findings).map((kind) => `bn-audit explain ${kind}`);
  return layOutCommands('more', commands, layout);
}

/** Commands to go on with, in a line each, with what they are for before the first. */
export function layOutCommands(
  label: string,
  commands: readonly string[],
  { paint }: Pick<TextLayout, 'paint'>,
): Lines {
  return commands.map(
    (command, index) => `${paint('faint', index === 0 ? label : ' '.repeat(label.length))}  ${command}`,
  );
}

function layOutGroup(group: FindingGroup, layout: TextLayout): Lines {
  const [{ level, kind }] = group;
  const label = `${SIGNS[level]} ${level}`;
  const indent = ' '.repeat(label.length + 2);
  const head = `${titleOf(kind)} (${kind})`;
  return [
    ...hang(layout.paint(TONES[level], label), head, { ...layout, indent }),
    ...groupFindingsBy(group, ({ message }) => message.replace(/\d[\d.e+-]*/g, '#')).flatMap((alike) =>
      layOutAlike(alike, layout),
    ),
  ];
}

/** Messages that differ in their numbers alone are one message: the first is shown, the layers of all are named. */
function layOutAlike([first, ...others]: FindingGroup, layout: TextLayout): Lines {
  const { all } = layout;
  const lines = wrapText(`${fitName(first.layer, 60, layout)}: ${escapeControls(first.message)}`, {
    ...layout,
    indent: '    ',
  });
  const [line = '', ...rest] = lines;
  const shown = all ? others : others.slice(0, NAMED_LAYERS);
  const names = shown.map(({ layer }) => fitName(layer, 60, layout)).join(', ');
  const more = others.length > shown.length ? ` … ${others.length - shown.length} more (--all)` : '';
  const likewise = others.length === 0 ? '' : `likewise ${names}${more}`;
  return [`  ${line.trimStart()}`, ...rest, ...wrapText(likewise, { ...layout, indent: '    ' })];
}

/** So many findings of a kind, regions and notes are shown unless all are asked for. */
const SHOWN_FINDINGS = 5;

/** Regions without drift, in one line each: what is fine. */
function layOutRegions({ regions, layers }: AuditReport, layout: TextLayout): Lines {
  const { paint, all } = layout;
  const fine = regions.filter(({ drifted }) => drifted === 0);
  const shown = all
    ? fine
    : [...fine].sort((x, y) => y.learned.elements - x.learned.elements).slice(0, SHOWN_FINDINGS);
  const statuses = listStatuses(shown, layers);
  const lines = shown.flatMap((region) => {
    const { learned, path, status } = region;
    const count = `${formatCount(status === 'frozen' ? learned.equal : learned.tensors - learned.equal)} of ${formatPlural(learned.tensors, 'learned tensor')} ${status === 'frozen' ? nameEquality([region]) : 'changed'}`;
    const inside =
      region.layers === 0
        ? 'no norm layer'
        : `${formatLayers(region.layers, layers)} ${[...(statuses.get(path) ?? [])].join(', ')}`;
    const said = `${fitName(path === '' ? '(whole model)' : path, 50, layout)}: ${count}, ${inside}`;
    return hang(`${paint('good', '✔')} ${status.padEnd(7)}`, said, { ...layout, indent: '           ' });
  });
  const more = fine.length - shown.length;
  return more > 0 ? [...lines, paint('faint', `  … ${more} more regions (--all)`)] : lines;
}

/** The statuses of the layers in each region, by its path. */
function listStatuses(
  regions: AuditReport['regions'],
  layers: readonly AuditLayer[],
): ReadonlyMap<string, ReadonlySet<string>> {
  const byPath = new Map(regions.map(({ path }) => [path, new Set<string>()]));
  const lengths = [...new Set(regions.map(({ path }) => path.length))];
  for (const { name, status } of layers)
    for (const length of lengths)
      if (length === 0 || length === name.length || name[length] === '.')
        byPath.get(name.slice(0, length))?.add(status);
  return byPath;
}

function layOutNotes(notes: readonly string[], layout: TextLayout): Lines {
  const { paint, all } = layout;
  const shown = all ? notes : notes.slice(0, SHOWN_FINDINGS);
  const hanging = { ...layout, indent: '        ' };
  const lines = shown.flatMap((note) => hang(paint('warning', '! note'), escapeControls(note), hanging));
  const more = notes.length - shown.length;
  return more > 0 ? [...lines, paint('faint', `  … ${formatCount(more)} more (--all)`)] : lines;
}

/** Terms, each with its meaning beside it; below it where the terms take more than half of the line. */
export function layOutTerms(
  terms: Extract<Block, { kind: 'terms' }>['terms'],
  layout: TextLayout,
  indent = '  ',
): Lines {
  const termWidth = Math.max(...terms.map(([term]) => [...term].length));
  const isNarrow = indent.length + termWidth > layout.width / 2;
  const margin = indent + ' '.repeat(isNarrow ? 2 : termWidth + 2);
  return terms.flatMap(([term, meaning]) => {
    const lines = wrapText(sayPhrase(meaning, layout), { ...layout, indent: margin });
    const [name = '', ...more] = wrapText(term, { ...layout, indent }).map((line) =>
      layout.paint('strong', line),
    );
    if (isNarrow) return [name, ...more, ...lines];
    const [first = '', ...rest] = lines;
    const gap = ' '.repeat(termWidth - [...term].length + 2);
    return [`${name}${gap}${first.slice(margin.length)}`, ...rest];
  });
}

function layOutSection(title: string, sentences: readonly string[], layout: TextLayout): Lines {
  return [
    layout.paint('strong', title),
    ...sentences.flatMap((sentence) => wrapText(sentence, { ...layout, indent: '  ' })),
  ];
}

function layOutAdvice({ why, ways }: Advice, layout: TextLayout): Lines {
  const [first, ...others] = ways;
  const show = (code: readonly string[]) => ['', ...code.map((line) => (line === '' ? '' : `      ${line}`))];
  return [
    ...layOutSection('How to keep it frozen', [first === undefined ? why : `${why} ${first.where}`], layout),
    ...(first === undefined ? [] : show(first.code)),
    ...others.flatMap(({ where, code }) => [
      '',
      ...wrapText(where, { ...layout, indent: '  ' }),
      ...show(code),
    ]),
  ];
}

/** One layer channel by channel; a sentence where folding or an unreadable statistic hides the channels. */
function layOutLayer(layer: AuditLayer, layout: TextLayout): readonly Lines[] {
  const { name, kind, status, epsilon, epsilonAfter, channels, channelsMoved, outputShift } = layer;
  const head = `${layout.paint('strong', fitName(name, 120, layout))}  ${showName(kind, 40)}, ${status}, ${formatPlural(channels, 'channel')}, ε ${epsilon}${epsilonAfter === undefined ? '' : `, in after ${epsilonAfter}`}`;
  const table = listChannels(layer, layout);
  if (table === null) return [[head, '  Its statistics cannot be read on both sides.']];
  const moved = `  ${formatCount(channelsMoved ?? 0)} of ${formatPlural(channels, 'channel')} moved; output shift ${outputShift === null ? '–' : formatMeasure(outputShift)}`;
  return [[head, moved], layOutRows(table, layout)];
}

function* layOutSet(set: ReportSet, layout: TextLayout): Iterable<Lines> {
  const before = getCommonBefore(set);
  const nameOf = (one: { before: string; after: string }) =>
    before === null ? `${one.before} → ${one.after}` : one.after;
  const nameReport = (report: AuditReport) =>
    nameOf({ before: report.before.path, after: report.after.path });
  const outcomes: NamedLine[] = [];
  for (const report of set.reports)
    outcomes.push({ name: nameReport(report), ...describeOutcome(report, layout) });
  for (const failure of set.failures) {
    const { message, hint } = failure;
    const about = escapeControls(hint === null ? message : `${message}. ${hint}`);
    outcomes.push({ label: '✖ failed', tone: 'error', name: nameOf(failure), about });
  }
  if (before !== null)
    yield [`${layout.paint('faint', 'before')}  ${fitName(before, layout.width - 8, layout)}`];
  const room = layout.width - Math.max(...outcomes.map(({ label }) => label.length)) - 2;
  yield layOutNamed(
    outcomes.map((one) => ({ ...one, name: fitName(one.name, room, layout) })),
    layout,
    { isAlike: false },
  );
  yield [layout.paint('strong', countOutcomes(set))];
  for (const report of listDetailed(set, layout.all)) {
    const title = `── ${fitName(nameReport(report), layout.width - 8, layout)} `;
    yield [layout.paint('faint', title.padEnd(layout.width, '─'))];
    yield* layOutDocument(describeReport(report, layout), layout);
  }
  yield layOutPages(
    set.heads.flatMap(({ findings }) => findings),
    layout,
  );
}
