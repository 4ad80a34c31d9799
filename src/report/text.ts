import { isLeadingDrift } from '../compare/finding.js';
import { escapeControls } from '../errors.js';
import { isBiasOnly, nameEquality } from './answer.js';
import { type AuditLayer, type AuditReport, type CheckpointSummary, sortByShift } from './audit-report.js';
import { adviseFreeze, isFrozenDrift } from './fix-advice.js';
import { formatCount, formatPlural } from './format-numbers.js';
import { keepCurableByEval, listRemedies } from './remedies.js';
import { renderAnswer } from './text-answer.js';
import { renderFindingGroups, renderPages } from './text-findings.js';
import { renderLayerTable } from './text-layers.js';
import {
  chooseLayout,
  joinBlocks,
  showName,
  type TextLayout,
  type TextOptions,
  wrapText,
} from './text-layout.js';

/** So many layers or findings of a kind are shown unless all are asked for. */
const SHOWN_ROWS = 10;
const SHOWN_FINDINGS = 5;

/**
 * An audit as text for a terminal: the answer in a line or two, the worst layers, what else was found, what is fine,
 * and how to keep the frozen part still.
 */
export function renderText(report: AuditReport, options: TextOptions = {}): string {
  const layout = chooseLayout(options);
  return joinBlocks([...layOutAudit(report, layout), renderPages(report.findings, layout)]);
}

/** The blocks of an audit's text but for the last, which names the pages of the kinds of finding. */
export function layOutAudit(report: AuditReport, layout: TextLayout): readonly (readonly string[])[] {
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
