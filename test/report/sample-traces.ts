import type { LayerStatus } from '../../src/compare/status.js';
import type { TraceLayer, TraceReport } from '../../src/report/trace-report.js';
import { makeReport } from './sample-reports.js';

/** The report of a run of some layers that drift from the checkpoint `onset` on, and of as many that stand still. */
export function makeTrace({
  layers: layerCount = 2,
  checkpoints: length = 4,
  onset = 2,
  name = (index: number) => `backbone.layer${index}.bn`,
  path = (index: number) => `runs/a/epoch_${index + 1}.pt`,
}: {
  layers?: number;
  checkpoints?: number;
  onset?: number;
  name?: (index: number) => string;
  path?: (index: number) => string;
} = {}): TraceReport {
  const countsAt = (index: number): Readonly<Record<LayerStatus, number>> => ({
    ...makeReport({ layers: [] }).summary.byStatus,
    drifted: index < onset ? 0 : layerCount,
    locked: index < onset ? 2 * layerCount : layerCount,
  });
  const checkpoints = Array.from({ length }, (_, index) => ({
    path: path(index),
    format: 'PyTorch',
    epoch: index + 1,
    step: null,
    batches: 100 * index,
    verdict: index < onset ? ('clean' as const) : ('drifted' as const),
    byStatus: countsAt(index),
    worst: index < onset ? null : { layer: name(0), outputShift: 0.5 },
  }));
  const makeLayer = (index: number): TraceLayer => {
    const isDrifted = index < layerCount;
    const locked = { status: 'locked' as const, from: 0, to: isDrifted ? onset - 1 : length - 1 };
    return {
      name: name(index),
      kind: 'BatchNorm2d',
      channels: 64,
      allowed: false,
      spans: isDrifted ? [locked, { status: 'drifted', from: onset, to: length - 1 }] : [locked],
      outputShift: checkpoints.map((_, at) =>
        isDrifted && at >= onset ? (at - onset + 1) / (length + index) : 0,
      ),
      onset: isDrifted ? { locked: onset - 1, drifted: onset } : null,
      thawed: null,
      refrozen: null,
    };
  };
  const layers = Array.from({ length: 2 * layerCount }, (_, index) => makeLayer(index));
  return {
    schemaVersion: 1,
    tool: { name: 'bn-audit', version: '0.0.0' },
    verdict: 'drifted',
    before: {
      path: 'base.pt',
      format: 'PyTorch',
      inModuleOrder: true,
      framework: 'pytorch',
      layers: layers.length,
      folded: 0,
      learned: 9,
    },
    order: ['epoch'],
    checkpoints,
    skipped: [
      {
        path: 'runs/a/x.pt',
        reason: 'failed',
        code: 'malformed',
        message: 'runs/a/x.pt: expected a checkpoint',
      },
    ],
    summary: {
      checkpoints: length,
      layers: layers.length,
      drifted: layerCount,
      thawed: 0,
      refrozen: 0,
      onset: { locked: onset - 1, drifted: onset, layers: layerCount },
      worst: { layer: name(0), outputShift: 0.5, checkpoint: length - 1 },
    },
    layers,
    findings: layers.slice(0, layerCount).map((layer) => ({
      kind: 'frozen-stats-drift',
      level: 'error',
      layer: layer.name,
      message: `not yet at epoch ${onset}, drifted from epoch ${onset + 1} on: the running statistics moved`,
      docs: 'docs/findings/frozen-stats-drift.md',
      checkpoint: path(onset),
      first: onset,
      last: length - 1,
      times: length - onset,
    })),
    audit: null,
    warnings: [],
  };
}
