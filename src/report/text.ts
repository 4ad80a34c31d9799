import type { FindingKind, FindingLevel } from '../compare/findings.js';
import { FINDING_TITLES } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import type { AuditLayer, AuditReport, CheckpointSummary } from './audit-report.js';
import { findModulesToFreeze, writeTrainingLoopFix, writeTrainOverride } from './fix-advice.js';
import {
  formatBar,
  formatBatches,
  formatCount,
  formatMagnitude,
  formatMeasure,
  formatPlural,
  formatStdRatio,
} from './format-numbers.js';
import { layOutTable, type Paint, plain, showName, type TableColumn, wrapText } from './text-layout.js';

/** How a text report is laid out. */
export interface TextOptions {
  /** Columns; 80 unless given. */
  readonly width?: number | undefined;
  readonly paint?: Paint | undefined;
  /** Show every layer and finding, not the worst alone. */
  readonly all?: boolean | undefined;
}

interface Layout {
  readonly width: number;
  readonly paint: Paint;
  readonly all: boolean;
}

/** So many layers or findings of a kind are shown unless all are asked for. */
const SHOWN_ROWS = 10;
const SHOWN_FINDINGS = 5;
const BAR_CELLS = 7;

/**
 * An audit as text for a terminal: the answer in a line or two, the worst layers, what else was found, what is fine,
 * and how to keep the frozen part still.
 */
export function renderText(report: AuditReport, options: TextOptions = {}): string {
  const layout: Layout = {
    width: options.width ?? 80,
    paint: options.paint ?? plain,
    all: options.all === true,
  };
  const blocks = [
    renderCheckpoints(report, layout),
    renderAnswer(report, layout),
    renderDriftTable(report, layout),
    ...renderFindingGroups(report, layout),
    renderRegions(report, layout),
    renderAllLayers(report, layout),
    renderWarnings(report.warnings, layout),
    renderAdvice(report, layout),
  ];
  return `${blocks
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.join('\n'))
    .join('\n\n')}\n`;
}

function renderCheckpoints({ before, after }: AuditReport, layout: Layout): readonly string[] {
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
  { width, paint }: Pick<Layout, 'width' | 'paint'>,
): readonly string[] {
  const roleWidth = Math.max(...rows.map(([role]) => role.length));
  const indent = ' '.repeat(roleWidth + 2);
  const described = rows.map(([role, { path, format, layers, learned }]) => ({
    role: paint('faint', role.padEnd(roleWidth)),
    name: showName(path, width - indent.length),
    contents: `${format}, ${formatPlural(layers, 'norm layer')}, ${formatPlural(learned, 'learned tensor')}`,
  }));
  const nameWidth = Math.max(...described.map(({ name }) => [...name].length));
  const isWide = described.some(({ contents }) => indent.length + nameWidth + 2 + contents.length > width);
  return described.flatMap(({ role, name, contents }) =>
    isWide
      ? [`${role}  ${name}`, indent + paint('faint', contents)]
      : [`${role}  ${name}${' '.repeat(nameWidth - [...name].length)}  ${paint('faint', contents)}`],
  );
}

function renderAnswer(report: AuditReport, layout: Layout): readonly string[] {
  const { paint, width } = layout;
  const indent = '  ';
  const errors = report.findings.filter(({ level }) => level === 'error');
  const drifted = errors.filter(({ kind }) => kind === 'frozen-stats-drift');
  if (drifted.length > 0) {
    return [
      `${paint('error', '✖ DRIFTED')}  ${paint('strong', headlineOfDrift(report))}`,
      ...wrapText(explainDrift(report, new Set(drifted.map(({ layer }) => layer))), { width, indent }),
    ];
  }
  if (errors.length > 0) {
    const kinds = [...new Set(errors.map(({ kind }) => kind))];
    return [
      `${paint('error', '✖ FAILED')}  ${paint('strong', kinds.map((kind) => FINDING_TITLES[kind].toLowerCase()).join('; '))}`,
      ...wrapText(explainCounts(report), { width, indent }),
    ];
  }
  return [
    `${paint('good', '✔ CLEAN')}  ${paint('strong', headlineOfClean(report))}`,
    ...wrapText(explainCounts(report), { width, indent }),
  ];
}

