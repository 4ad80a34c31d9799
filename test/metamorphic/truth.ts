import { decodeFloats, encodeFloats } from '../../src/checkpoint/dtype.js';
import type { AuditLayer, AuditReport, LayerStatus } from '../../src/index.js';
import type { Written } from './containers.js';
import { isFoldedIn, isGraph, type Layer, type Model, tellsEpsilon } from './model.js';
import type { FloatType, Plan } from './plan.js';

/** What a report says wrongly: in words that faults of one kind share, and with what belongs to this one. */
export interface Fault {
  readonly what: string;
  readonly detail: string;
}

/** What else than the two files the truth depends on. */
export interface Circumstances {
  readonly rounding: Plan['rounding'];
  /** The option that the audit was given. */
  readonly epsilon: number | undefined;
}

/** One layer of both models, and how each file holds it. */
interface Pair {
  readonly before: Layer;
  readonly after: Layer;
  readonly sides: readonly [before: Written, after: Written];
  readonly circumstances: Circumstances;
}

const fault = (what: string, detail: unknown): Fault => ({ what, detail: String(detail) });

/** Everything that a report of an audit says otherwise than the two models do. */
export function findFaults(
  report: AuditReport,
  before: Written,
  after: Written,
  circumstances: Circumstances,
): readonly Fault[] {
  const partners = new Map(after.model.layers.map((layer) => [layer.path, layer]));
  const faults: Fault[] = [];
  const left = new Set(report.layers);
  for (const layer of before.model.layers) {
    const partner = partners.get(layer.path);
    const names = namesOf(layer, [before.model, after.model]);
    const found = report.layers.filter(({ name }) => names.has(name));
    const [reported] = found;
    for (const each of found) left.delete(each);
    const isMentioned = report.findings.some(
      ({ kind, layer: name }) => kind === 'unpaired-layer' && names.has(name),
    );
    const pair = partner && { before: layer, after: partner, sides: [before, after] as const, circumstances };
    if (pair === undefined) {
      if (found.length > 0) faults.push(fault('a layer that was removed is compared', layer.path));
      else if (!isMentioned) faults.push(fault('a layer that was removed is not mentioned', layer.path));
    } else if (reported === undefined && isMentioned && isFolded(pair) && judge(pair) === null) continue;
    else if (reported === undefined || found.length > 1)
      faults.push(fault(`a layer is there ${found.length} times`, layer.path));
    else {
      const wrong = checkLayer(pair, reported);
      faults.push(...wrong.map(({ what, detail }) => fault(what, `${layer.path}: ${detail}`)));
      if (reported.via === 'live') faults.push(...checkFindings(pair, reported, report));
    }
  }
  for (const { name } of left) faults.push(fault('a layer is there that no model has', name));
  const hasErrors = report.findings.some(({ level }) => level === 'error');
  const isWrong = report.layers.some(({ status, via }) => ERRORS.has(status) && via === 'live');
  if (hasErrors !== (report.verdict === 'drifted'))
    faults.push(fault('the verdict contradicts the findings', ''));
  if (isWrong && report.verdict === 'clean') faults.push(fault('the verdict is clean', ''));
  return faults;
}

const ERRORS: ReadonlySet<LayerStatus> = new Set<LayerStatus>([
  'drifted',
  'invalid',
  'unresolved',
  'ambiguous',
]);

/** A layer goes by after's names, in which wrappers do not count; a folded one may go by its convolution. */
function namesOf({ path, feeder }: Layer, models: readonly Model[]): ReadonlySet<string> {
  return new Set(
    models.flatMap((model) => [`${showPrefix(model)}${path}`, `${showPrefix(model)}${feeder.path}`]),
  );
}

/** What names begin with in reports: wrappers are left out. */
export function showPrefix({ prefix }: Model): string {
  return prefix.replace(/^(?:module\.|_orig_mod\.)+/, '');
}

function checkLayer(pair: Pair, reported: AuditLayer): readonly Fault[] {
  return isFolded(pair) ? checkStatus(reported, judge(pair)) : checkLive(pair, reported);
}

function isFolded({ before, sides }: Pair): boolean {
  return sides.some(({ container }) => isFoldedIn(container, before.feeder.kind));
}

/** The statuses that a layer may have that some file has folded; null where these cannot show the truth. */
function judge(pair: Pair): readonly LayerStatus[] | null {
  const { before, after, sides } = pair;
  const [one, other] = sides.map(({ container }) => isFoldedIn(container, before.feeder.kind));
  if (one && other) return judgeBothFolded(pair);
  return one
    ? judgeFolded(pair, { live: after, folded: before, liveSide: 'after' })
    : judgeFolded(pair, { live: before, folded: after, liveSide: 'before' });
}

