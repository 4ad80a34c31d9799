import type { ProbeLayer, ProbeReport } from '../../src/probe/probe-report.js';
import type { ProbeOutput } from '../../src/probe/run.js';

/** A checkpoint of a probe. */
export const summary = {
  path: 'base.onnx',
  format: 'ONNX',
  inModuleOrder: true,
  framework: null,
  layers: 2,
  folded: 0,
  learned: 5,
} as const;

/** An output that moved by a quarter. */
export const output: ProbeOutput = {
  name: 'logits',
  type: 'float32',
  shape: [8, 10],
  relativeL2: 0.25,
  cosine: 0.97,
  maxDifference: 1.5,
  nonFinite: { after: 0, restored: 0 },
  top1: { samples: 8, changed: 3, share: 3 / 8 },
};

/** A layer that was put back. */
export const layer: ProbeLayer = {
  name: 'backbone.bn1',
  node: '/backbone/bn1/BatchNormalization',
  status: 'drifted',
  via: 'live',
  channels: 64,
  putBack: true,
  outputShift: 0.5,
  movement: { sameInput: 0.4, inNetwork: 0.6 },
  contribution: { explained: 0.75, outputs: [{ name: 'logits', relativeL2: 0.0625, explained: 0.75 }] },
  notes: [],
};

/** A probe that found drift; whatever a test cares about is overridden. */
export function makeProbeReport(parts: Partial<ProbeReport> = {}): ProbeReport {
  return {
    schemaVersion: 1,
    tool: { name: 'bn-audit', version: '1.2.3' },
    before: summary,
    after: { ...summary, path: 'tuned.onnx' },
    runtime: { name: 'onnxruntime-node', version: '1.30.0' },
    inputs: {
      kind: 'files',
      samples: 8,
      runs: 2,
      seed: null,
      arrays: [{ name: 'x', dtype: 'F32', shape: [8, 3], file: 'x.npy' }],
    },
    putBack: { layers: 1, alone: 1 },
    outputs: [output],
    layers: [layer],
    copyError: 1e-7,
    repeatError: 0,
    warnings: [],
    ...parts,
  };
}
