import { type Finding, isLeadingDrift } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import { isBiasOnly } from './answer.js';
import type { AuditLayer, AuditReport, CheckpointSummary } from './audit-report.js';
import { findModulesToFreeze, writeTrainingLoopFix, writeTrainOverride } from './fix-advice.js';
import { formatCount, formatPlural } from './format-numbers.js';
import { renderAnswer } from './text-answer.js';
import { renderFindingGroups } from './text-findings.js';
import { renderLayerTable, sortByShift } from './text-layers.js';
import { defuseCommands, type Paint, plain, showName, wrapText } from './text-layout.js';

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
    ...renderFindingGroups(
      report.findings.filter((finding) => !isTabled(finding)),
      layout,
    ),
    renderRegions(report, layout),
    renderAllLayers(report, layout),
    renderWarnings(report.warnings, layout),
    renderAdvice(report, layout),
  ];
  return defuseCommands(
    `${blocks
      .filter((lines) => lines.length > 0)
      .map((lines) => lines.join('\n'))
      .join('\n\n')}\n`,
  );
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

/** Findings that the table of drifted layers shows already, but for those whose message the table cannot hold. */
function isTabled(finding: Finding): boolean {
  return isLeadingDrift(finding) && finding.kind === 'frozen-stats-drift';
}

function renderDriftTable(report: AuditReport, layout: Layout): readonly string[] {
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
