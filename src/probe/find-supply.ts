import { findTile, walkUpstream } from '../checkpoint/onnx/follow.js';
import type { Found, Scope, Site } from '../checkpoint/onnx/scope.js';

/** An input of a node. */
export interface NodeInput {
  readonly site: Site;
  readonly index: number;
}

/**
 * The input at which a statistic enters: the norm node's own, or that of the Tile which repeats it for the batch
 * (InstanceNorm), or of the function call that hands it in.
 *
 * @returns null where a local function makes the statistic itself: its body stands for every call.
 */
export function findSupply(norm: Site, index: number): NodeInput | null {
  let at: NodeInput = { site: norm, index };
  const tile = findTile(norm.scope, nameAt(at));
  if (tile !== null) at = { site: tile, index: 0 };
  const start = { scope: at.site.scope, name: nameAt(at) };
  const nextBound = ({ definition }: Found) => (definition.kind === 'bound' ? definition : null);
  for (const { scope, name, definition } of walkUpstream(start, nextBound)) {
    if (isInGraph(at.site.scope)) return at;
    const { caller } = scope;
    if (caller === null || definition.kind !== 'bound') return null;
    at = { site: caller, index: scope.inputs.indexOf(name) };
  }
  return isInGraph(at.site.scope) ? at : null;
}

function nameAt({ site, index }: NodeInput): string {
  return site.node.inputs[index] ?? '';
}

/** Whether a scope is the main graph or lies in it, functions left out: then the main graph's names are seen there. */
export function isInGraph(scope: Scope): boolean {
  for (let at: Scope | null = scope; at !== null; at = at.parent) if (at.isMain) return true;
  return false;
}
