import { findProducer, isStandard } from '../checkpoint/onnx/follow.js';
import { findName, type Scope, type Site } from '../checkpoint/onnx/scope.js';

/** An input of a node. */
export interface NodeInput {
  readonly site: Site;
  readonly index: number;
}

/** More calls than any model nests; the reader of the model has its own, lower limit. */
const MAX_STEPS = 1_000;

/**
 * The input at which a statistic enters: the norm node's own, or that of the Tile which repeats it for the batch
 * (InstanceNorm), or of the function call that hands it in.
 *
 * @returns null where a local function makes the statistic itself: its body stands for every call.
 */
export function findSupply(norm: Site, index: number): NodeInput | null {
  let at: NodeInput = { site: norm, index };
  const producer = findProducer(norm.scope, nameAt(at));
  if (producer !== null && isStandard(producer.node, 'Tile') && producer.scope === norm.scope) {
    at = { site: producer, index: 0 };
  }
  for (let step = 0; step < MAX_STEPS; step++) {
    if (isInGraph(at.site.scope)) return at;
    const found = findName(at.site.scope, nameAt(at));
    const caller = found?.scope.caller ?? null;
    if (found === null || caller === null || found.definition.kind !== 'bound') return null;
    const position = found.scope.inputs.indexOf(found.name);
    if (position < 0) return null;
    at = { site: caller, index: position };
  }
  return null;
}

function nameAt({ site, index }: NodeInput): string {
  return site.node.inputs[index] ?? '';
}

/** Whether a scope is the main graph or lies in it, functions left out: then the main graph's names are seen there. */
export function isInGraph(scope: Scope): boolean {
  for (let at: Scope | null = scope; at !== null; at = at.parent) if (at.isMain) return true;
  return false;
}
