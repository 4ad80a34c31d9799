// The report of `restore`, and its text.

import type { Checkpoint, CheckpointFormat } from '../checkpoint/checkpoint.js';
import type { DType } from '../checkpoint/dtype.js';
import { type LayerComparison, measuresOf, viaOf } from '../compare/compare-layers.js';
import type { LayerStatus } from '../compare/status.js';
import { failUnreachable, TOOL_NAME, VERSION } from '../errors.js';
import { addTo } from '../norm/naming.js';
import type { Answer } from '../report/answer.js';
import { encloseName } from '../report/any-report.js';
import { toCount } from '../report/audit-report.js';
import { type Column, type Document, makeTable, names, numbers } from '../report/document.js';
import { type Count, formatCount, formatPlural } from '../report/format-numbers.js';
import { writeText } from '../report/text.js';
import { NO_VALUE, showName, type TextOptions } from '../report/text-layout.js';
import type { LayerPlan, Part } from './plan-layers.js';

/** A tensor of after that holds what before says. */
export interface RestoredPart {
  readonly part: Part;
  readonly tensor: string;
  readonly dtype: DType;
  readonly elements: number;
}

/** One layer of a restoration. */
export interface RestoredLayer {
  readonly name: string;
  /** The status that the audit of before and after gave it. */
  readonly status: LayerStatus;
  readonly via: 'live' | 'folded';
  readonly channels: number;
  readonly channelsMoved: number | null;
  readonly outputShift: number | null;
  /** Batch counts of after and before; null where the count stays. */
  readonly batches: { readonly from: Count; readonly to: Count } | null;
  /** Tensors that change; none where after holds the values of before already. */
  readonly parts: readonly RestoredPart[];
  readonly notes: readonly string[];
}

/** A layer whose statistics are not those of before, and that was not to be restored. */
export interface LeftLayer {
  readonly name: string;
  readonly status: LayerStatus;
}

/** The result of a restoration: exactly what `--format json` prints. */
export interface RestoreReport {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  /** `nothing` where no layer needed it: then no file was written. `planned` in a dry run. */
  readonly outcome: 'restored' | 'planned' | 'nothing';
  readonly before: { readonly path: string; readonly format: CheckpointFormat };
  readonly after: { readonly path: string; readonly format: CheckpointFormat };
  /** The files that were written, or would be, the main one last; empty where there are none. */
  readonly files: readonly string[];
  readonly layers: readonly RestoredLayer[];
  readonly left: readonly LeftLayer[];
  readonly warnings: readonly string[];
}

/** What a restoration found out, before it is put in the report's form. */
interface RestoreResults extends Pick<RestoreReport, 'outcome' | 'files' | 'warnings'> {
  readonly before: Checkpoint;
  readonly after: Checkpoint;
  readonly plans: readonly LayerPlan[];
  readonly left: readonly LayerComparison[];
}

/** Puts a restoration in the report's form. */
export function buildRestoreReport(results: RestoreResults): RestoreReport {
  const { before, after } = results;
  return {
    schemaVersion: 1,
    tool: { name: TOOL_NAME, version: VERSION },
    outcome: results.outcome,
    before: { path: before.path, format: before.format },
    after: { path: after.path, format: after.format },
    files: results.files,
    layers: results.plans.map(toRestoredLayer),
    left: results.left.map(({ name, status }) => ({ name, status })),
    warnings: [...new Set([...before.warnings, ...after.warnings, ...results.warnings])],
  };
}

function toRestoredLayer({ comparison, edits, batches, notes }: LayerPlan): RestoredLayer {
  const { name, status, channels, drift } = comparison;
  return {
    name,
    status,
    via: viaOf(comparison),
    channels,
    channelsMoved: drift?.channelsMoved ?? null,
    outputShift: measuresOf(comparison)?.outputShift ?? null,
    batches: batches === null ? null : { from: toCount(batches.from), to: toCount(batches.to) },
    parts: edits.map(({ part, tensor: { name, dtype, elementCount } }) => ({
      part,
      tensor: name,
      dtype,
      elements: elementCount,
    })),
    notes,
  };
}

