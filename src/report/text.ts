// Reports as text for the terminal.

import { type Finding, type FindingLevel, isLeadingDrift, titleOf } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import {
  describeAnswer,
  isBiasOnly,
  keepCurableByEval,
  listRemedies,
  nameEquality,
  type Outcome,
} from './answer.js';
import {
  type AnyReport,
  type FindingGroup,
  groupFindings,
  groupFindingsBy,
  isAudit,
  listKinds,
} from './any-report.js';
import {
  type AuditLayer,
  type AuditReport,
  type CheckpointSummary,
  groupNotes,
  sortByShift,
} from './audit-report.js';
import {
  type AuditFailure,
  countOutcomes,
  getCommonBefore,
  isAuditSet,
  listDetailed,
  type ReportSet,
} from './audit-set.js';
import { adviseFreeze, isFrozenDrift } from './fix-advice.js';
import {
  formatBar,
  formatBatches,
  formatCount,
  formatMeasure,
  formatOptional,
  formatPlural,
  formatStdRatio,
} from './format-numbers.js';
import type { InspectLayer, InspectReport } from './inspect-report.js';
import {
  chooseLayout,
  layOutTable,
  NO_VALUE,
  type Pieces,
  type RendererOptions,
  showName,
  type TableColumn,
  type TextLayout,
  type Tone,
  wrapText,
  writeBlocks,
} from './text-layout.js';

/** The sign and the colour of an outcome. */
const OUTCOME_SIGNS: Readonly<Record<Outcome, readonly [sign: string, tone: Tone]>> = {
  failed: ['✖', 'error'],
  drifted: ['✖', 'error'],
  unhealthy: ['✖', 'error'],
  warned: ['!', 'warning'],
  clean: ['✔', 'good'],
};

/** Names in the answer's sentences are cut to this many characters. */
const NAME_WIDTH = 50;

/** The answer of a report: a headline, and a few lines that a human can act on. */
function renderAnswer(report: AnyReport, { paint, width }: TextLayout): readonly string[] {
  const { outcome, word, headline, explanation } = describeAnswer(report, (name) =>
    showName(name, NAME_WIDTH),
  );
  const [sign, tone] = OUTCOME_SIGNS[outcome];
  const label = `${sign} ${word.toUpperCase()}`;
  const [first = '', ...rest] = wrapText(headline, { width, indent: ' '.repeat(label.length + 2) });
  return [
    `${paint(tone, label)}  ${paint('strong', first.trimStart())}`,
    ...rest.map((line) => paint('strong', line)),
    ...wrapText(explanation, { width, indent: '  ' }),
  ];
}

/** So many layers of one sort are named unless all are asked for. */
const NAMED_LAYERS = 6;

const SIGNS: Readonly<Record<FindingLevel, string>> = { error: '✖', warning: '!', note: '·' };
const TONES = { error: 'error', warning: 'warning', note: 'faint' } as const;

/** Findings as blocks of lines, one block a kind and level, errors first. */
function renderFindingGroups(
  findings: readonly Finding[],
  layout: TextLayout,
): readonly (readonly string[])[] {
  return groupFindings(findings).map((group) => renderGroup(group, layout));
}

/** Where to read on: the command that prints the page of each kind, in a line each. */
function renderPages(findings: readonly Finding[], { paint }: Pick<TextLayout, 'paint'>): readonly string[] {
  return listKinds(findings).map((kind, index) => {
    const label = index === 0 ? 'more' : '    ';
    return `${paint('faint', label)}  bn-audit explain ${kind}`;
  });
}

function renderGroup(group: FindingGroup, layout: TextLayout): readonly string[] {
  const [{ level, kind }] = group;
  const label = `${SIGNS[level]} ${level}`;
  const indent = ' '.repeat(label.length + 2);
  const [first = '', ...rest] = wrapText(`${titleOf(kind)} (${kind})`, {
    width: layout.width,
    indent,
  });
  const head = [layout.paint(TONES[level], label) + first.slice(label.length), ...rest];
  return [...head, ...groupFindingsBy(group, shapeOf).flatMap((alike) => renderAlike(alike, layout))];
}