/** The names of layers whose status is a matter of rounding. */
export function listOpenLayers(
  before: Written,
  after: Written,
  circumstances: Circumstances,
): ReadonlySet<string> {
  const partners = new Map(after.model.layers.map((layer) => [layer.path, layer]));
  const sides = [before, after] as const;
  return new Set(
    before.model.layers.flatMap((layer) => {
      const partner = partners.get(layer.path);
      const pair = partner && { before: layer, after: partner, sides, circumstances };
      return pair !== undefined && isFolded(pair) && judge(pair) === null
        ? [...namesOf(layer, [before.model, after.model])]
        : [];
    }),
  );
}

/** Null where the truth cannot be seen in the files, so that any status will do. */
function checkStatus({ status }: AuditLayer, allowed: readonly LayerStatus[] | null): readonly Fault[] {
  return allowed === null || allowed.includes(status)
    ? []
    : [fault(`status ${status} in place of ${allowed.join(' or ')}`, '')];
}

/** The table of statuses in docs/measures.md. */
function decide(
  affine: 'equal' | 'changed' | 'none',
  neighbours: AuditLayer['neighbours'],
  { isInitial, isMoved }: { readonly isInitial: boolean; readonly isMoved: boolean },
): LayerStatus {
  if (!isMoved) return affine === 'changed' || neighbours === 'changed' ? 'held' : 'locked';
  if (affine === 'changed') return 'trained';
  if (neighbours !== 'changed') return 'drifted';
  return affine === 'equal' && !isInitial ? 'affine-frozen' : 'trained';
}

function checkLive(pair: Pair, reported: AuditLayer): readonly Fault[] {
  const { before, after, sides } = pair;
  const [one, other] = sides;
  const faults: Fault[] = [];
  const expect = (what: string, found: unknown, wanted: unknown) => {
    if (found !== wanted) faults.push(fault(`${what} ${found} in place of ${wanted}`, ''));
  };
  const near = (what: string, found: number | null | undefined, wanted: number) => {
    if (found == null || !isNear(found, wanted))
      faults.push(fault(`another ${what}`, `${found} for ${wanted}`));
  };
  const affine =
    !same(pair, before.gamma, after.gamma) || !same(pair, before.beta, after.beta) ? 'changed' : 'equal';
  const isInitial = isAll(after.gamma, 1) && isAll(after.beta, 0);
  const neighbours =
    same(pair, before.feeder.weight, after.feeder.weight) && same(pair, before.feeder.bias, after.feeder.bias)
      ? 'equal'
      : 'changed';
  const moved = before.mean.map((_, channel) =>
    same(pair, at(before.mean, channel), at(after.mean, channel), 'statisticsType') &&
    same(pair, at(before.variance, channel), at(after.variance, channel), 'statisticsType')
      ? 0
      : 1,
  );
  const isMoved = moved.includes(1);
  const isOpen = reported.neighboursFrom === 'unknown' && reported.neighbours === 'none';
  // TorchScript's exporter numbers the weights of matrix products; what they are beside names, names must tell.
  if (isOpen && sides.some(({ container }) => isGraph(container) && container !== 'TorchScript folded'))
    faults.push(fault('what feeds the layer is unknown beside a graph', ''));
  if (!isOpen) expect('neighbours', reported.neighbours, neighbours);
  if (after.gamma !== null || affine === 'changed')
    if (!(reported.affine === 'none' && isInitial)) expect('affine', reported.affine, affine);
  const isInvalid =
    [...after.mean, ...after.variance].some((value) => !Number.isFinite(value)) ||
    after.variance.some((value) => value < 0);
  expect('channels', reported.channels, before.channels);
  expect(
    'status',
    reported.status,
    isInvalid ? 'invalid' : decide(affine, reported.neighbours, { isInitial, isMoved }),
  );
  const hasCounts = [one, other].every(({ container }) => !isGraph(container));
  const batches =
    hasCounts && before.count !== null && after.count !== null ? Number(after.count - before.count) : null;
  expect('batches', reported.batches, batches);
  const epsilon = epsilonOf(pair);
  near('epsilon', reported.epsilon, epsilon);
  if (
    pair.circumstances.rounding !== 'none' ||
    isInvalid ||
    [...before.mean, ...before.variance].some((value) => !(Math.abs(value) < Number.POSITIVE_INFINITY))
  )
    return faults;
  expect('channels moved', reported.channelsMoved, moved.filter(Boolean).length);
  const measures = measure(pair, moved, epsilon);
  near('rms of the mean shift', reported.meanShift?.rms, measures.meanShift.rms);
  near('maximum of the mean shift', reported.meanShift?.max, measures.meanShift.max);
  near('rms of the ratio', reported.logStdRatio?.rms, measures.logStdRatio.rms);
  near('maximum of the ratio', reported.logStdRatio?.max, measures.logStdRatio.max);
  near('divergence', reported.divergence, measures.divergence);
  near('output shift', reported.outputShift, measures.outputShift);
  return faults;
}