/** A restoration as text for a terminal: what was written, each layer, and what was left as it is. */
export function renderRestoreText(report: RestoreReport, options: TextOptions = {}): string {
  const { before, after, files, outcome, layers, left, warnings } = report;
  const changed = layers.filter(({ parts }) => parts.length > 0);
  const label = outcome === 'planned' ? 'to write' : 'fixed';
  const document: Document = {
    answer: { outcome: 'clean', ...answerRestore(report, changed.length) },
    facts: [
      { role: 'before', what: encloseName(before.path), contents: [before.format] },
      { role: 'after', what: encloseName(after.path), contents: [after.format] },
      ...files.map((path) => ({ role: label, what: encloseName(path), contents: [] })),
    ],
    blocks: [
      makeTable(changed, COLUMNS, { shown: { text: 20, markdown: 20 }, noun: 'layer', isFlush: true }),
      { kind: 'notes', notes: [...describeLeft(left), ...warnings, ...describeNotes(layers)] },
    ],
  };
  return writeText(document, options);
}

function answerRestore(
  { outcome, layers, files }: RestoreReport,
  changed: number,
): Pick<Answer, 'word' | 'headline' | 'explanation'> {
  const count = formatPlural(changed, 'norm layer');
  switch (outcome) {
    case 'restored':
      return {
        word: 'Restored',
        headline: `${count} ${changed === 1 ? 'has' : 'have'} the statistics of before again`,
        explanation: 'An audit of what was written confirms it. Everything else is as in after.',
      };
    case 'planned':
      return {
        word: 'Dry run',
        headline: `${count} would get the statistics of before again${files.length === 0 ? '' : `, in ${formatPlural(files.length, 'file')}`}`,
        explanation: 'Nothing was written.',
      };
    case 'nothing':
      return {
        word: 'Nothing to restore',
        headline:
          layers.length === 0
            ? 'no norm layer drifted'
            : `${formatPlural(layers.length, 'norm layer')} of after ${layers.length === 1 ? 'has' : 'have'} the statistics of before already`,
        explanation: 'No file was written.',
      };
    default:
      return failUnreachable(outcome);
  }
}

const COLUMNS: readonly Column<RestoredLayer>[] = [
  names('layer'),
  {
    title: 'was',
    isSpare: true,
    cell: ({ status, via }) => (via === 'folded' ? `${status}, folded` : status),
  },
  numbers('channels', ({ channels }) => channels, { isSpare: true, format: formatCount }),
  numbers('moved', ({ channelsMoved }) => channelsMoved, { isSpare: true, format: formatCount }),
  numbers('output shift', ({ outputShift }) => outputShift),
  {
    title: 'batches',
    isNumber: true,
    cell: ({ batches }) =>
      batches === null ? NO_VALUE : `${formatCount(batches.from)} → ${formatCount(batches.to)}`,
  },
];

/** Notes that several layers share are said once. */
function describeNotes(layers: readonly RestoredLayer[]): readonly string[] {
  const byNote = new Map<string, string[]>();
  for (const { name, notes } of layers) for (const note of notes) addTo(byNote, note, name);
  return [...byNote].map(([note, names]) => {
    const isOfAll = names.length > 1 && names.length === layers.length;
    return `${isOfAll ? `all ${formatPlural(names.length, 'norm layer')}` : listNames(names)}: ${note}`;
  });
}

function describeLeft(left: readonly LeftLayer[]): readonly string[] {
  const byStatus = new Map<string, string[]>();
  for (const { name, status } of left) addTo(byStatus, status, name);
  return [...byStatus].map(([status, names]) => {
    const [is, it] = names.length === 1 ? ['is', 'it'] : ['are', 'them'];
    return `${formatPlural(names.length, 'norm layer')} ${is} ${status} and not restored: ${listNames(names)}. To restore ${it} too, name every layer that you want: --layer GLOB`;
  });
}

const SHOWN_NAMES = 5;

function listNames(names: readonly string[]): string {
  const shown = names.slice(0, SHOWN_NAMES).map((name) => showName(name, 50));
  return names.length > SHOWN_NAMES
    ? `${shown.join(', ')} and ${formatCount(names.length - SHOWN_NAMES)} more`
    : shown.join(', ');
}
