import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { isCountable, isDecodable } from '../checkpoint/dtype.js';
import type { Graph } from '../checkpoint/graph.js';
import { CheckpointError, quote } from '../errors.js';
import { refuseAmplified } from '../io/amplification.js';
import { findGraphLayers } from './graph-layers.js';
import { findLearnedTensors } from './learned-tensors.js';
import { findNamedLayers, namesStatistics } from './named-layers.js';
import { type LayersAndLearned, type NormLayer, refuseTooManyLayers, storedTensorOf } from './norm-layer.js';

/** Wider than any layer in use by an order of magnitude; a layer's statistics stand in memory at once. */
const MAX_CHANNELS = 1 << 20;

/**
 * Every norm layer of a checkpoint: from the graph where there is one, else from the names of its tensors. A layer
 * whose statistics or affine cannot be read is among them, with the reason: what the other layers hold is numbers.
 * Beside them, what an optimizer could change.
 *
 * @throws CheckpointError `malformed` when the parts of a layer disagree on its number of channels, `limit-exceeded` for
 *   too many layers or channels, and for vectors that claim far more bytes than the file stores for them.
 */
export function findLayersAndLearned(checkpoint: Checkpoint): LayersAndLearned {
  const found =
    checkpoint.graph === null ? findNamedLayers(checkpoint) : findInGraph(checkpoint, checkpoint.graph);
  const { layers } = found;
  for (const layer of layers) checkChannels(layer, checkpoint.path);
  const vectors = layers.flatMap((layer) => listVectors(layer).flatMap(([, tensor]) => tensor?.range ?? []));
  refuseAmplified(vectors, checkpoint.path);
  return { ...found, layers: layers.map(leaveOutUnreadable) };
}

/**
 * Whether a checkpoint may hold norm layers, live or folded. Where it does not, nothing else needs to be looked for, not
 * even in the largest.
 */
export function mayHoldLayers(checkpoint: Checkpoint): boolean {
  return checkpoint.graph !== null || namesStatistics(checkpoint);
}

function findInGraph(checkpoint: Checkpoint, graph: Graph): LayersAndLearned {
  refuseTooManyLayers(graph.norms.length, checkpoint.path);
  const layers = findGraphLayers(checkpoint, graph);
  return { layers, learned: findLearnedTensors(checkpoint, layers) };
}

function checkChannels(layer: NormLayer, file: string): void {
  if (layer.channels > MAX_CHANNELS) {
    throw new CheckpointError(
      `layer ${quote(layer.name)}: expected at most ${MAX_CHANNELS} channels, found ${layer.channels}`,
      {
        code: 'limit-exceeded',
        file,
      },
    );
  }
  for (const [part, tensor] of listVectors(layer)) {
    if (tensor !== null && tensor.elementCount !== layer.channels) {
      throw new CheckpointError(
        `layer ${quote(layer.name)}: expected tensors of one length, found ${layer.channels} channels in one and ${tensor.elementCount} in its ${part}`,
        { code: 'malformed', file },
      );
    }
  }
}

function listVectors(layer: NormLayer): readonly (readonly [part: string, tensor: Tensor | null])[] {
  return [
    ['running mean', storedTensorOf(layer.mean)],
    ['running variance', storedTensorOf(layer.variance)],
    ['weight', layer.gamma],
    ['bias', layer.beta],
  ];
}

/** A layer without γ, β and count of types that hold no numbers, which nothing behind this could read. */
function leaveOutUnreadable(layer: NormLayer): NormLayer {
  const { gamma, beta, batchCount } = layer;
  const unreadable = [gamma, beta].find((tensor) => tensor !== null && !isDecodable(tensor.dtype));
  const counted =
    batchCount === null || isCountable(batchCount.dtype) ? layer : withoutCount(layer, batchCount);
  if (unreadable == null) return counted;
  const reason = `its affine ${quote(unreadable.name)} is stored as ${unreadable.dtype}, which holds no readable floats`;
  const unresolved = { kind: 'unresolved', reason } as const;
  return { ...counted, mean: unresolved, variance: unresolved, gamma: null, beta: null };
}

function withoutCount(layer: NormLayer, { name, dtype }: Tensor): NormLayer {
  const note = `its batch count ${quote(name)} is stored as ${dtype}, which holds no readable number`;
  return { ...layer, batchCount: null, notes: [...layer.notes, note] };
}
