import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import type { Graph } from '../checkpoint/graph.js';
import { hasWrappers, isFlatStatistic, listWrappers, toDottedName, withoutWrappers } from './naming.js';

/** What the names of a checkpoint are read from. */
export type NameSource = Pick<Checkpoint, 'tensors' | 'graph'>;

/** How the names of a checkpoint are read. */
interface Reading {
  /** Whether its names are flat, as those of MXNet and Caffe2 are. */
  readonly isFlat: boolean;
  /** Names that stay as they are: as dotted names, two of them would be the same. */
  readonly alike: ReadonlySet<string>;
  /** Paths of wrappers that are no mere wrappers: without them, two names would be the same. */
  readonly kept: ReadonlySet<string>;
  /** Whether every tensor is called by its own name: then none has to be kept a second time. */
  readonly isPlain: boolean;
}

/** Each checkpoint's, once found. */
const readings = new WeakMap<Checkpoint['tensors'], Reading>();
const dottedTensors = new WeakMap<Checkpoint['tensors'], ReadonlyMap<string, Tensor>>();

/**
 * The dotted name of a tensor of a checkpoint, by {@link toDottedName} and without wrappers. Names that come to the
 * same path (`bn.weight` and `params.bn.weight`, `x:0` and `x:1`, `bn.weight` and `module.bn.weight`) stay as they
 * are: none of them must hide another.
 */
export function dottedNameOf(name: string, checkpoint: NameSource): string {
  return withoutWrappers(wrappedNameOf(name, checkpoint), readingOf(checkpoint).kept);
}

/** The same with its wrappers, such as `module.layer1.bn1.weight`: as the file spells it, but for the separators. */
export function wrappedNameOf(name: string, checkpoint: NameSource): string {
  const { alike, isFlat } = readingOf(checkpoint);
  return alike.has(name) ? name : toDottedName(name, isFlat);
}

/** A module path, or a leading part of one, as the checkpoint's dotted names have it: without wrappers. */
export function modulePathOf(path: string, checkpoint: NameSource): string {
  return path === '' ? '' : withoutWrappers(`${path}.`, readingOf(checkpoint).kept).slice(0, -1);
}

/** The tensors of a checkpoint by their dotted names, in file order. */
export function dottedTensorsOf(checkpoint: NameSource): ReadonlyMap<string, Tensor> {
  if (readingOf(checkpoint).isPlain) return checkpoint.tensors;
  let tensors = dottedTensors.get(checkpoint.tensors);
  if (tensors === undefined) {
    tensors = new Map(
      [...checkpoint.tensors].map(([name, tensor]) => [dottedNameOf(name, checkpoint), tensor]),
    );
    dottedTensors.set(checkpoint.tensors, tensors);
  }
  return tensors;
}

function readingOf({ tensors, graph }: NameSource): Reading {
  let reading = readings.get(tensors);
  if (reading === undefined) {
    reading = findReading(tensors, graph);
    readings.set(tensors, reading);
  }
  return reading;
}

function findReading(tensors: ReadonlyMap<string, Tensor>, graph: Graph | null): Reading {
  const names = [...tensors.keys()];
  const isFlat = names.some(isFlatStatistic);
  const areDotted = names.every((name) => toDottedName(name, isFlat) === name);
  const alike = areDotted ? NONE : findAlike(names, isFlat);
  const dotted = areDotted
    ? names
    : names.map((name) => (alike.has(name) ? name : toDottedName(name, isFlat)));
  const paths = [...dotted, ...listModulePaths(graph)];
  // Without wrappers, different names stay different.
  const areBare = !paths.some(hasWrappers);
  return { isFlat, alike, kept: areBare ? NONE : findKeptWrappers(paths), isPlain: areDotted && areBare };
}

const NONE: ReadonlySet<string> = new Set();

function findAlike(names: readonly string[], isFlat: boolean): ReadonlySet<string> {
  const alike = new Set<string>();
  const firstOf = new Map<string, string>();
  for (const name of names) {
    const path = toDottedName(name, isFlat);
    const first = firstOf.get(path);
    if (first === undefined) firstOf.set(path, name);
    else alike.add(first).add(name);
  }
  return alike;
}

/** Paths that a graph's nodes tell, each with a dot behind it: modules, so that no tensor is called the same. */
function listModulePaths(graph: Graph | null): readonly string[] {
  const { norms, linears } = graph ?? { norms: [], linears: [] };
  const paths = [
    ...norms.map(({ path }) => path),
    ...linears.flatMap(({ path, foldedNormPath }) => [path, foldedNormPath]),
  ];
  return paths.flatMap((path) => (path === null ? [] : `${path}.`));
}

function findKeptWrappers(names: readonly string[]): ReadonlySet<string> {
  const kept = new Set<string>();
  const owners = new Map<string, string>();
  for (const name of names) {
    const bare = withoutWrappers(name);
    const owner = owners.get(bare);
    if (owner === undefined) owners.set(bare, name);
    else if (owner !== name) for (const path of [owner, name].flatMap(listWrappers)) kept.add(path);
  }
  return kept;
}