/** Messages that differ in their numbers alone are one message: the first is shown, the layers of all are named. */
function renderAlike([first, ...others]: FindingGroup, { width, paint, all }: TextLayout): readonly string[] {
  const lines = wrapText(`${showName(first.layer, 60)}: ${escapeControls(first.message)}`, {
    width,
    indent: '    ',
  });
  const [line = '', ...rest] = lines;
  const shown = all ? others : others.slice(0, NAMED_LAYERS);
  const names = shown.map(({ layer }) => showName(layer, 60)).join(', ');
  const more =
    others.length > shown.length ? paint('faint', ` … ${others.length - shown.length} more (--all)`) : '';
  const likewise = others.length === 0 ? [] : wrapText(`likewise ${names}`, { width, indent: '    ' });
  return [
    `  ${line.trimStart()}`,
    ...rest,
    ...likewise.map((text, index) => (index === likewise.length - 1 ? text + more : text)),
  ];
}

function shapeOf({ message }: Finding): string {
  return message.replace(/\d[\d.e+-]*/g, '#');
}

/** Cells of the bar beside an output shift; none where the status takes their place. */
const BAR_CELLS = 7;

/** Below these widths a table has no room for the batch counts and the bars, with statuses and without. */
const ROOMY_WIDTH = { withStatus: 80, without: 72 } as const;

/** Norm layers of an audit as a table: where, how large, how far they moved. */
function renderLayerTable(
  rows: readonly AuditLayer[],
  { width, paint }: TextLayout,
  isStatusShown: boolean,
): readonly string[] {
  const [header = '', ...lines] = layOutTable(rows, driftColumns(rows, isStatusShown, width), width - 2);
  return [paint('faint', `  ${header}`), ...lines.map((line) => `  ${line}`)];
}

function driftColumns(
  rows: readonly AuditLayer[],
  isStatusShown: boolean,
  width: number,
): readonly TableColumn<AuditLayer>[] {
  const full = Math.max(
    ...rows.map(({ outputShift }) => (Number.isFinite(outputShift) ? (outputShift ?? 0) : 0)),
  );
  const isTight = width < (isStatusShown ? ROOMY_WIDTH.withStatus : ROOMY_WIDTH.without);
  const bar = (value: number | null) =>
    isStatusShown || isTight ? '' : `${formatBar(value ?? 0, { full, cells: BAR_CELLS }).padEnd(BAR_CELLS)} `;
  const columns: readonly TableColumn<AuditLayer>[] = [
    { title: 'layer', align: 'left', cell: showLayer },
    { title: 'status', align: 'left', cell: ({ status, allowed }) => (allowed ? `${status}*` : status) },
    { title: 'ch', align: 'right', cell: ({ channels }) => formatCount(channels) },
    { title: 'batches', align: 'right', cell: ({ batches }) => formatBatches(batches) },
    {
      title: 'mean shift',
      align: 'right',
      cell: ({ meanShift }) => formatOptional(meanShift?.rms, (value) => `${formatMeasure(value)} σ`),
    },
    {
      title: 'std ratio',
      align: 'right',
      cell: ({ logStdRatio }) => formatOptional(logStdRatio?.rms, formatStdRatio),
    },
    {
      title: isStatusShown || isTight ? 'output' : 'output shift',
      align: isStatusShown || isTight ? 'right' : 'left',
      cell: ({ outputShift }) => bar(outputShift) + formatOptional(outputShift),
    },
  ];
  return columns.filter(
    ({ title }) => (title !== 'status' || isStatusShown) && !(title === 'batches' && isTight),
  );
}

/** A layer's name, with its node's where the one does not tell the other: a graph is searched by its nodes. */
function showLayer({ name, before, after, via }: AuditLayer): string {
  // The node of a folded layer is its convolution's: it would only hide the name.
  if (via === 'folded') return showName(name);
  const node = after.node ?? before.node ?? '';
  const words = new Set(node.split(/[^\w]+/));
  const isTold =
    node === '' ||
    node.startsWith('node_') ||
    node === name ||
    name.split('.').every((part) => words.has(part));
  return isTold ? showName(name) : `${showName(name)} (${showName(node)})`;
}