function headlineOfDrift(report: AuditReport): string {
  const modules = findModulesToFreeze(report).map((path) =>
    path === '' ? 'the whole model' : showName(path, 40),
  );
  if (modules.length === 0) return 'statistics moved in layers that --frozen says must not move';
  const [first = ''] = modules;
  if (modules.length === 1) return `${first} was frozen, its statistics were not`;
  if (modules.length <= 3) return `${modules.join(', ')} were frozen, their statistics were not`;
  return `${first} and ${modules.length - 1} more were frozen, their statistics were not`;
}

function explainDrift(report: AuditReport, layerNames: ReadonlySet<string>): string {
  const regions = report.regions.filter(({ status, drifted }) => status === 'frozen' && drifted > 0);
  const tensors = sum(regions.map(({ learned }) => learned.tensors));
  const values = sum(regions.map(({ learned }) => learned.elements));
  const inRegions = sum(regions.map(({ layers }) => layers));
  const layers = report.layers.filter(({ name }) => layerNames.has(name));
  const identical =
    tensors === 0
      ? ''
      : `${formatCount(tensors)} of ${formatCount(tensors)} learned tensors (${formatMagnitude(values)} values) are identical, yet `;
  const moved = `${formatCount(layers.length)} of ${formatPlural(Math.max(inRegions, layers.length), 'norm layer')} moved`;
  const worst = layers.reduce<AuditLayer | null>(
    (most, layer) => ((layer.outputShift ?? 0) > (most?.outputShift ?? 0) ? layer : most),
    null,
  );
  const output =
    worst?.outputShift == null || worst.outputShift === 0
      ? ''
      : ` ${layers.length === 1 ? 'Its output moves' : 'Their outputs move'} by ${layers.length === 1 ? '' : 'up to '}${formatMeasure(worst.outputShift)} of ${layers.length === 1 ? 'its' : 'their'} own size${layers.length === 1 ? '' : ` (${showName(worst.name, 50)})`}.`;
  return `${identical}${moved}${describeBatches(report)}.${output}`;
}

function describeBatches({ summary: { batches } }: AuditReport): string {
  if (batches === null) return '';
  if (batches.min === batches.max) {
    if (batches.min === 0) return '';
    if (String(batches.min).startsWith('-'))
      return `; their batch counts went back by ${formatCount(String(batches.min).slice(1))}`;
    return `, after ${formatCount(batches.min)} training-mode batch${batches.min === 1 ? '' : 'es'}`;
  }
  return `, after ${formatBatches(batches.min)} to ${formatBatches(batches.max)} training-mode batches`;
}

function headlineOfClean({ summary, findings }: AuditReport): string {
  const { byStatus } = summary;
  const excused = findings.filter(
    ({ kind, level }) => kind === 'frozen-stats-drift' && level === 'note',
  ).length;
  if (excused > 0) return `no drift beyond what was accepted (${formatPlural(excused, 'layer')} excused)`;
  if (byStatus.locked === summary.layers) return 'every norm layer stood still';
  if (byStatus.trained === summary.layers) return 'nothing was frozen: statistics moved with the weights';
  return 'no frozen layer’s statistics moved';
}

function explainCounts({ summary: { byStatus, layers, learned } }: AuditReport): string {
  const counts = Object.entries(byStatus).filter(([, count]) => count > 0);
  const statuses = counts.map(([status, count]) => `${formatCount(count)} ${status}`).join(', ');
  return `${formatPlural(layers, 'norm layer')}: ${statuses}. ${formatCount(learned.equal)} of ${formatPlural(learned.compared, 'learned tensor')} identical.`;
}

