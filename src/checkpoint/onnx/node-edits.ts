import type { ByteRange } from '../../io/byte-source.js';
import type { GraphEdit, GraphField, NodeEdit } from './edit-graph.js';
import { type OnnxGraph, type OnnxNode, subgraphsOf } from './model.js';
import type { Scope, Site } from './scope.js';

/** A node edit that is still being put together. */
export interface NodeDraft extends NodeEdit {
  isRemoved: boolean;
  readonly inputs: Map<number, string>;
  readonly outputs: Map<number, string>;
  readonly graphs: Map<string, Map<number, GraphDraft>>;
  readonly following: GraphField[];
}

interface GraphDraft extends GraphEdit {
  readonly nodes: Map<number, NodeDraft>;
  readonly initializers: Map<number, ByteRange>;
  readonly added: GraphField[];
}

function newGraphDraft(): GraphDraft {
  return { nodes: new Map(), initializers: new Map(), added: [] };
}

/** A graph and what changes in it. */
interface Place {
  readonly graph: OnnxGraph;
  readonly edit: GraphDraft;
}

/** Collects edits of a model by the nodes that they are for, wherever these stand. */
export class NodeEdits {
  /** The edit of the main graph. */
  readonly root = newGraphDraft();
  readonly #mainGraph: OnnxGraph;
  readonly #positions = new Map<OnnxGraph, Map<OnnxNode, number>>();

  constructor(mainGraph: OnnxGraph) {
    this.#mainGraph = mainGraph;
  }

  /** The edit of a node; null where it stands in a local function, whose body all calls share. */
  at(site: Site): NodeDraft | null {
    const place = this.#find(site.scope);
    return place === null ? null : this.#draft(site.node, place);
  }

  /** The edit of a node of the main graph; null for others. */
  atMain(node: OnnxNode): NodeDraft | null {
    return this.#draft(node, { graph: this.#mainGraph, edit: this.root });
  }

  /** Where along the main graph a node stands, or the node there that holds it. */
  depthOf(site: Site): number {
    let at = site;
    while (at.scope.caller !== null) at = at.scope.caller;
    return this.#positionsIn(this.#mainGraph).get(at.node) ?? 0;
  }

  #draft(node: OnnxNode, { graph, edit }: Place): NodeDraft | null {
    const position = this.#positionsIn(graph).get(node);
    if (position === undefined) return null;
    const draft = edit.nodes.get(position) ?? {
      isRemoved: false,
      inputs: new Map(),
      outputs: new Map(),
      graphs: new Map(),
      following: [],
    };
    edit.nodes.set(position, draft);
    return draft;
  }

  #find(scope: Scope): Place | null {
    if (scope.isMain) return { graph: this.#mainGraph, edit: this.root };
    const { caller } = scope;
    if (scope.parent === null || caller === null) return null;
    const outer = this.at(caller);
    const place = findSubgraph(caller, scope);
    if (outer === null || place === null) return null;
    const inAttribute = outer.graphs.get(place.attribute) ?? new Map<number, GraphDraft>();
    outer.graphs.set(place.attribute, inAttribute);
    const edit = inAttribute.get(place.position) ?? newGraphDraft();
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
