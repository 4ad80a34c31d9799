import { splitPath } from '../norm/naming.js';
import type { NormLayer } from '../norm/norm-layer.js';
import {
  isAdapted,
  isUnchanged,
  type LearnedComparison,
  type LearnedComparisons,
} from './compare-learned.js';
import { MIN_VALUES, type RoundingEvidence } from './rounding.js';
import type { Relation } from './status.js';

/** What told what feeds a layer; `unknown` where names leave it open, or what feeds it could not be compared. */
export type NeighboursFrom = 'graph' | 'names' | 'unknown';

/** How two sides of something learned relate, and the largest difference that counted as rounding; 0 where none did. */
export interface GradedRelation {
  readonly relation: Relation;
  readonly relativeDifference: number;
}

/** What feeds a layer, and how much of the checkpoint's rounding the layer's own affine may show. */
export interface Feeds extends GradedRelation {
  /** Null where nothing was rounded, or what feeds the layer stayed to the last bit: what differs then was trained. */
  readonly rounding: RoundingEvidence | null;
  /** Whether all that is known to feed the layer cannot be compared. */
  readonly isIncomparable: boolean;
  readonly neighboursFrom: NeighboursFrom;
  /** Whether each side tells another feed, of which one was trained and the other was not. */
  readonly isDisputed: boolean;
}

type KnownFeeds = Omit<Feeds, 'neighboursFrom' | 'isDisputed'>;

/** What feeds the norm layers of two checkpoints, before against after. */
export class NeighbourRelations {
  readonly #learned: LearnedComparisons;
  /** Layers whose feed may be anything share one list, which is as long as the file. */
  readonly #known = new Map<readonly string[], KnownFeeds>();

  constructor(learned: LearnedComparisons) {
    this.#learned = learned;
  }

  /**
   * A graph knows what feeds a layer, on either side; names tell it, or leave it open. Which side is before makes no
   * difference: where both know equally well and disagree, the order of one file's modules is not that of the model.
   */
  of({ before, after }: { readonly before: NormLayer; readonly after: NormLayer }): Feeds {
    const { byBefore, byAfter } = this.#learned;
    const sides = [
      { layer: before, rank: rankEvidence(before), feeds: this.#relate(before, byBefore) },
      { layer: after, rank: rankEvidence(after), feeds: this.#relate(after, byAfter) },
    ] as const;
    const told = sides.filter(({ feeds }) => feeds.relation !== 'none');
    const rank = Math.min(...told.map((side) => side.rank));
    const [one, other = one] = told.filter((side) => side.rank === rank);
    if (one !== undefined && other !== undefined) {
      const isFromGraph = rank === 0;
      const isDisputed = one.feeds.relation !== other.feeds.relation && !isFromGraph;
      const neighboursFrom = isDisputed ? 'unknown' : isFromGraph ? 'graph' : 'names';
      return { ...join(one.feeds, other.feeds, isDisputed), neighboursFrom, isDisputed };
    }
    const { feeds } = sides.find(({ feeds: { isIncomparable } }) => isIncomparable) ?? sides[0];
    const isUnfed = sides.some(({ layer }) => layer.isFromGraph && layer.neighbours.length === 0);
    return { ...feeds, neighboursFrom: isUnfed ? 'graph' : 'unknown', isDisputed: false };
  }

  #relate(layer: NormLayer, compared: LearnedComparisons['byBefore']): KnownFeeds {
    const { neighbours, areNeighboursCertain } = layer;
    const known = this.#known.get(neighbours);
    if (known !== undefined) return known;
    const found = neighbours
      .flatMap((name) => compared.get(name) ?? [])
      .map((feed) => (isAdapted(feed, this.#learned) ? { ...feed, equality: 'changed' as const } : feed));
    const rounded = found.flatMap(({ equality, rounding }) => (equality === 'rounded' ? [rounding] : []));
    // An average leaves most values as they were: of a few, all may have stayed.
    const exactCount = found.reduce(
      (sum, { equality, elementCount }) => sum + (equality === 'exact' ? elementCount : 0),
      0,
    );
    const haveStayedExactly = rounded.length === 0 && exactCount >= MIN_VALUES;
    const feeds: KnownFeeds = {
      relation: areNeighboursCertain === false ? findCommonRelation(found) : relate(found),
      relativeDifference: rounded.reduce(
        (most, rounding) => Math.max(most, rounding?.relativeDifference ?? 0),
        0,
      ),
      rounding: haveStayedExactly ? null : this.#learned.rounding,
      isIncomparable: found.length > 0 && found.every(({ equality }) => equality === 'incomparable'),
    };
    this.#known.set(neighbours, feeds);
    return feeds;
  }
}

/** What two sides tell together; graphs that differ feed the layer by something else, which is a change. */
function join(one: KnownFeeds, other: KnownFeeds, isDisputed: boolean): KnownFeeds {
  const isChanged = one.relation === 'changed' || other.relation === 'changed';
  return {
    relation: isDisputed ? 'none' : isChanged ? 'changed' : 'equal',
    relativeDifference: Math.max(one.relativeDifference, other.relativeDifference),
    rounding: one.rounding === null ? null : other.rounding,
    isIncomparable: false,
  };
}

/** The lower, the better. */
function rankEvidence({ isFromGraph, areNeighboursCertain }: NormLayer): number {
  if (isFromGraph) return 0;
  return areNeighboursCertain === false ? 2 : 1;
}

function relate(found: readonly LearnedComparison[]): Relation {
  if (found.some(({ equality }) => equality === 'changed')) return 'changed';
  return found.some(isUnchanged) ? 'equal' : 'none';
}

/** What is true of every module that may feed a layer; `none` where some were trained and others were not. */
function findCommonRelation(found: readonly LearnedComparison[]): Relation {
  const byModule = new Map<string, LearnedComparison[]>();
  for (const comparison of found) {
    const [module] = splitPath(comparison.name);
    const tensors = byModule.get(module);
    if (tensors === undefined) byModule.set(module, [comparison]);
    else tensors.push(comparison);
  }
  const relations = new Set([...byModule.values()].map(relate));
  const [only] = relations;
  return only !== undefined && relations.size === 1 ? only : 'none';
}
