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
 * Whether an exporter or converter made the name up, so that it says nothing about the model: `onnx::Conv_100`,
 * `/stem/Tile_output_0`, `val_9`, `123`.
 */
export function isGeneratedName(name: string): boolean {
  return /^(\/|onnx::|_*val_\d|\d+$)|_output_\d+$/.test(name);
}
