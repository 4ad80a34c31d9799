// What the page of a trace draws its chart of.

import { isLeadingDrift } from '../../compare/findings.js';
import { showSafely } from '../any-report.js';
import { findLeadingStatus, findMost, makeMoments, type TraceReport } from '../trace-report.js';
import { encodeNumbers } from './channel-codec.js';

/** What the page's script draws. */
export interface TracePageData {
  /** What each step of the chart is called; a step is a checkpoint, or several in a row where there are very many. */
  readonly moments: readonly string[];
  /** The step at which drift that stands begins, and what it is called; null where there is none. */
  readonly onset: { readonly step: number; readonly label: string } | null;
  readonly layers: readonly TracePageLayer[];
}

/** One line of the chart. */
interface TracePageLayer {
  readonly name: string;
  /** What colours it: the status that says most of the layer. */
  readonly status: string;
  /** Output shift at each step, encoded by {@link encodeNumbers}; NaN where it is not known. */
  readonly shifts: string;
}

/** Layers times steps: four characters each, 1.6 MB. */
const MAX_POINTS = 400_000;

/** More rows than anyone reads; JSON has all. */
const MAX_LAYERS = 1_000;

/** What the chart is drawn of: with very many checkpoints the largest of several in a row stands for them. */
export function buildTraceData(report: TraceReport): TracePageData {
  const { layers, checkpoints, findings, summary } = report;
  const drifted = new Set(findings.filter(isLeadingDrift).map(({ layer }) => layer));
  // Those that moved least are left out first.
  const shown = [...layers.keys()]
    .sort((x, y) => rankLayer(layers[y], drifted) - rankLayer(layers[x], drifted))
    .slice(0, MAX_LAYERS)
    .sort((x, y) => x - y)
    .flatMap((index) => layers[index] ?? []);
  const size = Math.max(1, Math.ceil((shown.length * checkpoints.length) / MAX_POINTS));
  const steps = Math.ceil(checkpoints.length / size);
  const at = makeMoments(checkpoints, (name) => showSafely(name, 40));
  const gather = (values: readonly (number | null)[]) =>
    Array.from({ length: steps }, (_, step) =>
      values
        .slice(step * size, (step + 1) * size)
        .reduce<number>(
          (most, value) => (value === null ? most : Number.isNaN(most) ? value : Math.max(most, value)),
          Number.NaN,
        ),
    );
  return {
    moments: Array.from({ length: steps }, (_, step) => at(step * size)),
    onset: summary.onset && {
      step: Math.floor(summary.onset.drifted / size),
      label: at(summary.onset.drifted),
    },
    layers: shown.map((layer) => ({
      name: showSafely(layer.name),
      status: findLeadingStatus(layer, drifted),
      shifts: encodeNumbers(gather(layer.outputShift)),
    })),
  };
}

function rankLayer(layer: TraceReport['layers'][number] | undefined, drifted: ReadonlySet<string>): number {
  if (layer === undefined) return -1;
  return (drifted.has(layer.name) ? 1e6 : 0) + Math.min(1e5, findMost(layer) || 0);
}
