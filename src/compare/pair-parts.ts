// Pairs one network of before with each of several in after that came of it: a student and its teacher.

import { isUnder } from '../norm/naming.js';
import type { TensorPair } from './compare-learned.js';
import { pairWithValues, type ValuedPairing, type ValuedSide } from './pair-by-values.js';
import { inOrderOf, type PrefixEdit, pairLayers, RivalPrefixes, translateName } from './pair-layers.js';
import { haveLikeShapes } from './tensor-equality.js';

/**
 * Pairs as {@link pairWithValues} does; but where after holds several networks and before one, each of them with that one,
 * as if it were alone. Those that are no copy of it stay unpaired.
 *
 * @param parts paths of after's networks, where it holds several and before one; else empty.
 * @throws CheckpointError as {@link pairWithValues}.
 */
export async function pairParts(
  before: ValuedSide,
  after: ValuedSide,
  { maps, parts }: { readonly maps: readonly PrefixEdit[]; readonly parts: readonly string[] },
): Promise<ValuedPairing> {
  const fitting: { readonly side: ValuedSide; readonly pairing: ValuedPairing }[] = [];
  for (const part of parts) {
    const side = narrowTo(after, part);
    // Names tell first, since values take as long to read as the checkpoints are large.
    if (part === '' || !isSameNetwork(before, side, maps)) continue;
    fitting.push({ side, pairing: await pairWithValues(before, side, maps) });
  }
  // One alone needs no care, and whatever else after holds may go with what it leaves.
  if (fitting.length < 2) return pairWithValues(before, after, maps);
  const pairings = fitting.map(({ pairing }) => pairing);
  const pairs = inOrderOf(
    before.layers,
    pairings.flatMap((pairing) => pairing.pairs),
  );
  const paired = new Set(pairs.flatMap((pair) => [pair.before, pair.after]));
  return {
    pairs,
    onlyBefore: before.layers.filter((layer) => !paired.has(layer)),
    onlyAfter: after.layers.filter((layer) => !paired.has(layer)),
    edits: pairings.flatMap(({ edits }) => edits),
    tensors: fitting.flatMap(({ side, pairing }) => [
      ...pairByName(before, side, pairing.edits),
      ...pairing.tensors,
    ]),
    remarks: [...new Set(pairings.flatMap(({ remarks }) => remarks))],
    explain: (layer, candidates) => {
      for (const { explain } of pairings) {
        const reason = explain(layer, candidates);
        if (reason !== null) return reason;
      }
      return null;
    },
  };
}

function narrowTo(side: ValuedSide, part: string): ValuedSide {
  const isInside = ([name]: readonly [string, unknown]) => isUnder(name, part);
  return {
    ...side,
    layers: side.layers.filter(({ name }) => isUnder(name, part)),
    tensors: new Map([...side.tensors].filter(isInside)),
    learned: new Map([...side.learned].filter(isInside)),
  };
}

/** A discriminator may have a `bn1` as well: all layers of after must be before's, or half of those of either side. */
function isSameNetwork(before: ValuedSide, after: ValuedSide, maps: readonly PrefixEdit[]): boolean {
  const [one, other] = [before.layers.length, after.layers.length];
  try {
    const { length } = pairLayers(before, after, maps).pairs;
    return length > 0 && (length === other || length * 2 >= Math.max(one, other));
  } catch (error) {
    if (error instanceof RivalPrefixes) return false;
    throw error;
  }
}

/** Learned tensors by the names that led to the layers. */
function pairByName(
  { learned }: ValuedSide,
  after: ValuedSide,
  edits: readonly PrefixEdit[],
): readonly TensorPair[] {
  return [...learned].flatMap(([name, tensor]) => {
    const afterName = translateName(name, edits, (candidate) => after.learned.has(candidate));
    const partner = afterName === null ? undefined : after.learned.get(afterName);
    return afterName === null || partner === undefined || !haveLikeShapes(tensor.shape, partner.shape)
      ? []
      : [{ name, afterName, tensor, partner }];
  });
}
