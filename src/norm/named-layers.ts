import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { isDecodable } from '../checkpoint/dtype.js';
import { quote } from '../errors.js';
import { dottedTensorsOf, wrappedNameOf } from './dotted-names.js';
import { findLearnedTensors } from './learned-tensors.js';
import { NAMING_CONVENTIONS, type NamingConvention, splitPath } from './naming.js';
import { findNamedNeighbours } from './neighbours.js';
import { type LayersAndLearned, type NormLayer, refuseTooManyLayers, type Statistic } from './norm-layer.js';

/**
 * Finds norm layers by the names of their tensors: a running mean and a running variance under one module path, by
 * any convention of {@link NAMING_CONVENTIONS}. A layer that has lost one of the two is reported as unresolved. Their
 * neighbours are learned tensors, so that all of these are found as well.
 *
 * In the order of the file.
 *
 * @throws CheckpointError `limit-exceeded` for too many layers.
 */
export function findNamedLayers(checkpoint: Checkpoint): LayersAndLearned {
  const tensors = dottedTensorsOf(checkpoint);
  const layers = new Map<string, NamedLayer>();
  /** Statistics of these layers: the second one of each has nothing more to tell. */
  const known = new Set<Tensor>();
  tensors.forEach((tensor, name) => {
    if (!mayBeStatistic(name) || known.has(tensor)) return;
    const layer = findLayerAt(name, tensors, checkpoint);
    if (layer === null || layers.has(layer.name)) return;
    layers.set(layer.name, layer);
    if (layer.mean.kind === 'stored') known.add(layer.mean.tensor);
    if (layer.variance.kind === 'stored') known.add(layer.variance.tensor);
  });
  refuseTooManyLayers(layers.size, checkpoint.path);
  const found = [...layers.values()];
  const learned = findLearnedTensors(checkpoint, found);
  const positions = checkpoint.inModuleOrder ? findPositions(tensors.keys()) : null;
  const neighbours = findNamedNeighbours(found, learned, positions);
  for (const layer of found) {
    const { names, areCertain } = neighbours.get(layer) ?? { names: [], areCertain: true };
    layer.neighbours = names;
    layer.areNeighboursCertain = areCertain;
  }
  return { layers: found, learned };
}

/** A layer whose neighbours are yet to be found: a copy that has them would be a second one of each in memory. */
interface NamedLayer extends NormLayer {
  neighbours: readonly string[];
  areNeighboursCertain: boolean;
}

/** Where each module's first tensor stands. */
function findPositions(names: Iterable<string>): ReadonlyMap<string, number> {
  const positions = new Map<string, number>();
  for (const name of names) {
    const [module] = splitPath(name);
    if (!positions.has(module)) positions.set(module, positions.size);
  }
  return positions;
}

/** How the mean or the variance ends in every convention, without the longer ones that end like a shorter one. */
const STATISTIC_ENDINGS = [
  ...new Set(NAMING_CONVENTIONS.flatMap(({ mean, variance }) => [mean.slice(1), variance.slice(1)])),
].filter((ending, _, all) => !all.some((other) => other !== ending && ending.endsWith(other)));

/** Whether any name of a checkpoint ends as a statistic's: without one, it has no norm layer. */
export function namesStatistics(checkpoint: Checkpoint): boolean {
  for (const name of dottedTensorsOf(checkpoint).keys()) if (mayBeStatistic(name)) return true;
  return false;
}

/** Most names are told apart by their ends alone. */
function mayBeStatistic(name: string): boolean {
  return STATISTIC_ENDINGS.some((ending) => name.endsWith(ending));
}

function findLayerAt(
  name: string,
  tensors: ReadonlyMap<string, Tensor>,
  checkpoint: Checkpoint,
): NamedLayer | null {
  // A state dict of a bare norm layer has names without a path.
  const rooted = name.includes('.') ? name : `.${name}`;
  const fitting = NAMING_CONVENTIONS.flatMap((convention) => {
    const suffix = [convention.mean, convention.variance].find((ending) => rooted.endsWith(ending));
    return suffix === undefined ? [] : [{ convention, path: withoutDot(rooted.slice(0, -suffix.length)) }];
  });
  // A convention that has both halves goes before one that would have to report a lost half.
  for (const needsBoth of [true, false]) {
    for (const { convention, path } of fitting) {
      const layer = describeLayer(path, convention, { tensors, checkpoint, needsBoth });
      if (layer !== null) return layer;
    }
  }
  return null;
}