/** Graphs hold epsilon as float32, which shows where variances are tiny. */
function isNear(found: number, wanted: number): boolean {
  if (!Number.isFinite(wanted)) return Object.is(found, wanted);
  return Math.abs(found - wanted) <= 1e-6 * Math.abs(wanted) + 1e-12;
}

/** The formulas of docs/measures.md, channel by channel. */
function measure({ before, after }: Pair, moved: Float64Array, epsilon: number) {
  const channels = [...moved.keys()].map((channel) => {
    const [meanA, meanB] = [number(before.mean, channel), number(after.mean, channel)];
    const [squareA, squareB] = [
      number(before.variance, channel) + epsilon,
      number(after.variance, channel) + epsilon,
    ];
    const weight = after.gamma === null ? 1 : number(after.gamma, channel) ** 2;
    if (moved[channel] === 0) return { d: 0, r: 0, divergence: 0, output: 0, weight };
    const d = Math.abs(meanB - meanA) / Math.sqrt(squareA);
    const ratio = Math.sqrt(squareB / squareA);
    const square = (meanB - meanA) ** 2;
    const divergence = ((squareA + square) / squareB + (squareB + square) / squareA - 2) / 4;
    return { d, r: Math.abs(Math.log(ratio)), divergence, output: d ** 2 + (ratio - 1) ** 2, weight };
  });
  const sum = (pick: (channel: (typeof channels)[number]) => number) =>
    channels.reduce((total, channel) => total + pick(channel), 0);
  const count = channels.length;
  const weights = sum(({ weight }) => weight);
  return {
    meanShift: {
      rms: Math.sqrt(sum(({ d }) => d * d) / count),
      max: Math.max(...channels.map(({ d }) => d)),
    },
    logStdRatio: {
      rms: Math.sqrt(sum(({ r }) => r * r) / count),
      max: Math.max(...channels.map(({ r }) => r)),
    },
    divergence: sum(({ divergence }) => divergence) / count,
    outputShift: weights === 0 ? 0 : Math.sqrt(sum(({ weight, output }) => weight * output) / weights),
  };
}

/** A state dict does not hold epsilon: PyTorch's default stands for it. */
function epsilonOf({ sides, circumstances }: Pair): number {
  const told = sides.find(({ container }) => tellsEpsilon(container));
  return circumstances.epsilon ?? told?.model.epsilon ?? 1e-5;
}

/** Which findings a live layer has by its status. */
function checkFindings(
  { before, after, sides }: Pair,
  reported: AuditLayer,
  report: AuditReport,
): readonly Fault[] {
  const { status, affine, neighbours, batches } = reported;
  const isReset = (layer: Layer) => isAll(layer.mean, 0) && isAll(layer.variance, 1);
  const isTrainedAlone = affine === 'changed' && neighbours === 'equal';
  const hasAffine = after.gamma !== null && !(isAll(after.gamma, 1) && isAll(after.beta, 0));
  const isToldTwice =
    reported.epsilonFrom === 'graph' && sides.every(({ container }) => tellsEpsilon(container));
  const hasOtherEpsilon = isToldTwice && sides[0].model.epsilon !== sides[1].model.epsilon;
  const wanted = [
    ...(hasOtherEpsilon ? ['epsilon-changed'] : []),
    ...(status === 'drifted' ? ['frozen-stats-drift'] : []),
    ...(status === 'invalid' ? ['invalid-stats'] : []),
    ...(status === 'unresolved' ? ['unresolved-stats'] : []),
    ...(status === 'affine-frozen' ? ['affine-frozen-drift'] : []),
    ...((status === 'trained' || status === 'held') && isTrainedAlone ? ['trained-norm-in-frozen'] : []),
    ...(isReset(after) && !isReset(before) && hasAffine ? ['stats-reset'] : []),
    ...((status === 'locked' || status === 'held') && Number(batches) > 0
      ? ['batch-stats-while-frozen']
      : []),
  ].sort();
  const found = report.findings.flatMap(({ kind, layer }) => (layer === reported.name ? [kind] : [])).sort();
  return String(found) === String(wanted)
    ? []
    : [fault(`findings ${found.join(', ')} in place of ${wanted.join(', ')}`, reported.name)];
}

