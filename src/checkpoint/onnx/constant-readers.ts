import { failUnreachable } from '../../errors.js';
import { isStandard, nextShared, walkUpstream } from './follow.js';
import type { OnnxGraph, OnnxModel, OnnxNode, OnnxSparseTensor, OnnxTensor } from './model.js';
import { type Found, type Scope, type Site, visitNodes } from './scope.js';

/** What stands behind a name once calls and Identity are followed: a stored tensor, or a node that computes it. */
export type Origin = OnnxTensor | OnnxSparseTensor | OnnxNode;

/** A name followed to its origin. */
export interface Followed {
  readonly found: Found;
  readonly origin: Origin | null;
  /** The first name of the main graph on the way; null where the way never leaves a subgraph or function. */
  readonly mainName: string | null;
}

/** A place where a constant is read: an input of a node, or an output of a graph (node null). */
export interface Reader {
  readonly node: OnnxNode | null;
  readonly index: number;
  readonly scope: Scope;
  readonly mainName: string | null;
}

/** Follows a name through function calls and Identity, also to outer scopes; null where nothing defines it. */
export function followToOrigin(scope: Scope, name: string): Followed | null {
  let mainName: string | null = null;
  for (const found of walkUpstream({ scope, name }, nextShared)) {
    if (found.scope.isMain) mainName ??= found.name;
    if (nextShared(found) === null) return { found, origin: originOf(found), mainName };
  }
  return null;
}

function originOf({ definition }: Found): Origin | null {
  switch (definition.kind) {
    case 'initializer':
    case 'sparse-initializer':
      return definition.tensor;
    case 'node-output':
      return definition.node;
    case 'graph-input':
    case 'bound':
      return null;
    default:
      return failUnreachable(definition);
  }
}

/** Everything that reads one of the origins, calls and Identity seen through. */
export function findReaders(
  model: OnnxModel,
  graph: OnnxGraph,
  { file, origins }: { readonly file: string; readonly origins: ReadonlySet<Origin> },
): ReadonlyMap<Origin, readonly Reader[]> {
  const readers = new Map<Origin, Reader[]>();
  const scopes = new Set<Scope>();
  const note = (scope: Scope, name: string, node: OnnxNode | null, index: number) => {
    const followed = name === '' ? null : followToOrigin(scope, name);
    if (followed?.origin == null || !origins.has(followed.origin)) return;
    const list = readers.get(followed.origin) ?? [];
    list.push({ node, index, scope, mainName: followed.mainName });
    readers.set(followed.origin, list);
  };
  const sites: Site[] = [];
  const main = visitNodes(model, graph, file, (site) => sites.push(site));
  scopes.add(main);
  for (const { node, scope } of sites) {
    scopes.add(scope);
    if (isStandard(node, 'Identity')) continue;
    for (const [index, name] of node.inputs.entries()) note(scope, name, node, index);
  }
  // What a subgraph returns is read where its node stands; a function's outputs are followed from their readers.
  for (const scope of scopes) {
    if (!scope.isMain && scope.parent === null) continue;
    for (const [index, name] of scope.outputs.entries()) note(scope, name, null, index);
  }
  return readers;
}