function driftColumns(
  rows: readonly AuditLayer[],
  isStatusShown: boolean,
): readonly TableColumn<AuditLayer>[] {
  const full = Math.max(
    ...rows.map(({ outputShift }) => (Number.isFinite(outputShift) ? (outputShift ?? 0) : 0)),
  );
  const measure = (value: number | null | undefined, format: (value: number) => string) =>
    value == null ? '–' : format(value);
  const columns: readonly TableColumn<AuditLayer>[] = [
    { title: 'layer', align: 'left', cell: showLayer },
    { title: 'status', align: 'left', cell: ({ status, allowed }) => (allowed ? `${status}*` : status) },
    { title: 'ch', align: 'right', cell: ({ channels }) => formatCount(channels) },
    { title: 'batches', align: 'right', cell: ({ batches }) => formatBatches(batches) },
    {
      title: 'mean shift',
      align: 'right',
      cell: ({ meanShift }) => measure(meanShift?.rms, (value) => `${formatMeasure(value)} σ`),
    },
    {
      title: 'std ratio',
      align: 'right',
      cell: ({ logStdRatio }) => measure(logStdRatio?.rms, formatStdRatio),
    },
    {
      title: 'output shift',
      align: 'left',
      cell: ({ outputShift }) =>
        `${formatBar(outputShift ?? 0, { full, cells: isStatusShown ? 4 : BAR_CELLS }).padEnd(isStatusShown ? 4 : BAR_CELLS)} ${measure(outputShift, formatMeasure)}`,
    },
  ];
  return columns.filter(({ title }) => title !== 'status' || isStatusShown);
}

/** A layer's name, with its node's where the one does not tell the other: a graph is searched by its nodes. */
function showLayer({ name, before, after }: AuditLayer): string {
  const node = after.node ?? before.node ?? '';
  const words = new Set(node.split(/[^\w]+/));
  const isTold =
    node === '' ||
    node.startsWith('node_') ||
    node === name ||
    name.split('.').every((part) => words.has(part));
  return isTold ? showName(name) : `${showName(name)} (${showName(node)})`;
}