/** Roundings of a folded bias that may blur a mean, with room to spare. */
const BLUR = 200 * 2 ** -24;

/** Changes, in σ and relative, that no rounding on the way to a folded file reaches. */
const SURE = 1e-4;

/** A layer that one file has as it is and the other one folded: what docs/folding.md says can be told. */
function judgeFolded(
  pair: Pair,
  {
    live,
    folded,
    liveSide,
  }: { readonly live: Layer; readonly folded: Layer; readonly liveSide: 'before' | 'after' },
): readonly LayerStatus[] | null {
  const epsilon = epsilonOf(pair);
  const { weight } = live.feeder;
  if (isFeedOpen(pair.sides[liveSide === 'before' ? 0 : 1], live)) return null;
  if (hasInvalid(live)) return liveSide === 'after' ? ['invalid'] : null;
  if (hasInvalid(folded)) return judgeInvalid(liveSide === 'before', pair, folded);
  if (folded.gamma?.every((value) => value === 0)) return ['unresolved'];
  const isOneWeight = weight.length === live.channels;
  if (!isAlike(weight, folded.feeder.weight)) return isOneWeight ? null : ['trained'];
  const channels = [...live.mean.keys()].map((channel): 'hidden' | 'open' | 'turned' | 'moved' | 'still' => {
    const [g, beta] = [optional(live.gamma, channel, 1), optional(live.beta, channel, 0)];
    const [mean, variance] = [number(live.mean, channel), number(live.variance, channel)];
    const s = optional(folded.gamma, channel, 1) / Math.sqrt(number(folded.variance, channel) + epsilon);
    if (g === 0 || s === 0) return 'hidden';
    const bias = optional(live.feeder.bias, channel, 0);
    const foldedBias =
      optional(folded.beta, channel, 0) +
      s * (optional(folded.feeder.bias, channel, 0) - number(folded.mean, channel));
    const terms = Math.abs(beta) + Math.abs(foldedBias) + Math.abs(s) * (Math.abs(bias) + Math.abs(mean));
    const blur = (BLUR * terms) / Math.abs(g);
    if (blur > 0.01) return 'open';
    if (Math.sign(g) !== Math.sign(s)) return 'turned';
    const isStill =
      LEAVES.every((leaf) => optional(live[leaf], channel, 0) === optional(folded[leaf], channel, 0)) &&
      bias === optional(folded.feeder.bias, channel, 0);
    if (isStill) return 'still';
    const sigma = Math.sqrt(variance + epsilon);
    const spread = Math.abs((g / s) ** 2 / sigma ** 2 - 1);
    const shift = Math.abs(bias - (foldedBias - beta) / s - mean) / sigma;
    return spread > SURE || shift > SURE + blur ? 'moved' : 'open';
  });
  if (channels.includes('open')) return null;
  if (channels.every((channel) => channel === 'hidden')) return ['unresolved'];
  if (channels.includes('turned')) return ['trained'];
  if (!channels.includes('moved')) return ['locked'];
  return isOneWeight ? ['unresolved'] : ['drifted'];
}

const LEAVES = ['gamma', 'beta', 'mean', 'variance'] as const;

/** A layer that both files have folded: the ratios of its scales are all that is left. */
function judgeBothFolded(pair: Pair): readonly LayerStatus[] | null {
  const { before, after, sides } = pair;
  const { epsilon } = sides[0].model;
  if (hasInvalid(after)) return judgeInvalid(true, pair, after);
  if (hasInvalid(before)) return null;
  const isOneWeight = before.feeder.weight.length === before.channels;
  const areZero = [before, after].every(({ gamma }) => gamma?.every((value) => value === 0));
  if (!areZero && !isAlike(before.feeder.weight, after.feeder.weight))
    return isOneWeight ? null : ['trained'];
  const scale = (layer: Layer, channel: number) =>
    optional(layer.gamma, channel, 1) / Math.sqrt(number(layer.variance, channel) + epsilon);
  const bias = (layer: Layer, channel: number) =>
    optional(layer.beta, channel, 0) +
    scale(layer, channel) * (optional(layer.feeder.bias, channel, 0) - number(layer.mean, channel));
  const indices = [...before.mean.keys()];
  const factors = indices
    .map((channel) => scale(after, channel) / scale(before, channel))
    .filter((factor) => !Number.isNaN(factor));
  if (factors.some((factor) => !Number.isFinite(factor) || factor === 0)) return null;
  if (factors.some((factor) => factor < 0)) return ['trained'];
  if (factors.some((factor) => Math.abs(factor - 1) > SURE))
    return isOneWeight ? ['unresolved'] : ['drifted'];
  if (factors.some((factor) => factor !== 1)) return null;
  const largest = Math.max(
    ...indices.flatMap((channel) => [Math.abs(bias(before, channel)), Math.abs(bias(after, channel))]),
  );
  const moves = indices.map((channel) => Math.abs(bias(after, channel) - bias(before, channel)));
  if (moves.every((move) => move === 0)) return ['locked'];
  return moves.some((move) => move > SURE * largest) ? ['ambiguous'] : null;
}

