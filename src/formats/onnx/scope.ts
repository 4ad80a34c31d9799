// Which node makes a value, and which read it, subgraphs and functions included.

import { CheckpointError, type CheckpointErrorCode, escapeControls, quote } from '../../errors.js';
import {
  describeNode,
  type OnnxAttribute,
  type OnnxFunction,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxSparseTensor,
  type OnnxTensor,
  type OpsetImports,
  subgraphsOf,
} from './schema.js';

/**
 * The module path that PyTorch's dynamo exporter writes into a node's metadata.
 *
 * @param nameScopes `pkg.torch.onnx.name_scopes`, a Python list literal of the scopes from the model down to the
 *   operation: `['', 'backbone', 'backbone.stem', 'backbone.stem.bn', '_native_batch_norm_legit_no_training']`.
 * @returns the last but one, the module that ran the operation; null where there is none.
 */
export function pathFromNameScopes(nameScopes: string): string | null {
  const scopes = [...nameScopes.matchAll(/'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"/g)].map(
    ([, single, double]) => single ?? double ?? '',
  );
  // A module's later calls are numbered: `bn@1`.
  return scopes.at(-2)?.replace(/@\d+$/, '') || null;
}

/** The operation in which a dynamo node's scopes end, such as `conv2d`; empty where they tell none. */
export function operationFromNameScopes(nameScopes: string): string {
  return /['"]([^'"]*)['"]\s*\]\s*$/.exec(nameScopes)?.[1] ?? '';
}

/**
 * The module path in a node name of PyTorch's TorchScript exporter.
 *
 * Modules in a container repeat its name: `/backbone/layer1/layer1.0/bn1/BatchNormalization` is `backbone.layer1.0.bn1`,
 * `/features/features.1/conv/conv.0/conv.0.1/BatchNormalization` is `features.1.conv.0.1`.
 *
 * @returns null for names of another form.
 */
export function pathFromNodeName(nodeName: string): string | null {
  if (!nodeName.startsWith('/')) return null;
  const modules: string[] = [];
  for (const part of nodeName.split('/').slice(1, -1)) {
    const parent = modules.at(-1);
    if (parent !== undefined && part.startsWith(`${parent}.`)) modules.pop();
    modules.push(part);
  }
  return modules.join('.') || null;
}

/** The module that a weight belongs to by its name, as PyTorch's state dicts name them; null for other names. */
export function pathFromWeightName(weightName: string): string | null {
  return /^(.+)\.weight$/.exec(weightName)?.[1] ?? null;
}

/**
 * What ONNX Runtime's optimizer puts before the names of tensors that it has fused: `ConvBnFusion_W_stem.conv.weight` and
 * `ConvBnFusion_BN_B_stem.bn.bias`. It fuses one node after the other, so that there may be several.
 */
const FUSION_PREFIX = /^(?:(?:Conv|MatMul)(?:Bn|Mul|Add)Fusion_(?:BN_|Mul_|Add_)?(?:[WB]|Gemm[A-Za-z]*)_)+/;

/** What it puts behind a name that is taken. */
const TAKEN_SUFFIX = /_token_\d+$/;

/** The name that a tensor had before ONNX Runtime's optimizer fused it; null where it did not, by the name. */
export function nameBeforeFusion(name: string): string | null {
  const own = name.replace(FUSION_PREFIX, '');
  return own === name ? null : own.replace(TAKEN_SUFFIX, '');
}

/** Calls of local functions, all expansions together: functions that call each other twice double at every step. */
const MAX_CALLS = 20_000;

/** Nodes visited and names of subgraphs and calls, those of functions counted at every call. */
const MAX_VISITED_NODES = 1_000_000;

/** Functions within functions; exporters nest modules, some ten deep. */
const MAX_CALL_DEPTH = 100;

/** What a name stands for. */
export type Definition =
  | { readonly kind: 'initializer'; readonly tensor: OnnxTensor; readonly overridable: boolean }
  | { readonly kind: 'sparse-initializer'; readonly tensor: OnnxSparseTensor; readonly overridable: boolean }
  | { readonly kind: 'graph-input' }
  /** A function's input: what the call passes. */
  | { readonly kind: 'bound'; readonly scope: Scope; readonly name: string }
  | { readonly kind: 'node-output'; readonly node: OnnxNode; readonly index: number };

/** The names of a graph, of one subgraph, or of one call of a function. */
export interface Scope {
  /** The scope whose names a subgraph sees as well; null for the main graph and for functions, which see no other. */
  readonly parent: Scope | null;
  readonly isMain: boolean;
  /** The node that runs this subgraph or function; null for the main graph. */
  readonly caller: Site | null;
  /** Names of the enclosing subgraphs and calls, outermost first. */
  readonly path: readonly string[];
  readonly opsets: OpsetImports;
  readonly definitions: ReadonlyMap<string, Definition>;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** The attributes of the function call that this scope belongs to; what `ref_attr_name` refers to. */
  readonly callAttributes: ReadonlyMap<string, OnnxAttribute>;
  /** The bodies that a node of this scope runs: of a called function, or of If, Loop and Scan. */
  readonly bodies: Map<OnnxNode, readonly Scope[]>;
}

