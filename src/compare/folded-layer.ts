import type { LinearLayer } from '../norm/linear-layers.js';
import type { NormLayer } from '../norm/norm-layer.js';
import type { LayerComparison } from './compare-layers.js';

/** A norm layer that was folded into a convolution, as a layer whose statistics cannot be read from the file. */
export function toFoldedLayer(linear: LinearLayer, fallbackName: string): NormLayer {
  const { foldedNormPath, path, nodeName, weightName, channels } = linear;
  const reason = `it was folded into ${path ?? (nodeName === '' ? weightName : nodeName)}`;
  return {
    name: foldedNormPath ?? path ?? (fallbackName === '' ? nodeName : fallbackName),
    isNamed: foldedNormPath !== null || path !== null,
    kind: 'BatchNormalization',
    channels,
    mean: { kind: 'unresolved', reason },
    variance: { kind: 'unresolved', reason },
    gamma: null,
    beta: null,
    batchCount: null,
    epsilon: null,
    defaultEpsilon: 1e-5,
    momentum: null,
    mode: 'running',
    nodeName,
    isFromGraph: true,
    neighbours: [],
    foldedInto: linear,
    feedingLinear: null,
    notes: [],
  };
}

/**
 * A comparison that says which channels folding hides: where a scale γ is zero, so are the folded weights, whatever the
 * statistics are.
 */
export function noteHiddenChannels(layer: LayerComparison, hidden: number): LayerComparison {
  const { channels, after, status } = layer;
  if (hidden === 0 || status === 'unresolved') return layer;
  const note = `folding hides the statistics of channels whose scale is zero or too near it: ${hidden} of ${channels} were not audited`;
  return { ...layer, channelsHidden: hidden, after: { ...after, notes: [...after.notes, note] } };
}
