// Walks upstream in a graph: to the constant, the node or the input that a value comes from.

import { CheckpointError, type CheckpointErrorCode, failUnreachable, quote } from '../../errors.js';
import { isGeneratedName } from '../../norm/naming.js';
import {
  type Constant,
  type Evaluator,
  makeConstant,
  makeConstantOfShape,
  makeDense,
  undecodable,
  unresolved,
} from './constant-sources.js';
import { applyConcat, applyShape, applyUnary, isUnaryOperator } from './operators.js';
import {
  describeNode,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxSparseTensor,
  type OnnxTensor,
} from './schema.js';
import {
  type Definition,
  describeScope,
  describeSite,
  type Found,
  findName,
  type Scope,
  type Site,
  visitNodes,
} from './scope.js';
import { locateTensor, nameDataType, type TensorStore } from './stored-tensor.js';

/** Operators with several constant inputs, one inside the other; more than any exporter nests to build one vector. */
const MAX_NESTED_OPERATORS = 64;

/** Constants that are computed in memory, all of a model together; those that feed norm layers are vectors of a few kB. */
const MAX_COMPUTED_BYTES = 64 * 1024 * 1024;

/**
 * Finds out what names stand for: initializers, Constant nodes, and operators over them. Stored data stays where it
 * is; what has to be computed is either a view, or small and in memory. Results are kept, so a chain is walked once.
 */
export class ConstantEvaluator implements Evaluator {
  readonly store: TensorStore;
  readonly #results = new Map<Definition, Constant>();
  readonly #active = new Set<Definition>();
  #nesting = 0;
  #computedBytes = 0;

  constructor(store: TensorStore) {
    this.store = store;
  }

  /**
   * Evaluates a name in a scope. One evaluation at a time.
   *
   * @throws CheckpointError `malformed` where nothing supplies the name, nodes form a cycle, or data is broken;
   *   `limit-exceeded` where a constant is too large to compute.
   */
  async evaluate(scope: Scope, name: string): Promise<Constant> {
    if (this.#nesting > MAX_NESTED_OPERATORS)
      return unresolved('it is computed by more operators than are followed');
    const chain: Found[] = [];
    this.#nesting++;
    try {
      const base = await this.#walkDown(scope, name, chain);
      return await this.#walkUp(base, chain);
    } finally {
      this.#nesting--;
      for (const found of chain) this.#active.delete(found.definition);
    }
  }

  /** Follows names that one other name determines; an explicit list, because chains may be of any length. */
  async #walkDown(scope: Scope, name: string, chain: Found[]): Promise<Constant> {
    let at = { scope, name };
    for (;;) {
      const found = findName(at.scope, at.name);
      if (found === null)
        throw this.error(`expected a tensor ${quote(at.name)}, found nothing that supplies it`);
      const known = this.#results.get(found.definition);
      if (known !== undefined) return known;
      if (this.#active.has(found.definition)) throw this.#cycleError(found);
      this.#active.add(found.definition);
      chain.push(found);
      const next = nextName(found);
      if (next === null) return await this.#evaluateBase(found);
      if (next.name === '') return unresolved('the function call leaves this input out');
      at = next;
    }
  }

  /** Applies the operators of a chain, from its base to the name that was asked for. */
  async #walkUp(base: Constant, chain: readonly Found[]): Promise<Constant> {
    let value = base;
    for (const { scope, definition } of chain.toReversed()) {
      if (
        definition.kind === 'node-output' &&
        isUnaryOperator(definition.node) &&
        value.kind !== 'unresolved'
      ) {
        value = await applyUnary(this, { node: definition.node, scope }, value);
      }
      this.#results.set(definition, value);
    }
    return value;
  }

  async #evaluateBase({ scope, name, definition }: Found): Promise<Constant> {
    switch (definition.kind) {
      case 'initializer': {
        const tensor = locateTensor(definition.tensor, name, this.store);
        if (tensor === null) {
          return undecodable(
            `tensor ${quote(name)} has the type ${nameDataType(definition.tensor.dataType)}`,
          );
        }
        return { kind: 'constant', tensor, source: 'initializer', overridable: definition.overridable };
      }
      case 'sparse-initializer': {
        const tensor = await makeDense(this, definition.tensor, name);
        return {
          kind: 'constant',
          tensor,
          source: 'sparse initializer',
          overridable: definition.overridable,
        };
      }
      case 'graph-input':
        return unresolved(
          scope.isMain
            ? `the graph input ${quote(name)} supplies it at run time`
            : `the input ${quote(name)} of the subgraph ${describeScope(scope)} supplies it at run time`,
        );
      case 'node-output':
        return await this.#evaluateNode({ node: definition.node, scope }, name);
      case 'bound':
        throw new Error('a bound name was not followed');
      default: {
        const never: never = definition;
        return never;
      }
    }
  }

  async #evaluateNode(site: Site, name: string): Promise<Constant> {
    const { node } = site;
    if (node.domain === '') {
      if (node.op === 'Constant') return await makeConstant(this, site, name);
      if (node.op === 'ConstantOfShape') return await makeConstantOfShape(this, site, name);
      if (node.op === 'Concat') return await applyConcat(this, site, name);
      if (node.op === 'Shape') return await applyShape(this, site, name);
    }
    return unresolved(`${describeSite(site)} computes it at run time`);
  }

  reserve(byteLength: number): boolean {
    this.#computedBytes += byteLength;
    return this.#computedBytes <= MAX_COMPUTED_BYTES;
  }

  /** An error about the model's file. */
  error(message: string, code: CheckpointErrorCode = 'malformed'): CheckpointError {
    return new CheckpointError(message, { code, file: this.store.file.name });
  }

  #cycleError({ name, definition }: Found): CheckpointError {
    const node = definition.kind === 'node-output' ? ` (${describeNode(definition.node)})` : '';
    return this.error(`expected a constant, found ${quote(name)} computed from itself: a cycle${node}`);
  }
}

/** The name that determines a definition: a call's argument, a body's output, an operator's data input; else null. */
export function nextName({
  scope,
  definition,
}: Found): { readonly scope: Scope; readonly name: string } | null {
  if (definition.kind === 'bound') return { scope: definition.scope, name: definition.name };
  if (definition.kind !== 'node-output') return null;
  const { node, index } = definition;
  const called = calledBody(scope, node);
  if (called !== null) return { scope: called, name: called.outputs[index] ?? '' };
  const input = node.inputs[0] ?? '';
  return isUnaryOperator(node) && index === 0 && input !== '' ? { scope, name: input } : null;
}

/** The scope of the local function that a node calls; null where it is an operator. */
export function calledBody(scope: Scope, node: OnnxNode): Scope | null {
  const [body] = scope.bodies.get(node) ?? [];
  // A subgraph sees the names around it, a function sees none.
  return body !== undefined && body.parent === null ? body : null;
}

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
function nextShared(found: Found): ScopedName | null {
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

/** What stands behind a name once calls and Identity are followed: a stored tensor, or a node that computes it. */
export type Origin = OnnxTensor | OnnxSparseTensor | OnnxNode;

/** A name followed to its origin. */
interface Followed {
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