/** A definition and the scope that holds it. */
export interface Found {
  readonly scope: Scope;
  readonly name: string;
  readonly definition: Definition;
}

/** A node where it stands. */
export interface Site {
  readonly node: OnnxNode;
  readonly scope: Scope;
}

/** Looks a name up, in the scope and in those around it; null where nothing defines it. */
export function findName(scope: Scope, name: string): Found | null {
  for (let at: Scope | null = scope; at !== null; at = at.parent) {
    const definition = at.definitions.get(name);
    if (definition !== undefined) return { scope: at, name, definition };
  }
  return null;
}

/** An attribute of a node, followed to the call of the enclosing function where it refers to one; null without. */
export function findAttribute(site: Site, name: string): OnnxAttribute | null {
  const attribute = site.node.attributes.get(name);
  if (attribute === undefined) return null;
  if (attribute.refName === '') return attribute;
  return site.scope.callAttributes.get(attribute.refName) ?? null;
}

/** Version of the standard operators in a scope; 0 where none is imported. */
export function opsetOf(scope: Scope): number {
  return scope.opsets.get('') ?? 0;
}

/**
 * Visits every node of a model in file order, which is topological: main graph, subgraphs where their node stands,
 * functions at every call.
 *
 * @returns the main scope.
 * @throws CheckpointError `malformed` for a function that calls itself or a name that is defined twice,
 *   `limit-exceeded` when the expanded model is too large.
 */
export function visitNodes(
  model: OnnxModel,
  graph: OnnxGraph,
  file: string,
  visit: (site: Site) => void,
): Scope {
  return new ModelWalk(model, file).run(graph, visit);
}

interface Frame {
  readonly scope: Scope;
  readonly nodes: readonly OnnxNode[];
  next: number;
  /** The functions around, outermost first. */
  readonly calls: readonly OnnxFunction[];
}

class ModelWalk {
  readonly #model: OnnxModel;
  readonly #file: string;
  readonly #functions: ReadonlyMap<string, OnnxFunction>;