function describeLayer(
  path: string,
  convention: NamingConvention,
  {
    tensors,
    checkpoint,
    needsBoth,
  }: { tensors: ReadonlyMap<string, Tensor>; checkpoint: Checkpoint; needsBoth: boolean },
): NamedLayer | null {
  const at = (suffix: string) => tensors.get(path === '' ? withoutDot(suffix) : path + suffix);
  const mean = at(convention.mean);
  const variance = at(convention.variance);
  if ((needsBoth || !convention.isDistinctive) && (mean === undefined || variance === undefined)) return null;
  const [statistic, suffix] = mean === undefined ? [variance, convention.variance] : [mean, convention.mean];
  const wrapped = statistic === undefined ? null : findWrappedPath(statistic, suffix, checkpoint);
  const facts = checkpoint.modules.get(wrapped ?? path);
  if (isObservationNormaliser(at, convention)) return null;
  return {
    name: path,
    wrappedName: wrapped === null || wrapped === path ? undefined : wrapped,
    isNamed: true,
    kind: facts?.className ?? 'BatchNorm',
    channels: (mean ?? variance)?.elementCount ?? 0,
    mean: toStatistic(mean, convention.mean),
    variance: toStatistic(variance, convention.variance),
    gamma: firstOf(convention.gamma, at),
    beta: firstOf(convention.beta, at),
    batchCount: (convention.count === null ? undefined : at(convention.count)) ?? null,
    epsilon: facts?.epsilon ?? null,
    defaultEpsilon: convention.epsilon,
    momentum: facts?.momentum ?? null,
    mode: facts?.training == null ? 'unknown' : facts.training ? 'batch' : 'running',
    nodeName: null,
    isFromGraph: false,
    neighbours: [],
    areNeighboursCertain: true,
    feedingLinear: null,
    notes: [],
  };
}

/** The module path of a statistic as the file spells it; null where the name stayed another. */
function findWrappedPath({ name }: Tensor, suffix: string, checkpoint: Checkpoint): string | null {
  const wrapped = `.${wrappedNameOf(name, checkpoint)}`;
  return wrapped.endsWith(suffix) ? withoutDot(wrapped.slice(0, -suffix.length)) : null;
}

/** rl_games' `RunningMeanStd` and its like normalise observations: they count samples, not batches. */
function isObservationNormaliser(
  at: (suffix: string) => Tensor | undefined,
  convention: NamingConvention,
): boolean {
  return (
    at('.count') !== undefined &&
    (convention.count === null || at(convention.count) === undefined) &&
    convention.gamma.every((suffix) => at(suffix) === undefined)
  );
}

/** The rest of a name behind a dot. */
function withoutDot(rest: string): string {
  return rest.startsWith('.') ? rest.slice(1) : rest;
}

/** A tensor as a statistic: unresolved where it is missing, empty, or of a type that holds no readable floats. */
export function toStatistic(tensor: Tensor | undefined, suffix: string): Statistic {
  if (tensor === undefined) {
    return { kind: 'unresolved', reason: `${withoutDot(suffix)} is missing from the file` };
  }
  if (tensor.elementCount === 0)
    return { kind: 'unresolved', reason: `${quote(tensor.name)} has no channels` };
  if (!isDecodable(tensor.dtype)) {
    return {
      kind: 'unresolved',
      reason: `${quote(tensor.name)} is stored as ${tensor.dtype}, which holds no readable floats`,
    };
  }
  return { kind: 'stored', tensor, source: 'tensor' };
}

/** The first tensor of one value per channel: a matrix under the same path belongs to something else. */
function firstOf(suffixes: readonly string[], at: (suffix: string) => Tensor | undefined): Tensor | null {
  for (const suffix of suffixes) {
    const tensor = at(suffix);
    if (tensor !== undefined && tensor.shape.filter((size) => size !== 1).length <= 1) return tensor;
  }
  return null;
}
