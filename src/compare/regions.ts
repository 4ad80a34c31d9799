// Regions of a model that moved or stood still together.

import { componentsOf, getOrMake, joinPath } from '../norm/naming.js';
import type { LayerComparison } from './compare-layers.js';
import { isUnchanged, type LearnedComparison } from './compare-learned.js';

/**
 * A maximal subtree of after's module tree in which every learned tensor is equal to before's (frozen) or none is
 * (trained).
 */
export interface Region {
  /** Module path; `''` is the whole model. */
  readonly path: string;
  readonly status: 'frozen' | 'trained';
  /** How near a frozen region's tensors are: all to the last bit, or up to rounding; null for trained ones. */
  readonly equality: 'exact' | 'rounded' | null;
  /** The largest abs(after − before) / abs(before) that counted as rounding; 0 where none did. */
  readonly relativeDifference: number;
  /** Norm layers of both checkpoints inside. */
  readonly layers: number;
  /** How many of them drifted. */
  readonly drifted: number;
  readonly learned: { readonly tensors: number; readonly equal: number; readonly elements: number };
}

interface Node {
  readonly path: string;
  readonly children: Map<string, Node>;
  tensors: number;
  equal: number;
  elements: number;
  relativeDifference: number;
  /** Whether it holds what only after has, and what is therefore not frozen. */
  hasNew: boolean;
}

/**
 * Divides a model into its frozen and trained regions, in the order of before. Tensors that could not be compared
 * belong to none.
 *
 * @param onlyAfter names of the learned tensors and norm layers that only after has: no region around them is frozen.
 */
export function findRegions(
  learned: readonly LearnedComparison[],
  layers: readonly LayerComparison[],
  onlyAfter: readonly string[] = [],
): readonly Region[] {
  const root = makeNode('');
  for (const comparison of learned) {
    if (comparison.equality === 'incomparable') continue;
    for (const node of listNodes(root, comparison.name)) count(node, comparison);
  }
  for (const name of onlyAfter) {
    const nodes = listNodes(root, name);
    // Only the statistics of such a layer are new.
    const isKnown = (nodes.at(-1)?.tensors ?? 0) > 0;
    if (!isKnown) for (const node of nodes) node.hasNew = true;
  }
  const regions = new Map<Node, CountedRegion>();
  collectUniform(root, regions);
  for (const { name, status } of layers) {
    // No two regions have a module in common.
    const region = listNodes(root, name, false)
      .map((node) => regions.get(node))
      .find((one) => one !== undefined);
    if (region === undefined) continue;
    region.layers++;
    if (status === 'drifted') region.drifted++;
  }
  return [...regions.values()];
}

interface CountedRegion extends Region {
  layers: number;
  drifted: number;
}

/** The nodes on the way to a name: made where they are missing, or as far as there are any. */
function listNodes(root: Node, name: string, areMade = true): readonly Node[] {
  const nodes = [root];
  for (const component of componentsOf(name)) {
    const { children, path } = nodes.at(-1) ?? root;
    const make = () => makeNode(joinPath(path, component));
    const child = areMade ? getOrMake(children, component, make) : children.get(component);
    if (child === undefined) break;
    nodes.push(child);
  }
  return nodes;
}

function makeNode(path: string): Node {
  const counts = { tensors: 0, equal: 0, elements: 0, relativeDifference: 0 };
  return { path, children: new Map(), ...counts, hasNew: false };
}

function count(node: Node, tensor: LearnedComparison): void {
  node.tensors++;
  node.equal += isUnchanged(tensor) ? 1 : 0;
  node.elements += tensor.elementCount;
  node.relativeDifference = Math.max(node.relativeDifference, tensor.rounding?.relativeDifference ?? 0);
}

function collectUniform(node: Node, regions: Map<Node, CountedRegion>): void {
  const { tensors, equal, elements, relativeDifference, hasNew } = node;
  if (tensors === 0) return;
  const isUniform = equal === 0 || (equal === tensors && !hasNew);
  if (!isUniform && node.children.size > 0) {
    for (const child of node.children.values()) collectUniform(child, regions);
    return;
  }
  regions.set(node, {
    path: node.path,
    status: equal > 0 ? 'frozen' : 'trained',
    equality: equal === 0 ? null : relativeDifference > 0 ? 'rounded' : 'exact',
    relativeDifference: equal === 0 ? 0 : relativeDifference,
    layers: 0,
    drifted: 0,
    learned: { tensors, equal, elements },
  });
}