/** So many channels are shown unless all are asked for: those that moved most. */
const SHOWN_CHANNELS = 32;
const CHANNEL_BAR_CELLS = 8;

interface ChannelRow {
  readonly channel: number;
  readonly meanBefore: number;
  readonly meanAfter: number;
  readonly varianceBefore: number;
  readonly varianceAfter: number;
  /** (μB − μA) / σA. */
  readonly shift: number;
  readonly stdRatio: number;
}

/** One layer channel by channel; a sentence where folding or an unreadable statistic hides the channels. */
function layOutLayer(layer: AuditLayer, { width, paint, all }: TextLayout): readonly (readonly string[])[] {
  const head = `${paint('strong', showName(layer.name))}  ${showName(layer.kind, 40)}, ${layer.status}, ${formatPlural(layer.channels, 'channel')}, ε ${layer.epsilon}${layer.epsilonAfter === undefined ? '' : `, in after ${layer.epsilonAfter}`}`;
  const rows = listRows(layer);
  if (rows.length === 0) return [[head, '  Its statistics cannot be read on both sides.']];
  const sorted = [...rows].sort((x, y) => severity(y) - severity(x));
  const shown = all ? rows : sorted.slice(0, SHOWN_CHANNELS);
  const [header = '', ...table] = layOutTable(shown, columnsFor(shown), width - 2);
  const more = rows.length - shown.length;
  return [
    [
      head,
      `  ${formatCount(layer.channelsMoved ?? 0)} of ${formatPlural(layer.channels, 'channel')} moved; output shift ${layer.outputShift === null ? '–' : formatMeasure(layer.outputShift)}`,
    ],
    [
      paint('faint', `  ${header}`),
      ...table.map((line) => `  ${line}`),
      ...(more > 0 ? [paint('faint', `  … ${formatCount(more)} more channels that moved less (--all)`)] : []),
    ],
  ];
}

function listRows({ perChannel, epsilon }: AuditLayer): readonly ChannelRow[] {
  const { before, after, stdRatio } = perChannel ?? { before: null, after: null, stdRatio: [] };
  if (before === null || after === null) return [];
  return before.mean.map((meanBefore, channel) => {
    const meanAfter = after.mean[channel] ?? Number.NaN;
    const varianceBefore = before.variance[channel] ?? Number.NaN;
    return {
      channel,
      meanBefore,
      meanAfter,
      varianceBefore,
      varianceAfter: after.variance[channel] ?? Number.NaN,
      shift: (meanAfter - meanBefore) / Math.sqrt(varianceBefore + epsilon),
      stdRatio: stdRatio[channel] ?? Number.NaN,
    };
  });
}

function severity({ shift, stdRatio }: ChannelRow): number {
  const value = Math.hypot(shift, Math.log(stdRatio));
  return Number.isNaN(value) ? Number.POSITIVE_INFINITY : value;
}

function columnsFor(rows: readonly ChannelRow[]): readonly TableColumn<ChannelRow>[] {
  const full = Math.max(...rows.map(({ shift }) => (Number.isFinite(shift) ? Math.abs(shift) : 0)));
  return [
    { title: 'channel', align: 'right', cell: ({ channel }) => String(channel) },
    { title: 'mean before', align: 'right', cell: ({ meanBefore }) => formatMeasure(meanBefore) },
    { title: 'after', align: 'right', cell: ({ meanAfter }) => formatMeasure(meanAfter) },
    { title: 'var before', align: 'right', cell: ({ varianceBefore }) => formatMeasure(varianceBefore) },
    { title: 'after', align: 'right', cell: ({ varianceAfter }) => formatMeasure(varianceAfter) },
    { title: 'std ratio', align: 'right', cell: ({ stdRatio }) => `× ${formatMeasure(stdRatio)}` },
    {
      title: 'mean shift',
      align: 'left',
      cell: ({ shift }) =>
        `${formatBar(Math.abs(shift), { full, cells: CHANNEL_BAR_CELLS }).padEnd(CHANNEL_BAR_CELLS)} ${formatMeasure(shift)} σ`,
    },
  ];
}

