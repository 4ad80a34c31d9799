import {
  isExternal,
  type OnnxAttribute,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxSparseTensor,
  subgraphsOf,
} from './model.js';

/**
 * Whether any tensor of a model, wherever it stands, has its data in another file. Of attributes that a node states twice,
 * which no valid model does, the last one counts, as everywhere in an audit.
 */
export function refersToFiles({ graph, functions }: OnnxModel): boolean {
  return (
    (graph !== null && isGraphExternal(graph)) ||
    functions.some(({ nodes, defaults }) => nodes.some(isNodeExternal) || isAnyExternal(defaults))
  );
}

function isGraphExternal({ nodes, initializers, sparseInitializers }: OnnxGraph): boolean {
  return (
    initializers.some(isExternal) || sparseInitializers.some(isSparseExternal) || nodes.some(isNodeExternal)
  );
}

function isNodeExternal({ attributes }: OnnxNode): boolean {
  return isAnyExternal(attributes);
}

function isAnyExternal(attributes: ReadonlyMap<string, OnnxAttribute>): boolean {
  for (const attribute of attributes.values()) {
    const { tensor, sparseTensor } = attribute;
    if (tensor !== null && isExternal(tensor)) return true;
    if (sparseTensor !== null && isSparseExternal(sparseTensor)) return true;
    if (subgraphsOf(attribute).some(isGraphExternal)) return true;
  }
  return false;
}

function isSparseExternal({ values, indices }: OnnxSparseTensor): boolean {
  return isExternal(values) || isExternal(indices);
}
