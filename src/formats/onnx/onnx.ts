// Opens ONNX models: their tensors, their graph, and the edits that restore asks for.

import type { Checkpoint, Graph, Tensor } from '../../checkpoint/checkpoint.js';
import { isFloatingPoint } from '../../checkpoint/dtype.js';
import { CheckpointError, quoteUnlessPlain } from '../../errors.js';
import { type ByteSource, orClose } from '../../io/byte-source.js';
import { getOrMake, listFirst } from '../../norm/naming.js';
import { Evaluator } from './constants.js';
import { isStandard, NeighbourSearch, nameOfCodes } from './follow.js';
import {
  biasInputOf,
  buildLinear,
  constantParameters,
  endsInActivation,
  isFusedBias,
  isWeightLeft,
  LinearReaders,
  linearOpOf,
  listQuantiserInputs,
  takeAddedBias,
} from './linear-nodes.js';
import {
  type BuiltNorm,
  buildNorm,
  describeForeignNorm,
  findRescaling,
  groupCalls,
  mergeCalls,
} from './norm-nodes.js';
import type { LocatedNodes } from './plan-edits.js';
import { dismiss, type FoundLinear, type Rescaled, takeProducts, undoRescaling } from './products.js';
import type { OnnxGraph, OnnxModel, OnnxNode } from './schema.js';
import { listLocations, readModel } from './schema.js';
import { type Scope, type Site, visitNodes } from './scope.js';
import { SAVE_UNOPTIMISED } from './sniff.js';
import { ExternalData, locateTensor, type OnnxOptions, TensorStore } from './stored-tensor.js';

/** The newest version of the format that this reader was checked against (onnx 1.23). */
const NEWEST_IR_VERSION = 14;

/** At most so many norm-like operators of other domains are named in a warning. */
const MAX_NAMED_OPERATORS = 3;

/**
 * Opens an ONNX model (onnx/onnx.in.proto) without reading its weights: tensors are ranges of the file, or of the
 * external data files beside it.
 *
 * @param source the model file; the checkpoint owns it from now on, also when opening fails.
 * @throws CheckpointError `truncated`, `malformed`, `limit-exceeded`; `refused`, `not-found` or `not-a-file` for
 *   external data.
 */
export async function openOnnx(source: ByteSource, options: OnnxOptions): Promise<OnnxCheckpoint> {
  const external = new ExternalData(options, source);
  const close = async () => {
    await external.close();
    await source.close();
  };
  return orClose({ close }, async () => {
    const store = new TensorStore(source, external);
    const { model, tensors, norms, linears, foreign } = await readParts(store);
    const feeding = new Set(norms.map(({ norm }) => norm.feedingLinear));
    const graph: Graph = {
      producer: [model.producerName, model.producerVersion].filter((part) => part !== '').join(' '),
      norms: mergeCalls(norms),
      linears: linears.map(({ linear: { factors: _, ...linear } }, index) => ({
        ...linear,
        feedsNorm: feeding.has(index),
      })),
    };
    return {
      path: options.path,
      format: 'ONNX',
      tensors,
      inModuleOrder: true,
      graph,
      modules: new Map(),
      warnings: describeWarnings(model, foreign),
      planEdits: async (edits, editOptions) => {
        const located = await locateNodes(store);
        // Encoding takes a library that reading does without.
        const { planOnnxEdits } = await import('./plan-edits.js');
        return planOnnxEdits(edits, { store, graph, tensors, located, ...editOptions });
      },
      close,
      file: source,
      externalFiles: () => external.files,
      locateNodes: () => locateNodes(store),
    };
  });
}

/** An opened ONNX model, with what it takes to find its nodes again. */
export interface OnnxCheckpoint extends Checkpoint {
  /** The model's file. */
  readonly file: ByteSource;
  /** The opened files that hold external data, by the location that tensors name. */
  readonly externalFiles: () => ReadonlyMap<string, ByteSource>;
  /** Reads the model's structure again, for the nodes behind the layers: they are not kept while an audit runs. */
  readonly locateNodes: () => Promise<LocatedNodes>;
}

/** Whether a checkpoint is an ONNX model. */
export function isOnnxCheckpoint(checkpoint: Checkpoint): checkpoint is OnnxCheckpoint {
  return 'locateNodes' in checkpoint;
}

async function locateNodes(store: TensorStore): Promise<LocatedNodes> {
  const { norms, ...parts } = await readParts(store);
  return { ...parts, norms: groupCalls(norms).map((calls) => calls.map(({ site }) => site)) };
}