/** Whether names may leave open which convolution a layer was folded into: some layer gives as much as it takes. */
function isFeedOpen({ container, model }: Written, { path }: Layer): boolean {
  const isTold = isGraph(container) || path.startsWith('features.');
  return (
    !isTold &&
    model.layers.some(({ feeder: { kind, shape } }) => kind === 'depthwise' || shape[0] === shape[1])
  );
}

/** Folding makes NaN of a mean that is NaN and of a negative variance, and zeros of an infinite one. */
function judgeInvalid(
  isAfter: boolean,
  { before, after }: Pair,
  folded: Layer,
): readonly LayerStatus[] | null {
  const isNotANumber = folded.mean.some(Number.isNaN) || folded.variance.some((value) => value < 0);
  return isAfter && isNotANumber && isAlike(before.feeder.weight, after.feeder.weight) ? ['invalid'] : null;
}

function hasInvalid({ mean, variance }: Layer): boolean {
  return (
    [...mean, ...variance].some((value) => !Number.isFinite(value)) || variance.some((value) => value < 0)
  );
}

function isAlike(one: Float64Array, other: Float64Array): boolean {
  return one.every((value, index) => value === other[index]);
}

function number(values: Float64Array, index: number): number {
  return values[index] ?? Number.NaN;
}

function optional(values: Float64Array | null, index: number, absent: number): number {
  return values === null ? absent : number(values, index);
}

function at(values: Float64Array, index: number): Float64Array {
  return values.subarray(index, index + 1);
}

function isAll(values: Float64Array | null, constant: number): boolean {
  return values === null || values.every((value) => value === constant);
}

/** Equal as docs/measures.md has it: the same values, or the wider one rounded, or no further than rounding goes. */
function same(
  { sides, circumstances }: Pair,
  one: Float64Array | null,
  other: Float64Array | null,
  typeOf: 'type' | 'statisticsType' = 'type',
): boolean {
  if (one === null || other === null) return one === other;
  const [before, after] = sides.map(({ model }) => model[typeOf]) as [FloatType, FloatType];
  const { rounding } = circumstances;
  return one.every((x, index) => {
    const y = number(other, index);
    if (x === y || (Number.isNaN(x) && Number.isNaN(y))) return true;
    if (before !== after)
      return store(x, after) === y || store(y, before) === x || isBetween([x, before], [y, after]);
    if (rounding === 'none') return false;
    return rounding === 'averaged'
      ? Number.isFinite(x) && Math.abs(y - x) <= averagingOf(before) * Math.max(LEAST[before], Math.abs(x))
      : store(x, rounding) === y || store(y, rounding) === x;
  });
}

/** How far a mean that was computed in a type may be off, relative to each value, and to small ones this large. */
const averagingOf = (type: FloatType) =>
  Math.max(2 ** -9, type === 'F32' ? 0 : 8 * 2 ** -FRACTION_BITS[type]);
const LEAST: Readonly<Record<FloatType, number>> = { F64: 0, F32: 0, F16: 2 ** -12, BF16: 2 ** -124 };

/** Significant bits behind the first one. */
const FRACTION_BITS: Readonly<Record<FloatType, number>> = { F64: 52, F32: 23, F16: 10, BF16: 7 };

/** Whether one number rounds to both values, where neither type holds the other. */
function isBetween(...values: readonly (readonly [value: number, type: FloatType])[]): boolean {
  const [[x, one], [y, other]] = values as [[number, FloatType], [number, FloatType]];
  if (![one, other].every((type) => type === 'F16' || type === 'BF16')) return false;
  const halfUnit = (value: number, type: FloatType) =>
    2 ** (Math.floor(Math.log2(Math.abs(value))) - FRACTION_BITS[type] - 1);
  return Number.isFinite(y - x) && Math.abs(y - x) <= halfUnit(x, one) + halfUnit(y, other);
}

function store(value: number, type: FloatType): number {
  return decodeFloats(encodeFloats([value], type), type)[0] ?? Number.NaN;
}