function renderDriftTable(report: AuditReport, layout: Layout): readonly string[] {
  if (layout.all) return [];
  const names = new Set(
    report.findings
      .filter(({ kind, level }) => kind === 'frozen-stats-drift' && level === 'error')
      .map(({ layer }) => layer),
  );
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

function renderLayerTable(
  rows: readonly AuditLayer[],
  { width, paint }: Layout,
  isStatusShown: boolean,
): readonly string[] {
  const [header = '', ...lines] = layOutTable(rows, driftColumns(rows, isStatusShown), width - 2);
  return [paint('faint', `  ${header}`), ...lines.map((line) => `  ${line}`)];
}

/** Worst first; layers without a measure come last, in the order of the model. */
function sortByShift(layers: readonly AuditLayer[]): readonly AuditLayer[] {
  const shiftOf = ({ outputShift }: AuditLayer) =>
    outputShift === null || Number.isNaN(outputShift) ? -1 : outputShift;
  return [...layers].sort((x, y) => shiftOf(y) - shiftOf(x));
}

const LEVEL_SIGNS: Readonly<Record<FindingLevel, string>> = { error: '✖', warning: '!', note: '·' };
const LEVEL_TONES = { error: 'error', warning: 'warning', note: 'faint' } as const;

/** Everything found besides the drift that leads the report, grouped by level and kind. */
function renderFindingGroups(report: AuditReport, layout: Layout): readonly (readonly string[])[] {
  const groups = new Map<string, AuditReport['findings'][number][]>();
  for (const finding of report.findings) {
    if (finding.kind === 'frozen-stats-drift' && finding.level === 'error') continue;
    const key = `${finding.level} ${finding.kind}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [finding]);
    else group.push(finding);
  }
  const rank: Readonly<Record<FindingLevel, number>> = { error: 0, warning: 1, note: 2 };
  return [...groups.values()]
    .sort(([x], [y]) => rank[x?.level ?? 'note'] - rank[y?.level ?? 'note'])
    .map((group) => renderFindingGroup(group, layout));
}

function renderFindingGroup(
  group: AuditReport['findings'],
  { width, paint, all }: Layout,
): readonly string[] {
  const [first] = group;
  if (first === undefined) return [];
  const shown = all ? group : group.slice(0, SHOWN_FINDINGS);
  const head = `${paint(LEVEL_TONES[first.level], `${LEVEL_SIGNS[first.level]} ${first.level}`)}  ${FINDING_TITLES[first.kind as FindingKind]} (${first.kind})`;
  return [
    head,
    ...shown.flatMap(({ layer, message }) => {
      const [line = '', ...rest] = wrapText(`${showName(layer, 60)}: ${escapeControls(message)}`, {
        width: width - 2,
        indent: '    ',
      });
      return [`  ${line.trimStart()}`, ...rest];
    }),
    ...(group.length > shown.length
      ? [paint('faint', `  … ${group.length - shown.length} more (--all)`)]
      : []),
  ];
}

/** Regions without drift, in one line each: what is fine. */
function renderRegions({ regions, layers }: AuditReport, { width, paint, all }: Layout): readonly string[] {
  const fine = regions.filter(({ drifted }) => drifted === 0);
  const shown = all
    ? fine
    : [...fine].sort((x, y) => y.learned.elements - x.learned.elements).slice(0, SHOWN_FINDINGS);
  const lines = shown.flatMap((region) => {
    const { learned, path, status } = region;
    const count = `${formatCount(status === 'frozen' ? learned.equal : learned.tensors - learned.equal)} of ${formatPlural(learned.tensors, 'learned tensor')} ${status === 'frozen' ? 'identical' : 'changed'}`;
    const inside = region.layers === 0 ? 'no norm layer' : describeInside(path, region.layers, layers);
    const [first = '', ...rest] = wrapText(
      `${showName(path === '' ? '(whole model)' : path, 50)}: ${count}, ${inside}`,
      { width, indent: '           ' },
    );
    return [`${paint('good', '✔')} ${status.padEnd(7)}  ${first.trimStart()}`, ...rest];
  });
  const more = fine.length - shown.length;
  return more > 0 ? [...lines, paint('faint', `  … ${more} more regions (--all)`)] : lines;
}

function describeInside(path: string, count: number, layers: readonly AuditLayer[]): string {
  const inside = layers.filter(({ name }) => path === '' || name === path || name.startsWith(`${path}.`));
  const statuses = [...new Set(inside.map(({ status }) => status))];
  return `${formatPlural(count, 'norm layer')} ${statuses.join(', ')}`;
}

function renderAllLayers(report: AuditReport, layout: Layout): readonly string[] {
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
  { width, paint, all }: Layout,
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

function renderAdvice(report: AuditReport, { width, paint }: Layout): readonly string[] {
  const isDrifted = report.findings.some(
    ({ kind, level }) => kind === 'frozen-stats-drift' && level === 'error',
  );
  const modules = findModulesToFreeze(report);
  if (!isDrifted || modules.length === 0) return [];
  const code = (lines: readonly string[]) => lines.map((line) => `      ${line}`);
  return [
    paint('strong', 'How to keep it frozen'),
    ...wrapText(
      'requires_grad=False and lr=0 do not stop BatchNorm: every forward pass in training mode moves its running statistics. Put the frozen part back in evaluation mode after every model.train():',
      { width, indent: '  ' },
    ),
    '',
    ...code(writeTrainingLoopFix(modules)),
    '',
    '  or once and for all, in the model’s class:',
    '',
    ...code(writeTrainOverride(modules)),
  ];
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