/** A model, and what an audit takes from it; `foreign` are norm-like operators of other domains. */
async function readParts(store: TensorStore) {
  const model = await readModel(store.file);
  const mainGraph = model.graph;
  if (mainGraph === null) {
    const hint = 'The file may be cut off; compare its size with the original.';
    const message = 'expected an ONNX model, found no graph in it';
    throw new CheckpointError(message, { code: 'malformed', file: store.file.name, hint });
  }
  await store.external.openAll(listLocations(model));
  const tensors = readTensors(mainGraph, store);
  const sites: Sites = { norms: [], linears: [], readers: new LinearReaders(), foreign: [], quantisers: [] };
  visitNodes(model, mainGraph, store.file.name, (site) => {
    refuseReordered(site, store.file.name);
    noteSite(site, sites);
  });
  const evaluator = new Evaluator(store);
  const { linears: found, indexOf } = await readLinears(evaluator, sites);
  for (const tensor of found.flatMap(({ linear }) => constantParameters(linear)))
    if (isFloatingPoint(tensor.dtype) && !tensors.has(tensor.name)) tensors.set(tensor.name, tensor);
  const rescaled = new Map<Site, Rescaled>();
  for (const site of sites.norms) {
    const rescaling = await findRescaling(evaluator, site);
    const index = rescaling && indexOf(rescaling.divided);
    if (rescaling !== null && index !== null) rescaled.set(site, { ...rescaling, index });
  }
  const restored = undoRescaling(found, [...rescaled.values()], tensors);
  const linears = takeProducts(restored.linears, tensors);
  const ofCodes = await readQuantised(evaluator, { quantisers: sites.quantisers, linears }, tensors);
  const search = new NeighbourSearch((stored) => {
    const name = ofCodes.get(stored) ?? restored.names.get(stored) ?? stored;
    const tensor = tensors.get(name);
    // A single number is a setting of an operator rather than a parameter.
    const isLearned = tensor !== undefined && isFloatingPoint(tensor.dtype) && tensor.shape.length > 0;
    return isLearned && tensor.isBuffer !== true ? name : null;
  });
  const norms: BuiltNorm[] = [];
  for (const site of sites.norms)
    if (!(await isOfWeight(evaluator, site)))
      norms.push(
        await buildNorm(evaluator, site, {
          search,
          indexOf: (producer) => rescaled.get(site)?.index ?? indexOf(producer),
        }),
      );
  const named = withoutSharedNames(linears, norms);
  const isOfPytorch = model.producerName === 'pytorch';
  return {
    model,
    mainGraph,
    tensors,
    norms,
    linears: isOfPytorch ? named.map(widenBias) : named,
    foreign: sites.foreign,
  };
}

/** PyTorch's exporter cuts biases off where it quantises them (torch/onnx, `requantize_bias_helper`). */
function widenBias(found: FoundLinear): FoundLinear {
  const { linear } = found;
  const { bias } = linear;
  if (bias.kind !== 'constant' || bias.tensor.quantised === undefined) return found;
  const tensor = { ...bias.tensor, quantised: { ...bias.tensor.quantised, margin: 1 } };
  return { ...found, linear: { ...linear, bias: { ...bias, tensor } } };
}

/**
 * Linear nodes without the norm layer that only the name of a bias tells, where other layers are called so too: exporters
 * store equal tensors once, and β of a residual branch and of the shortcut beside it always are.
 */
function withoutSharedNames(
  linears: readonly FoundLinear[],
  norms: readonly BuiltNorm[],
): readonly FoundLinear[] {
  const paths = [
    ...linears.map(({ linear }) => linear.foldedNormPath),
    ...norms.map(({ norm }) => norm.path),
  ];
  const counts = new Map<string | null, number>();
  for (const path of paths) counts.set(path, (counts.get(path) ?? 0) + 1);
  return linears.map((found) => {
    const { linear } = found;
    const isShared = isFusedBias(linear.biasName) && (counts.get(linear.foldedNormPath) ?? 0) > 1;
    return isShared ? { ...found, linear: { ...linear, foldedNormPath: null } } : found;
  });
}

/** Whether a norm node standardises a constant: a convolution's weight, as NFNets and BiT do, and no data. */
async function isOfWeight(evaluator: Evaluator, { node, scope }: Site): Promise<boolean> {
  const [name = ''] = node.inputs;
  return name !== '' && (await evaluator.evaluateQuietly({ scope, name })).kind === 'constant';
}