/** So many layers or findings of a kind are shown unless all are asked for. */
const SHOWN_ROWS = 10;
const SHOWN_FINDINGS = 5;

/**
 * A report as text for a terminal. An audit: the answer in a line or two, the worst layers, what else was found, what is
 * fine, and how to keep the frozen part still; or one layer alone. An inspection: every norm layer, then what is wrong.
 * Several audits: a line for each checkpoint, then the whole report of the one that drifted most, or, with `all`, of
 * every one that drifted.
 *
 * @throws RangeError when `layer` names none of the report's layers.
 */
export function renderText(report: AnyReport | ReportSet, options: RendererOptions): Pieces {
  const layout = chooseLayout(options);
  if (isAuditSet(report)) return writeBlocks(layOutSet(report, layout));
  if (!isAudit(report)) return writeBlocks(layOutInspection(report, layout));
  if (options.layer === undefined)
    return writeBlocks([...layOutAudit(report, layout), renderPages(report.findings, layout)]);
  const layer = report.layers.find(({ name }) => name === options.layer);
  if (layer === undefined) throw new RangeError(`the report has no layer ${options.layer}`);
  return writeBlocks(layOutLayer(layer, layout));
}

/** The blocks of an audit's text but for the last, which names the pages of the kinds of finding. */
function layOutAudit(report: AuditReport, layout: TextLayout): readonly (readonly string[])[] {
  return [
    renderCheckpoints(report, layout),
    renderAnswer(report, layout),
    renderDriftTable(report, layout),
    ...renderFindingGroups(
      report.findings.filter((finding) => !isFrozenDrift(finding)),
      layout,
    ),
    renderRegions(report, layout),
    renderAllLayers(report, layout),
    renderWarnings(report.warnings, layout),
    ...renderRemedies(report, layout),
    renderAdvice(keepCurableByEval(report), layout),
  ];
}

function renderCheckpoints({ before, after }: AuditReport, layout: TextLayout): readonly string[] {
  return layOutCheckpoints(
    [
      ['before', before],
      ['after', after],
    ],
    layout,
  );
}

/** A checkpoint's role, path and what it holds: on one line each where all fit, else on two. */
export function layOutCheckpoints(
  rows: readonly (readonly [role: string, checkpoint: CheckpointSummary])[],
  { width, paint }: Pick<TextLayout, 'width' | 'paint'>,
): readonly string[] {
  const roleWidth = Math.max(...rows.map(([role]) => role.length));
  const indent = ' '.repeat(roleWidth + 2);
  const described = rows.map(([role, checkpoint]) => ({
    role: paint('faint', role.padEnd(roleWidth)),
    name: showName(checkpoint.path, width - indent.length),
    contents: describeContents(checkpoint),
  }));
  const nameWidth = Math.max(...described.map(({ name }) => [...name].length));
  const isWide = described.some(({ contents }) => indent.length + nameWidth + 2 + contents.length > width);
  return described.flatMap(({ role, name, contents }) =>
    isWide
      ? [`${role}  ${name}`, indent + paint('faint', contents)]
      : [`${role}  ${name}${' '.repeat(nameWidth - [...name].length)}  ${paint('faint', contents)}`],
  );
}

function describeContents({ format, layers, folded, learned }: CheckpointSummary): string {
  const norms = [
    ...(layers > 0 || folded === 0 ? [formatPlural(layers, 'norm layer')] : []),
    ...(folded > 0 ? [formatPlural(folded, 'folded norm layer')] : []),
  ];
  return [format, ...norms, formatPlural(learned, 'learned tensor')].join(', ');
}

function renderDriftTable(report: AuditReport, layout: TextLayout): readonly string[] {
  // Of an ambiguous layer no measure is known.
  if (layout.all || isBiasOnly(report)) return [];
  const names = new Set(report.findings.filter(isLeadingDrift).map(({ layer }) => layer));
  const rows = sortByShift(report.layers.filter(({ name }) => names.has(name)));
  if (rows.length === 0) return [];
  const shown = rows.slice(0, SHOWN_ROWS);
  return [
    ...renderLayerTable(shown, layout, false),
    ...(rows.length > shown.length
      ? [layout.paint('faint', `  … ${rows.length - shown.length} more (--all)`)]
      : []),
  ];
}

