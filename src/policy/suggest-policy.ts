import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { findLayersAndLearned } from '../norm/find-layers.js';
import { isUnder } from '../norm/naming.js';

/** A part of a model, as a policy would name it. */
export interface ModuleCandidate {
  readonly path: string;
  readonly layers: number;
  readonly learned: number;
}

/** The parts of a model, and which of them people freeze as a rule. */
export interface FrozenSuggestion {
  /** Parts that belong to a backbone. */
  readonly frozen: readonly ModuleCandidate[];
  /** The other parts: heads. */
  readonly others: readonly ModuleCandidate[];
}

/** Names that libraries give to the part that is pretrained and frozen. */
const BACKBONE =
  /^(?:.*_)?(?:backbone|body|encoder|trunk|features?|feature_extractor|bottom_up|stem|base_model)$/i;

/** Names that libraries give to the part that is trained for a task. */
const HEAD =
  /^(?:.*_)?(?:head|heads|classifier|fc|decoder|neck|predictor|logits|proj|projector|top|output)$/i;

/** What holds the model as its only part nests a few deep: model.net. */
const MAX_WRAPPERS = 8;

/**
 * What to put under `frozen` for a model: from one checkpoint alone no one can tell what will be frozen, but a part
 * named like a backbone is meant where there is one; else every part that holds norm layers or feeds them and is not
 * named like a head.
 */
export function suggestFrozen(checkpoint: Checkpoint): FrozenSuggestion {
  const { layers, learned: tensors } = findLayersAndLearned(checkpoint);
  const learned = [...tensors.keys()];
  const feeding = new Set(layers.flatMap(({ neighbours }) => neighbours));
  const parts = listParts([...learned, ...layers.map(({ name }) => `${name}.`)]);
  const candidates = parts.map((path) => ({
    path,
    layers: layers.filter(({ name }) => isUnder(name, path)).length,
    learned: learned.filter((name) => isUnder(name, path)).length,
    feeds: learned.some((name) => feeding.has(name) && isUnder(name, path)),
  }));
  const named = candidates.filter(({ path, layers: count }) => count > 0 && BACKBONE.test(lastOf(path)));
  const unnamed = candidates.filter(
    ({ path, layers: count, feeds }) => (count > 0 || feeds) && !HEAD.test(lastOf(path)),
  );
  const chosen = named.length > 0 ? named : unnamed;
  return {
    frozen: chosen.map(toCandidate),
    others: candidates.filter((candidate) => !chosen.includes(candidate)).map(toCandidate),
  };
}

function toCandidate({ path, layers, learned }: ModuleCandidate): ModuleCandidate {
  return { path, layers, learned };
}

/** The modules below the wrappers: the first level of the tree where it divides, in the checkpoint's order. */
function listParts(names: readonly string[]): readonly string[] {
  let depth = 1;
  let parts = listModules(names, depth);
  while (parts.length === 1 && depth <= MAX_WRAPPERS && !BACKBONE.test(lastOf(parts[0] ?? ''))) {
    const deeper = listModules(names, depth + 1);
    if (deeper.length === 0) break;
    parts = deeper;
    depth++;
  }
  return parts;
}

/** Modules at a depth; a tensor's own name is no module. */
function listModules(names: readonly string[], depth: number): readonly string[] {
  const modules = names
    .map((name) => name.split('.').slice(0, -1))
    .filter((path) => path.length >= depth)
    .map((path) => path.slice(0, depth).join('.'));
  return [...new Set(modules)];
}

/** A glob that means a module and what is below it: a name from a file may hold characters that globs give a meaning. */
export function toGlob(path: string): string {
  return path === '' ? '**' : path.replace(/[\\*?[\]{}()!+@|^$"'<>]/g, '\\$&');
}

function lastOf(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1);
}