/** Turns the codes that a graph dequantises into learned tensors, which `tensors` gains; returns their names by the old. */
async function readQuantised(
  evaluator: Evaluator,
  { quantisers, linears }: { quantisers: readonly Site[]; linears: readonly FoundLinear[] },
  tensors: Map<string, Tensor>,
): Promise<ReadonlyMap<string, string>> {
  const names = new Map<string, string>();
  const settings = new Set<string>();
  const take = (tensor: Tensor) => {
    const { quantised } = tensor;
    const stored = quantised?.codes.name ?? '';
    if (quantised === undefined || !tensors.has(stored) || names.has(stored)) return;
    const stripped = nameOfCodes(stored);
    const name = tensors.has(stripped) ? stored : stripped;
    names.set(stored, name);
    settings.add(quantised.scale.name);
    tensors.set(name, { ...tensor, name });
  };
  for (const { linear } of linears)
    for (const input of [linear.weight, linear.bias]) if (input.kind === 'constant') take(input.tensor);
  for (const { node, scope } of quantisers) {
    for (const name of listQuantiserInputs(node)) settings.add(name);
    if (!isStandard(node, 'DequantizeLinear')) continue;
    const floats = await evaluator.evaluateQuietly({ scope, name: node.outputs[0] ?? '' });
    if (floats.kind === 'constant') take(floats.tensor);
  }
  for (const name of settings) dismiss(name, tensors);
  return names;
}

/** Every stored tensor of the main graph, and the names that Identity nodes give to shared ones. */
function readTensors(graph: OnnxGraph, store: TensorStore): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const stored of graph.initializers) {
    const tensor = locateTensor(stored, stored.name, store);
    if (tensor !== null && stored.name !== '') tensors.set(stored.name, tensor);
  }
  for (const node of graph.nodes) {
    const [name = ''] = node.outputs;
    const shared = tensors.get(node.inputs[0] ?? '');
    if (isStandard(node, 'Identity') && shared !== undefined && name !== '' && !tensors.has(name))
      tensors.set(name, { ...shared, name });
  }
  return tensors;
}

/** ONNX Runtime orders the weights of these operators as the processor at hand likes them best. */
function refuseReordered({ node: { domain, op } }: Site, file: string): void {
  if (domain !== 'com.microsoft.nchwc') return;
  throw new CheckpointError(
    `expected weights in the order of ONNX, found ${quoteUnlessPlain(op)} of ${domain}: the model was saved by ONNX Runtime with all optimisations, which reorder weights for one kind of processor (NCHWc) and fold normalisation away`,
    { code: 'unsupported', file, hint: SAVE_UNOPTIMISED },
  );
}

interface Sites {
  readonly norms: Site[];
  readonly linears: Site[];
  readonly readers: LinearReaders;
  readonly foreign: string[];
  /** Nodes that read scales and zero points. */
  readonly quantisers: Site[];
}

function noteSite(site: Site, { norms, linears, readers, foreign, quantisers }: Sites): void {
  const { node } = site;
  readers.note(site);
  if (listQuantiserInputs(node).length > 0) quantisers.push(site);
  if (isStandard(node, 'BatchNormalization')) norms.push(site);
  else if (linearOpOf(node) !== null) {
    linears.push(site);
    // An operator of another domain may have an activation in it: what is added behind that is no bias.
    const bias = biasInputOf(node);
    if (node.domain === '' && (bias === null || (node.inputs[bias] ?? '') === '')) readers.watch(site);
  } else foreign.push(...describeForeignNorm(site));
}

/** Where operators without an input for a bias would have one. */
const BIAS_OF_ADD = 2;

async function readLinears(evaluator: Evaluator, { linears: sites, readers }: Sites) {
  const linears: FoundLinear[] = [];
  const indices = new Map<Scope, Map<OnnxNode, number>>();
  for (const site of sites) {
    const behind = readers.follow(site);
    const linear = await buildLinear(evaluator, site, behind);
    if (linear === null) continue;
    const inScope = getOrMake(indices, site.scope, () => new Map());
    // A norm layer behind an activation is fed by that.
    for (const { node } of [site, ...behind]) if (!endsInActivation(node)) inScope.set(node, linears.length);
    const add = readers.findAdd(behind.at(-1) ?? site);
    const biased = add && (await takeAddedBias(evaluator, linear, add, isWeightLeft(site, linear)));
    const index = biasInputOf(site.node) ?? BIAS_OF_ADD;
    if (add === null || biased === null) linears.push({ linear, site, bias: { site, index } });
    else {
      // What the Add gives is the layer's output: a norm layer behind it is fed by the linear node.
      inScope.set(add.site.node, linears.length);
      linears.push({ linear: biased, site, bias: add });
    }
  }
  const indexOf = ({ node, scope }: Site) => indices.get(scope)?.get(node) ?? null;
  return { linears, indexOf };
}

function describeWarnings(model: OnnxModel, foreign: readonly string[]): readonly string[] {
  const warnings: string[] = [];
  if (model.irVersion > NEWEST_IR_VERSION) {
    const newest = `the newest known here is ${NEWEST_IR_VERSION}`;
    warnings.push(`the model has the ONNX IR version ${model.irVersion}; ${newest}`);
  }
  const named = listFirst(foreign, MAX_NAMED_OPERATORS);
  if (foreign.length > 0) warnings.push(`${named}: not the standard operator, so left out of the audit`);
  return warnings;
}
