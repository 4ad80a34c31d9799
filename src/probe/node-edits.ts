import { type OnnxGraph, type OnnxNode, subgraphsOf } from '../checkpoint/onnx/model.js';
import type { Scope, Site } from '../checkpoint/onnx/scope.js';
import type { GraphEdit, NodeEdit } from './edit-model.js';

/** A node edit that is still being put together. */
export interface NodeDraft extends NodeEdit {
  readonly inputs: Map<number, string>;
  readonly outputs: Map<number, string>;
  readonly graphs: Map<string, Map<number, GraphDraft>>;
  readonly following: Uint8Array[];
}

interface GraphDraft extends GraphEdit {
  readonly nodes: Map<number, NodeDraft>;
  readonly appended: Uint8Array[];
}

/** Collects edits of a model by the nodes that they are for, wherever these stand. */
export class NodeEdits {
  /** What {@link editModel} takes. */
  readonly root: GraphDraft = { nodes: new Map(), appended: [] };
  readonly #mainGraph: OnnxGraph;
  readonly #positions = new Map<OnnxGraph, Map<OnnxNode, number>>();

  constructor(mainGraph: OnnxGraph) {
    this.#mainGraph = mainGraph;
  }

  /** The edit of a node; null where it stands in a local function, whose body all calls share. */
  at(site: Site): NodeDraft | null {
    const place = this.#find(site.scope);
    if (place === null) return null;
    const position = this.#positionsIn(place.graph).get(site.node);
    if (position === undefined) return null;
    const known = place.edit.nodes.get(position);
    if (known !== undefined) return known;
    const draft: NodeDraft = { inputs: new Map(), outputs: new Map(), graphs: new Map(), following: [] };
    place.edit.nodes.set(position, draft);
    return draft;
  }

  /** Where along the main graph a node stands, or the node there that holds it. */
  depthOf(site: Site): number {
    let at = site;
    while (at.scope.caller !== null) at = at.scope.caller;
    return this.#positionsIn(this.#mainGraph).get(at.node) ?? 0;
  }

  #find(scope: Scope): { readonly graph: OnnxGraph; readonly edit: GraphDraft } | null {
    if (scope.isMain) return { graph: this.#mainGraph, edit: this.root };
    const { caller } = scope;
    if (scope.parent === null || caller === null) return null;
    const outer = this.at(caller);
    const place = findSubgraph(caller, scope);
    if (outer === null || place === null) return null;
    const inAttribute = outer.graphs.get(place.attribute) ?? new Map<number, GraphDraft>();
    outer.graphs.set(place.attribute, inAttribute);
    const edit: GraphDraft = inAttribute.get(place.position) ?? { nodes: new Map(), appended: [] };
    inAttribute.set(place.position, edit);
    return { graph: place.graph, edit };
  }

  #positionsIn(graph: OnnxGraph): ReadonlyMap<OnnxNode, number> {
    const known = this.#positions.get(graph);
    if (known !== undefined) return known;
    const positions = new Map(graph.nodes.map((node, index) => [node, index]));
    this.#positions.set(graph, positions);
    return positions;
  }
}

/** Bodies of a node are listed as its attributes list their graphs. */
function findSubgraph({ node, scope }: Site, body: Scope) {
  const index = scope.bodies.get(node)?.indexOf(body) ?? -1;
  let position = 0;
  for (const attribute of node.attributes.values()) {
    if (attribute.refName !== '') return null;
    const graphs = subgraphsOf(attribute);
    const graph = graphs[index - position];
    if (graph !== undefined) return { attribute: attribute.name, position: index - position, graph };
    position += graphs.length;
  }
  return null;
}
