/** How one layer's recovered variances differ from those of its named side, whose epsilon was assumed. */
export interface EpsilonEvidence {
  readonly assumed: number;
  /** Per visible channel: v + ε recovered less v + ε of the named side. */
  readonly offsets: readonly number[];
  /** Per visible channel: the largest offset that rounding explains. */
  readonly tolerances: readonly number[];
  /** Whether some epsilon leaves the layer unmoved. */
  readonly isExplained: boolean;
}

/**
 * Epsilons that models are built with, the commonest first: PyTorch's default; TensorFlow's, Keras' and YOLO's; MXNet's and
 * Chainer's ResNets'; those of older ports; Darknet's; and the largest in use. No other is looked for in one layer alone:
 * any uniform change of a variance could be explained by an epsilon that nobody chooses.
 */
const USUAL_EPSILONS = [1e-5, 1e-3, 2e-5, 1e-4, 1e-6, 1e-2];

/** A layer is taken for unmoved where drift would look so by chance less often than this. */
const MAX_CHANCE = 1e-3;

/** An epsilon that explains what looks like drift of one layer. */
export interface OwnEpsilon {
  readonly epsilon: number;
  /** Whether drift would hardly look so: the layer's channels are many or sharp enough. */
  readonly isCertain: boolean;
}

/**
 * The usual epsilon that explains a layer whose variances seem to have moved: all are off by what it differs from the
 * assumed one, to rounding. Models may mix epsilons, such as a backbone of TensorFlow's with a head of PyTorch's.
 *
 * @returns null where none does.
 */
export function findOwnEpsilon({
  assumed,
  offsets,
  tolerances,
}: Pick<EpsilonEvidence, 'assumed' | 'offsets' | 'tolerances'>): OwnEpsilon | null {
  const toleranceOf = (channel: number) => tolerances[channel] ?? 0;
  for (const epsilon of USUAL_EPSILONS) {
    const shift = epsilon - assumed;
    if (epsilon === assumed || !offsets.every((offset, i) => Math.abs(offset - shift) <= toleranceOf(i)))
      continue;
    // Drift of the size of the shift lies anywhere within it; how much of that the tolerance covers, channel by channel.
    const chance = offsets.reduce(
      (product, _, i) => product * Math.min(1, (2 * toleranceOf(i)) / Math.abs(shift)),
      1,
    );
    return { epsilon, isCertain: chance <= MAX_CHANCE };
  }
  return null;
}

/** A layer with fewer channels may be explained by chance. */
const MIN_CHANNELS = 3;

/**
 * The epsilon that explains the recovered variances of at least half the layers, when the assumed one does not.
 *
 * With a wrong epsilon every channel's variance comes out off by the same amount, ε − ε assumed; drift moves every
 * channel by an amount of its own.
 *
 * @returns null when the assumed epsilon is right, when each layer has one that explains it, or when no single offset
 *   explains the layers.
 */
export function findCommonOffset(
  evidence: readonly EpsilonEvidence[],
): { readonly assumed: number; readonly actual: number; readonly layers: number } | null {
  const [first] = evidence;
  const channels = evidence.reduce((count, { offsets }) => count + offsets.length, 0);
  if (first === undefined || channels < MIN_CHANNELS) return null;
  if (evidence.every(({ isExplained }) => isExplained)) return null;
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
