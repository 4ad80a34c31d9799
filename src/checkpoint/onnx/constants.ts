import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { type Constant, type Evaluator, undecodable, unresolved } from './constant.js';
import { applyConcat, applyShape, applyUnary, isUnaryOperator } from './constant-operators.js';
import { makeConstant, makeConstantOfShape, makeDense } from './constant-sources.js';
import { describeNode, type OnnxNode } from './model.js';
import {
  type Definition,
  describeScope,
  describeSite,
  type Found,
  findName,
  type Scope,
  type Site,
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