/** Regions without drift, in one line each: what is fine. */
function renderRegions(
  { regions, layers }: AuditReport,
  { width, paint, all }: TextLayout,
): readonly string[] {
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
        : `${formatPlural(region.layers, 'norm layer')} ${[...(statuses.get(path) ?? [])].join(', ')}`;
    const [first = '', ...rest] = wrapText(
      `${showName(path === '' ? '(whole model)' : path, 50)}: ${count}, ${inside}`,
      { width, indent: '           ' },
    );
    return [`${paint('good', '✔')} ${status.padEnd(7)}  ${first.trimStart()}`, ...rest];
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

function renderAllLayers(report: AuditReport, layout: TextLayout): readonly string[] {
  if (!layout.all) return [];
  const isAnyAllowed = report.layers.some(({ allowed }) => allowed);
  return [
    layout.paint(
      'strong',
      `All ${formatPlural(report.layers.length, 'norm layer')}, those that moved most first`,
    ),
    ...renderLayerTable(sortByShift(report.layers), layout, true),
    ...(isAnyAllowed ? [layout.paint('faint', '  * drift accepted by --allow')] : []),
  ];
}

/** What the user should know beyond the findings. */
export function renderWarnings(
  warnings: readonly string[],
  { width, paint, all }: TextLayout,
): readonly string[] {
  const shown = all ? warnings : warnings.slice(0, SHOWN_FINDINGS);
  const lines = shown.flatMap((warning) => {
    const [first = '', ...rest] = wrapText(escapeControls(warning), { width, indent: '        ' });
    return [`${paint('warning', '! note')}  ${first.trimStart()}`, ...rest];
  });
  return warnings.length > shown.length
    ? [...lines, paint('faint', `  … ${warnings.length - shown.length} more (--all)`)]
    : lines;
}

/** What to do where evaluation mode would not have kept the statistics still. */
function renderRemedies(report: AuditReport, { width, paint }: TextLayout): readonly (readonly string[])[] {
  return listRemedies(report).map((remedy) => [
    paint('strong', 'What to do'),
    ...wrapText(remedy, { width, indent: '  ' }),
  ]);
}

function renderAdvice(report: AuditReport, { width, paint }: TextLayout): readonly string[] {
  const advice = adviseFreeze(report);
  if (advice === null) return [];
  const [first, ...others] = advice.ways;
  const say = (sentence: string) => wrapText(sentence, { width, indent: '  ' });
  const show = (code: readonly string[]) => ['', ...code.map((line) => (line === '' ? '' : `      ${line}`))];
  return [
    paint('strong', 'How to keep it frozen'),
    ...say(first === undefined ? advice.why : `${advice.why} ${first.where}`),
    ...(first === undefined ? [] : show(first.code)),
    ...others.flatMap(({ where, code }) => ['', ...say(where), ...show(code)]),
  ];
}

/** So many layers are shown unless all are asked for. */
const SHOWN_INSPECTED_LAYERS = 60;

function layOutInspection(report: InspectReport, layout: TextLayout): readonly (readonly string[])[] {
  const shown = layout.all ? report.layers : report.layers.slice(0, SHOWN_INSPECTED_LAYERS);
  const [header = '', ...lines] = layOutTable(shown, listInspectColumns(shown), layout.width);
  const more = report.layers.length - shown.length;
  return [
    layOutCheckpoints([['checkpoint', report.checkpoint]], layout),
    renderAnswer(report, layout),
    shown.length === 0
      ? []
      : [
          layout.paint('faint', header),
          ...lines,
          ...(more > 0 ? [layout.paint('faint', `… ${formatCount(more)} more layers (--all)`)] : []),
        ],
    ...renderFindingGroups(report.findings, layout),
    renderWarnings([...report.warnings, ...groupNotes(report.layers)], layout),
    renderPages(report.findings, layout),
  ];
}

/** The kind is worth a column only where there are several. */
function listInspectColumns(layers: readonly InspectLayer[]): readonly TableColumn<InspectLayer>[] {
  const kinds = new Set(layers.map(({ kind }) => kind));
  return COLUMNS.filter(({ title }) => title !== 'kind' || kinds.size > 1);
}

const COLUMNS: readonly TableColumn<InspectLayer>[] = [
  { title: 'layer', align: 'left', cell: ({ name }) => showName(name) },
  {
    title: 'kind',
    align: 'left',
    cell: ({ kind }) => showName(kind.replace('BatchNormalization', 'BatchNorm'), 14),
  },
  { title: 'ch', align: 'right', cell: ({ channels }) => formatCount(channels) },
  { title: 'mean rms', align: 'right', cell: ({ mean }) => formatOptional(mean?.rms) },
  { title: 'variance', align: 'right', cell: ({ variance }) => formatOptional(variance?.geometricMean) },
  {
    title: 'batches',
    align: 'right',
    cell: ({ batches }) => (batches === null ? NO_VALUE : formatCount(batches)),
  },
  { title: 'mode', align: 'left', cell: ({ mode }) => (mode === 'unknown' ? NO_VALUE : mode) },
  { title: 'status', align: 'left', cell: ({ status }) => status },
];

/** A checkpoint's row: what it came to, and a few words why. */
interface Row {
  readonly word: string;
  readonly tone: Tone;
  readonly name: string;
  readonly reason: string;
}

function* layOutSet(set: ReportSet, layout: TextLayout): Iterable<readonly string[]> {
  const before = getCommonBefore(set);
  const nameOf = (one: { before: string; after: string }) =>
    before === null ? `${one.before} → ${one.after}` : one.after;
  const rows: Row[] = [];
  for (const report of set.reports) rows.push(describeReport(report, nameOf(toPaths(report))));
  for (const failure of set.failures) rows.push(describeFailure(failure, nameOf(failure)));
  if (before !== null) yield [`${layout.paint('faint', 'before')}  ${showName(before, layout.width - 8)}`];
  yield layOutRows(rows, layout);
  yield [layout.paint('strong', countOutcomes(set))];
  for (const report of listDetailed(set, layout.all)) {
    const title = `── ${showName(nameOf(toPaths(report)), layout.width - 8)} `;
    yield [layout.paint('faint', title.padEnd(layout.width, '─'))];
    yield* layOutAudit(report, layout);
  }
  yield renderPages(
    set.heads.flatMap(({ findings }) => findings),
    layout,
  );
}

function toPaths({ before, after }: AuditReport): { before: string; after: string } {
  return { before: before.path, after: after.path };
}

function describeReport(report: AuditReport, name: string): Row {
  const { outcome, word, headline } = describeAnswer(report, (module) => showName(module, 40));
  const [sign, tone] = OUTCOME_SIGNS[outcome];
  return { word: `${sign} ${word.toLowerCase()}`, tone, name, reason: headline };
}

function describeFailure({ message, hint }: AuditFailure, name: string): Row {
  const reason = hint === null ? message : `${message}. ${hint}`;
  return { word: '✖ failed', tone: 'error', name, reason: escapeControls(reason) };
}

/** The reason stands in the line where it fits, else in lines of its own. */
function layOutRows(rows: readonly Row[], { width, paint }: TextLayout): readonly string[] {
  const wordWidth = Math.max(...rows.map(({ word }) => word.length));
  const indent = ' '.repeat(wordWidth + 2);
  const shown = rows.map((row) => ({ ...row, name: showName(row.name, width - indent.length) }));
  const nameWidth = Math.max(...shown.map(({ name }) => [...name].length));
  return shown.flatMap(({ word, tone, name, reason }) => {
    const head = `${paint(tone, word.padEnd(wordWidth))}  ${name}`;
    const gap = ' '.repeat(nameWidth - [...name].length + 2);
    const fits = indent.length + nameWidth + 2 + [...reason].length <= width;
    return fits ? [head + gap + paint('faint', reason)] : [head, ...wrapText(reason, { width, indent })];
  });
}
