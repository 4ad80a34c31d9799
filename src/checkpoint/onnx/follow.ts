import { calledBody, nextName } from './constants.js';
import type { OnnxNode } from './model.js';
import { isGeneratedName } from './module-path.js';
import { type Found, findName, type Scope, type Site } from './scope.js';

/** Steps from one name to the next; a longer chain ends at the name that was reached. */
const MAX_STEPS = 10_000;

/** A name in a scope. */
export interface ScopedName {
  readonly scope: Scope;
  readonly name: string;
}

/**
 * The definitions on the way upstream from a name, its own first. E.g. of what a norm layer in a function reads: the
 * function's input, then the initializer that the call hands in.
 *
 * @param next the name to go on with; null where the way ends.
 */
export function* walkUpstream(
  { scope, name }: ScopedName,
  next: (found: Found) => ScopedName | null,
): Generator<Found, void> {
  let at: ScopedName | null = { scope, name };
  for (let step = 0; at !== null && step < MAX_STEPS; step++) {
    const found = findName(at.scope, at.name);
    if (found === null) return;
    yield found;
    at = next(found);
  }
}

/**
 * The definition behind a name: function inputs are followed to the call, outputs of calls into the function, and
 * outside the main graph, where names are not the model's own, Identity to its input.
 *
 * @returns null where nothing defines the name.
 */
export function followAliases(scope: Scope, name: string): Found | null {
  let last: Found | null = null;
  for (const found of walkUpstream({ scope, name }, nextAlias)) last = found;
  return last;
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
  for (const found of walkUpstream({ scope, name }, nextShared)) {
    if (nextShared(found) !== null) continue;
    const { definition } = found;
    return definition.kind === 'node-output' ? { node: definition.node, scope: found.scope } : null;
  }
  return null;
}

/** The name that a definition hands on as it is, across calls and through every Identity. */
export function nextShared(found: Found): ScopedName | null {
  const { definition } = found;
  const isIdentity = definition.kind === 'node-output' && isStandard(definition.node, 'Identity');
  return isIdentity ? nextName(found) : nextAlias(found);
}

/**
 * The Tile in a node's own scope that repeats one of its inputs: PyTorch exports InstanceNorm with running statistics as a
 * BatchNormalization over batch · channels, whose parameters are repeated so.
 */
export function findTile(scope: Scope, name: string): Site | null {
  const producer = findProducer(scope, name);
  const isTile = producer !== null && isStandard(producer.node, 'Tile') && producer.scope === scope;
  return isTile ? producer : null;
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
  for (const at of walkUpstream(found, nextName)) {
    if (at.definition.kind === 'initializer' || at.definition.kind === 'sparse-initializer') return at.name;
    if (at.definition !== found.definition && at.scope.isMain && !isGeneratedName(at.name)) return at.name;
  }
  return found.name;
}

/** Whether a node is an operator of the standard domain. */
export function isStandard(node: OnnxNode, op: string): boolean {
  return node.domain === '' && node.op === op;
}
