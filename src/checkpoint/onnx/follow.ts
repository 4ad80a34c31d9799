import { calledBody, nextName } from './constants.js';
import type { OnnxNode } from './model.js';
import { isGeneratedName } from './module-path.js';
import { type Found, findName, type Scope, type Site } from './scope.js';

/** Steps from one name to the next; a longer chain keeps the name that was reached. */
const MAX_STEPS = 1_000;

/** A name in a scope. */
export interface ScopedName {
  readonly scope: Scope;
  readonly name: string;
}

/**
 * The definition behind a name: function inputs are followed to the call, outputs of calls into the function, and
 * outside the main graph, where names are not the model's own, Identity to its input.
 *
 * @returns null where nothing defines the name.
 */
export function followAliases(scope: Scope, name: string): Found | null {
  let found = findName(scope, name);
  for (let step = 0; found !== null && step < MAX_STEPS; step++) {
    const next = nextAlias(found);
    if (next === null) return found;
    found = findName(next.scope, next.name);
  }
  return found;
}

function nextAlias(found: Found): ScopedName | null {
  const { scope, definition } = found;
  if (definition.kind === 'bound') return nextName(found);
  if (definition.kind !== 'node-output') return null;
  const isInnerIdentity = !scope.isMain && isStandard(definition.node, 'Identity');
  return isInnerIdentity || calledBody(scope, definition.node) !== null ? nextName(found) : null;
}

/** The node that computes a name, across calls and through every Identity; null for what no node computes. */
export function findProducer(scope: Scope, name: string): Site | null {
  let found = followAliases(scope, name);
  for (let step = 0; found !== null && step < MAX_STEPS; step++) {
    const { definition } = found;
    if (definition.kind !== 'node-output') return null;
    if (!isStandard(definition.node, 'Identity')) return { node: definition.node, scope: found.scope };
    found = followAliases(found.scope, definition.node.inputs[0] ?? '');
  }
  return null;
}

/**
 * The name that a tensor bears in the model: that of the initializer, or of the Identity that recreates a name which
 * the exporter shared; made-up names of intermediate results give way to the initializer's behind them.
 */
export function findTrueName(scope: Scope, name: string): string {
  if (name === '') return '';
  const found = followAliases(scope, name);
  if (found === null) return name;
  if (!isGeneratedName(found.name) && found.scope.isMain) return found.name;
  for (let at: Found | null = found, step = 0; at !== null && step < MAX_STEPS; step++) {
    if (at.definition.kind === 'initializer' || at.definition.kind === 'sparse-initializer') return at.name;
    if (at !== found && at.scope.isMain && !isGeneratedName(at.name)) return at.name;
    const next = nextName(at);
    at = next === null ? null : findName(next.scope, next.name);
  }
  return found.name;
}

/** Whether a node is an operator of the standard domain. */
export function isStandard(node: OnnxNode, op: string): boolean {
  return node.domain === '' && node.op === op;
}