  constructor(model: OnnxModel, file: string) {
    this.#model = model;
    this.#file = file;
    this.#functions = new Map(
      model.functions.map((body) => [functionKey(body.domain, body.name, body.overload), body]),
    );
  }

  run(graph: OnnxGraph, visit: (site: Site) => void): Scope {
    const main = this.#graphScope(graph, null, []);
    const stack: Frame[] = [{ scope: main, nodes: graph.nodes, next: 0, calls: [] }];
    let calls = 0;
    let visited = 0;
    for (let frame = stack.at(-1); frame !== undefined; frame = stack.at(-1)) {
      const node = frame.nodes[frame.next++];
      if (node === undefined) {
        stack.pop();
        continue;
      }
      const site = { node, scope: frame.scope };
      const callee = this.#functions.get(functionKey(node.domain, node.op, node.overload));
      if (callee === undefined) visit(site);
      else if (++calls > MAX_CALLS) throw this.#tooLarge(`${MAX_CALLS} function calls`);
      const entered =
        callee === undefined
          ? this.#enterSubgraphs(site, frame.calls)
          : [this.#enterCall(site, callee, frame.calls)];
      const bodies = entered.map(({ scope }) => scope);
      if (bodies.length > 0) site.scope.bodies.set(node, bodies);
      visited += entered.reduce((count, { scope }) => count + scope.definitions.size, 1);
      if (visited > MAX_VISITED_NODES) throw this.#tooLarge(`${MAX_VISITED_NODES} nodes and names`);
      stack.push(...entered.reverse());
    }
    return main;
  }

  /** @param caller the node that runs a subgraph; null for the main graph. */
  #graphScope(graph: OnnxGraph, caller: Site | null, path: readonly string[]): Scope {
    const parent = caller?.scope ?? null;
    const opsets = parent?.opsets ?? this.#standardOpsets();
    const definitions = new Map<string, Definition>();
    const inputs = new Set(graph.inputs);
    // An initializer of an input is a default that a caller may replace; before IR version 4 it is no default.
    const isOverridable = (name: string) => caller === null && this.#model.irVersion >= 4 && inputs.has(name);
    const define = (name: string, definition: Definition) => {
      const message = `tensor ${quote(name)}: expected one initializer of that name, found it twice (duplicate)`;
      if (definitions.has(name)) throw this.#error(message);
      definitions.set(name, definition);
    };
    for (const tensor of graph.initializers)
      define(tensor.name, { kind: 'initializer', tensor, overridable: isOverridable(tensor.name) });
    for (const tensor of graph.sparseInitializers) {
      const { name } = tensor.values;
      define(name, { kind: 'sparse-initializer', tensor, overridable: isOverridable(name) });
    }
    for (const name of inputs) if (!definitions.has(name)) definitions.set(name, { kind: 'graph-input' });
    this.#defineOutputs(definitions, graph.nodes);
    return {
      parent,
      isMain: parent === null,
      caller,
      path,
      opsets,
      definitions,
      inputs: graph.inputs,
      outputs: graph.outputs,
      callAttributes: parent?.callAttributes ?? new Map(),
      bodies: new Map(),
    };
  }

  /** Before IR version 3 models import no operator set and mean version 1 (docs/IR.md). */
  #standardOpsets(): OpsetImports {
    const { irVersion, opsets } = this.#model;
    if (irVersion < 3) return new Map([...opsets, ['', 1] as const]);
    if (opsets.size > 0) return opsets;
    throw this.#error('expected a model that imports an operator set, found none: is the file incomplete?');
  }

  /**
   * Adds what nodes write. A graph is in static single assignment form (docs/IR.md): each name is defined once, or what a
   * node reads would depend on who looks; a subgraph may define the names around it again.
   */
  #defineOutputs(definitions: Map<string, Definition>, nodes: readonly OnnxNode[]): void {
    for (const node of nodes) {
      for (const [index, name] of node.outputs.entries()) {
        if (name === '') continue;
        const other = definitions.get(name);
        if (other !== undefined) {
          const owner = other.kind === 'node-output' ? describeNode(other.node) : 'an input or initializer';
          const found = `found ${quote(name)}, which is that of ${owner} as well (duplicate)`;
          throw this.#error(`${describeNode(node)}: expected outputs of names of their own, ${found}`);
        }
        definitions.set(name, { kind: 'node-output', node, index });
      }
    }
  }

  /** Subgraphs are attributes of their node; a name for the path, a scope that sees the outer names. */
  #enterSubgraphs(site: Site, calls: Frame['calls']): Frame[] {
    const { node, scope } = site;
    const frames: Frame[] = [];
    for (const { name } of node.attributes.values()) {
      const attribute = findAttribute(site, name);
      for (const graph of attribute === null ? [] : subgraphsOf(attribute)) {
        const path = [...scope.path, `${node.name || node.op}.${name}`];
        const body = this.#graphScope(graph, site, path);
        frames.push({ scope: body, nodes: graph.nodes, next: 0, calls });
      }
    }
    return frames;
  }

  #enterCall(site: Site, callee: OnnxFunction, outer: Frame['calls']): Frame {
    if (outer.includes(callee)) {
      const found = `found function ${quote(callee.name)} calling itself (recursion)`;
      throw this.#error(`expected local functions that end, ${found}`);
    }
    if (outer.length === MAX_CALL_DEPTH) {
      const message = `expected local functions nested at most ${MAX_CALL_DEPTH} deep, found deeper ones`;
      throw this.#error(message, 'limit-exceeded');
    }
    const scope = this.#callScope(site, callee);
    return { scope, nodes: callee.nodes, next: 0, calls: [...outer, callee] };
  }

  #callScope(site: Site, callee: OnnxFunction): Scope {
    const { node, scope } = site;
    const definitions = new Map<string, Definition>();
    for (const [index, formal] of callee.inputs.entries()) {
      // An input that the call leaves out keeps the empty name, which nothing defines.
      definitions.set(formal, { kind: 'bound', scope, name: node.inputs[index] ?? '' });
    }
    this.#defineOutputs(definitions, callee.nodes);
    const callAttributes = new Map(callee.defaults);
    for (const name of node.attributes.keys()) {
      const attribute = findAttribute(site, name);
      if (attribute !== null) callAttributes.set(name, attribute);
    }
    return {
      parent: null,
      isMain: false,
      caller: site,
      path: [...scope.path, node.name || node.op],
      opsets: callee.opsets,
      definitions,
      inputs: callee.inputs,
      outputs: callee.outputs,
      callAttributes,
      bodies: new Map(),
    };
  }

  #tooLarge(limit: string): CheckpointError {
    const message = `expected a model of at most ${limit} with its local functions expanded, found more: too large`;
    return this.#error(message, 'limit-exceeded');
  }

  #error(message: string, code: CheckpointErrorCode = 'malformed'): CheckpointError {
    return new CheckpointError(message, { code, file: this.#file });
  }
}

function functionKey(domain: string, name: string, overload: string): string {
  return JSON.stringify([domain, name, overload]);
}

/** How messages name a node and where it stands. */
export function describeSite(site: Site): string {
  const where = site.scope.path.length === 0 ? '' : ` in ${describeScope(site.scope)}`;
  return `${describeNode(site.node)}${where}`;
}

/** Longer paths are shortened in messages: what is innermost says most. */
const MAX_PATH_LENGTH = 160;

/** How messages name the subgraphs and calls around a scope. */
export function describeScope({ path }: Scope): string {
  const text = path.join(' / ');
  return escapeControls(text.length <= MAX_PATH_LENGTH ? text : `…${text.slice(-MAX_PATH_LENGTH)}`);
}
