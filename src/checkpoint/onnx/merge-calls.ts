import type { NormNode } from '../graph.js';
import type { Definition } from './scope.js';

/** A norm node and what tells whether another node is the same layer, called again. */
export interface BuiltNorm {
  readonly norm: NormNode;
  readonly definitions: readonly (Definition | null)[];
}

/**
 * Joins nodes that are one layer called several times: the same parameters and settings, and no path of another layer
 * (optimizers share equal initializers between layers).
 */
export function mergeCalls(built: readonly BuiltNorm[]): readonly NormNode[] {
  return groupCalls(built).map((indices) => {
    const calls = indices.flatMap((index) => built[index]?.norm ?? []);
    const [first, ...others] = calls;
    if (first === undefined) throw new RangeError('a layer without a node');
    return others.length === 0 ? first : joinCalls(first, calls);
  });
}

/** For each layer, in the order of {@link mergeCalls}, the indices of the nodes that are its calls; at least one. */
export function groupCalls(built: readonly BuiltNorm[]): readonly (readonly number[])[] {
  const ids = new Map<Definition, number>();
  const layers = new Map<string, number[]>();
  for (const [index, { norm, definitions }] of built.entries()) {
    const parts = definitions.map((definition) => {
      if (definition === null) return `none ${index}`;
      const id = ids.get(definition) ?? ids.size;
      ids.set(definition, id);
      return `${id}`;
    });
    const key = JSON.stringify([...parts, norm.epsilon, norm.momentum, norm.mode, layerPath(norm)]);
    const indices = layers.get(key);
    if (indices === undefined) layers.set(key, [index]);
    else indices.push(index);
  }
  return [...layers.values()];
}

/**
 * What tells a layer from others with the same parameters: its path. TorchScript's exporter numbers the modules of a
 * later call, so that `bn_1` with the parameters of `bn` is `bn`.
 */
function layerPath({ path, inputNames }: NormNode): string | null {
  const owner = /^(.+)\.running_mean$/.exec(inputNames[2])?.[1];
  if (owner === undefined || path === null) return path;
  const modules = owner.split('.');
  const called = path.split('.');
  const isNumbered = (name: string, i: number) =>
    name.replace(/_\d+$/, '') === modules[i] || name === modules[i];
  return called.length === modules.length && called.every(isNumbered) ? owner : path;
}

function joinCalls(first: NormNode, calls: readonly NormNode[]): NormNode {
  const neighbours = [...new Set(calls.flatMap((call) => call.neighbours))];
  const note = `runs at ${calls.length} places of the graph with the same parameters: one layer, listed once`;
  return { ...first, neighbours, notes: [...first.notes, note] };
}
