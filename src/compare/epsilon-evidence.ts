/** How one layer's recovered variances differ from those of its named side, whose epsilon was assumed. */
export interface EpsilonEvidence {
  readonly assumed: number;
  /** Per visible channel: v + ε recovered less v + ε of the named side. */
  readonly offsets: readonly number[];
  /** Per visible channel: the largest offset that rounding explains. */
  readonly tolerances: readonly number[];
}

/** A layer with fewer channels may be explained by chance. */
const MIN_CHANNELS = 3;

/**
 * The epsilon that explains the recovered variances of at least half the layers, when the assumed one does not.
 *
 * With a wrong epsilon every channel's variance comes out off by the same amount, ε − ε assumed; drift moves every
 * channel by an amount of its own.
 *
 * @returns null when the assumed epsilon is right, or when no single offset explains the layers.
 */
export function findCommonOffset(
  evidence: readonly EpsilonEvidence[],
): { readonly assumed: number; readonly actual: number; readonly layers: number } | null {
  const [first] = evidence;
  const channels = evidence.reduce((count, { offsets }) => count + offsets.length, 0);
  if (first === undefined || channels < MIN_CHANNELS) return null;
  const offset = findSharpestOffset(evidence);
  const explains = (shift: number) =>
    evidence.filter(({ offsets, tolerances }) =>
      offsets.every((found, channel) => Math.abs(found - shift) <= 2 * (tolerances[channel] ?? 0)),
    ).length;
  const actual = Number((first.assumed + offset).toPrecision(2));
  const explained = explains(actual - first.assumed);
  if (actual <= 0 || actual === first.assumed || explained * 2 < evidence.length || explained <= explains(0))
    return null;
  return { assumed: first.assumed, actual, layers: explained };
}

/** The median offset of the channels whose rounding blurs it least: small variances show epsilon most sharply. */
function findSharpestOffset(evidence: readonly EpsilonEvidence[]): number {
  const channels = evidence.flatMap(({ offsets, tolerances }) =>
    offsets.map((offset, channel) => ({
      offset,
      tolerance: tolerances[channel] ?? Number.POSITIVE_INFINITY,
    })),
  );
  const sharpest = channels
    .sort((x, y) => x.tolerance - y.tolerance)
    .slice(0, Math.max(MIN_CHANNELS, channels.length / 2));
  const offsets = sharpest.map(({ offset }) => offset).sort((x, y) => x - y);
  return offsets[Math.floor(offsets.length / 2)] ?? 0;
}
