// Opens ONNX models: their tensors, their graph, and the edits that restore asks for.

import { basename } from 'node:path';
import type { Checkpoint, EditPlan, Graph, Splice, Tensor, TensorEdit } from '../../checkpoint/checkpoint.js';
import { isFloatingPoint } from '../../checkpoint/dtype.js';
import { asFile, placeEdits, refuseOtherSources, toSplices } from '../../checkpoint/edit-plan.js';
import { CheckpointError, quote } from '../../errors.js';
import { type ByteSource, holdBytes, type PlacedContent } from '../../io/byte-source.js';
import type { FileSource } from '../../io/file-source.js';
import {
  findLocations,
  type GraphEdit,
  type LocationField,
  planGraphEdit,
  renewLengths,
} from './edit-graph.js';
import { ExternalData } from './external-data.js';
import { ConstantEvaluator } from './follow.js';
import {
  BIAS_INPUT,
  buildLinear,
  constantParameters,
  type InputSlot,
  isWeightLeft,
  type LinearDraft,
  LinearReaders,
  linearOpOf,
  takeAddedBias,
} from './linear-nodes.js';
import {
  type BuiltNorm,
  buildNorm,
  describeForeignNorm,
  groupCalls,
  mergeCalls,
  NeighbourSearch,
} from './norm-nodes.js';
import { readModel } from './read-model.js';
import type { OnnxGraph, OnnxModel, OnnxNode } from './schema.js';
import { type Scope, type Site, visitNodes } from './scope.js';
import { type EditedModel, type LocatedNodes, planSplits } from './split-constants.js';
import { locateTensor, type TensorStore } from './stored-tensor.js';

/** How {@link openOnnx} opens a model. */
export interface OnnxOptions {
  /** The model's path as the user named it; external data lies beside it. */
  readonly path: string;
  /** Whether external data may be symbolic links that lead out of the model's directory. Default: no. */
  readonly allowExternalSymlinks?: boolean | undefined;
  /** Told of every external data file that is opened, by its path. */
  readonly onOpenFile?: ((path: string) => void) | undefined;
}

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
  const external = new ExternalData({
    path: options.path,
    allowSymlinks: options.allowExternalSymlinks ?? false,
    onOpenFile: options.onOpenFile,
  });
  const close = async () => {
    await external.close();
    await source.close();
  };
  try {
    const store: TensorStore = { file: source, external };
    const { model, mainGraph } = await readGraphs(source);
    const tensors = readTensors(mainGraph, store);
    const { built, linears, foreign } = await readNodes(model, mainGraph, store, tensors);
    const feeding = new Set(built.map(({ norm }) => norm.feedingLinear));
    const graph: Graph = {
      producer: [model.producerName, model.producerVersion].filter((part) => part !== '').join(' '),
      norms: mergeCalls(built),
      linears: linears.map((linear, index) => ({ ...linear, feedsNorm: feeding.has(index) })),
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
        return planOnnxEdits(edits, { store, graph, tensors, located, ...editOptions });
      },
      close,
      file: source,
      externalFiles: () => external.files,
      locateNodes: () => locateNodes(store),
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** An opened ONNX model, with what it takes to find its nodes again. */
export interface OnnxCheckpoint extends Checkpoint {
  /** The model's file. */
  readonly file: ByteSource;
  /** The opened files that hold external data, by the location that tensors name. */
  readonly externalFiles: () => ReadonlyMap<string, FileSource>;
  /** Reads the model's structure again, for the nodes behind the layers: they are not kept while an audit runs. */
  readonly locateNodes: () => Promise<LocatedNodes>;
}

/** Whether a checkpoint is an ONNX model. */
export function isOnnxCheckpoint(checkpoint: Checkpoint): checkpoint is OnnxCheckpoint {
  return 'locateNodes' in checkpoint;
}

async function locateNodes(store: TensorStore): Promise<LocatedNodes> {
  const { model, mainGraph } = await readGraphs(store.file);
  const nodes = await readNodes(model, mainGraph, store, readTensors(mainGraph, store));
  const norms = groupCalls(nodes.built).map((calls) =>
    calls.flatMap((call) => nodes.sites.norms[call] ?? []),
  );
  const { linears, biases } = nodes.sites;
  return { model, mainGraph, norms, linears, biases };
}

async function readGraphs(source: ByteSource): Promise<{ model: OnnxModel; mainGraph: OnnxGraph }> {
  const model = await readModel(source);
  if (model.graph !== null) return { model, mainGraph: model.graph };
  throw new CheckpointError('expected an ONNX model, found no graph in it', {
    code: 'malformed',
    file: source.name,
    hint: 'The file may be cut off; compare its size with the original.',
  });
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
    const isIdentity = node.op === 'Identity' && node.domain === '';
    if (isIdentity && shared !== undefined && name !== '' && !tensors.has(name))
      tensors.set(name, { ...shared, name });
  }
  return tensors;
}

/** The norm and linear nodes of a model, and where they stand. */
interface ReadNodes {
  readonly built: readonly BuiltNorm[];
  readonly linears: readonly LinearDraft[];
  /** Nodes of `built` and of `linears`, and where the latter read their biases. */
  readonly sites: {
    readonly norms: readonly Site[];
    readonly linears: readonly Site[];
    readonly biases: readonly InputSlot[];
  };
  /** Norm-like operators of other domains. */
  readonly foreign: readonly string[];
}

async function readNodes(
  model: OnnxModel,
  mainGraph: OnnxGraph,
  store: TensorStore,
  tensors: Map<string, Tensor>,
): Promise<ReadNodes> {
  const sites = collectSites(model, mainGraph, store.file.name);
  const evaluator = new ConstantEvaluator(store);
  const { linears, linearSites, biases, indexOf } = await readLinears(evaluator, sites);
  for (const tensor of linears.flatMap(constantParameters)) {
    if (isFloatingPoint(tensor.dtype) && !tensors.has(tensor.name)) tensors.set(tensor.name, tensor);
  }
  const neighbours = new NeighbourSearch((name) => {
    const tensor = tensors.get(name);
    // A single number is a setting of an operator rather than a parameter.
    return tensor !== undefined && isFloatingPoint(tensor.dtype) && tensor.shape.length > 0;
  });
  const built: BuiltNorm[] = [];
  for (const site of sites.norms) {
    built.push(await buildNorm({ evaluator, neighbours, linearIndex: indexOf }, site));
  }
  return {
    built,
    linears,
    sites: { norms: sites.norms, linears: linearSites, biases },
    foreign: sites.foreign,
  };
}

interface Sites {
  readonly norms: Site[];
  readonly linears: Site[];
  readonly readers: LinearReaders;
  /** Norm-like operators of other domains. */
  readonly foreign: string[];
}

function collectSites(model: OnnxModel, graph: OnnxGraph, file: string): Sites {
  const sites: Sites = { norms: [], linears: [], readers: new LinearReaders(), foreign: [] };
  visitNodes(model, graph, file, (site) => {
    sites.readers.note(site);
    if (site.node.domain === '' && site.node.op === 'BatchNormalization') sites.norms.push(site);
    else if (linearOpOf(site.node) !== null) {
      sites.linears.push(site);
      // An operator of another domain may have an activation in it: what is added behind that is no bias.
      if (site.node.domain === '' && (site.node.inputs[BIAS_INPUT] ?? '') === '') sites.readers.watch(site);
    } else {
      const foreign = describeForeignNorm(site);
      if (foreign !== null) sites.foreign.push(foreign);
    }
  });
  return sites;
}

async function readLinears(evaluator: ConstantEvaluator, { linears: sites, readers }: Sites) {
  const linears: LinearDraft[] = [];
  const linearSites: Site[] = [];
  const biases: InputSlot[] = [];
  const indices = new Map<Scope, Map<OnnxNode, number>>();
  for (const site of sites) {
    const op = linearOpOf(site.node);
    const linear = op === null ? null : await buildLinear(evaluator, site, op);
    if (linear === null) continue;
    const inScope = indices.get(site.scope) ?? new Map<OnnxNode, number>();
    indices.set(site.scope, inScope.set(site.node, linears.length));
    const add = readers.findAdd(site, isWeightLeft(site, linear));
    const biased = add === null ? null : await takeAddedBias(evaluator, linear, add);
    // What the Add gives is the layer's output: a norm layer behind it is fed by the linear node.
    if (add !== null && biased !== null) inScope.set(add.site.node, linears.length);
    biases.push(add !== null && biased !== null ? add : { site, index: BIAS_INPUT });
    linears.push(biased ?? linear);
    linearSites.push(site);
  }
  const indexOf = ({ node, scope }: Site) => indices.get(scope)?.get(node) ?? null;
  return { linears, linearSites, biases, indexOf };
}

function describeWarnings(model: OnnxModel, foreign: readonly string[]): readonly string[] {
  const warnings: string[] = [];
  if (model.irVersion > NEWEST_IR_VERSION) {
    warnings.push(
      `the model has the ONNX IR version ${model.irVersion}; the newest known here is ${NEWEST_IR_VERSION}`,
    );
  }
  if (foreign.length > 0) {
    const named = foreign.slice(0, MAX_NAMED_OPERATORS).join(', ');
    const more =
      foreign.length > MAX_NAMED_OPERATORS ? ` and ${foreign.length - MAX_NAMED_OPERATORS} more` : '';
    warnings.push(`${named}${more}: not the standard operator, so left out of the audit`);
  }
  return warnings;
}

/**
 * Plans how a model and its data files take tensors of other bytes. In place where a constant is stored as it is and
 * everything that reads it wants the same; else the graph gets an initializer in its place.
 *
 * @throws CheckpointError `unsupported` naming the tensor, where the graph leaves no place for a value of its own.
 */
async function planOnnxEdits(edits: readonly TensorEdit[], model: EditedModel): Promise<EditPlan> {
  const { store, tensors } = model;
  const file = asFile(store.file);
  const { inPlace, sharers, graphEdit } = await planSplits(edits, model);
  const pieces = await placeEdits(
    inPlace,
    [...tensors.values()].filter(({ name }) => !sharers.has(name)),
  );
  const locations = await findLocations(file, model.located.model);
  const names = nameDataFiles(locations, model);
  const dataFiles = openDataFiles(names, store, file);
  refuseOtherSources(pieces, new Set([file, ...dataFiles.keys()]), inPlace);
  const splices = await planModelSplices({
    file,
    pieces: pieces.get(file) ?? [],
    graphEdit,
    renames: renameLocations(locations, names),
  });
  return {
    files: [
      ...[...dataFiles].map(([source, name]) => ({ source, name, splices: toSplices(pieces.get(source)) })),
      { source: file, name: basename(file.path), splices },
    ],
  };
}

/** The new name of every data file by its location. */
function nameDataFiles(
  locations: readonly LocationField[],
  { renameData }: EditedModel,
): ReadonlyMap<string, string> {
  const distinct = [...new Set(locations.map(({ location }) => location))];
  return new Map(distinct.map((location) => [location, renameData?.(location, distinct.length) ?? location]));
}

function openDataFiles(
  names: ReadonlyMap<string, string>,
  { external }: TensorStore,
  model: FileSource,
): ReadonlyMap<FileSource, string> {
  const files = new Map<FileSource, string>();
  const paths = new Set<string>();
  for (const [location, name] of names) {
    const source = external.open(location);
    if (paths.has(source.path)) {
      throw new CheckpointError(
        `external data ${quote(location)}: expected a file of its own, found one that another location leads to as well`,
        { code: 'unsupported', file: model.name },
      );
    }
    paths.add(source.path);
    files.set(source, name);
  }
  return files;
}

function renameLocations(
  locations: readonly LocationField[],
  names: ReadonlyMap<string, string>,
): readonly Splice[] {
  const encoder = new TextEncoder();
  return locations.flatMap(({ location, payload }) => {
    const name = names.get(location) ?? location;
    if (name === location) return [];
    const content = holdBytes(encoder.encode(name));
    return [{ offset: payload.start, deleted: payload.end - payload.start, content }];
  });
}

/** What changes in the model file. */
interface ModelChanges {
  readonly file: FileSource;
  readonly pieces: readonly PlacedContent[];
  readonly graphEdit: GraphEdit;
  readonly renames: readonly Splice[];
}

/** Rewritten fields with the lengths around them, and the pieces that stay in place between them. */
async function planModelSplices(changes: ModelChanges): Promise<readonly Splice[]> {
  const { file, pieces, renames, graphEdit } = changes;
  const { nodes, initializers } = graphEdit;
  const isEdited = nodes.size + (initializers?.size ?? 0) > 0;
  const rewritten = isEdited ? await planGraphEdit(file, graphEdit) : [];
  const isInside = (offset: number) =>
    rewritten.some((splice) => offset >= splice.offset && offset < splice.offset + splice.deleted);
  const sized = [...rewritten, ...renames.filter(({ offset }) => !isInside(offset))].sort(byOffset);
  const renewed = await renewLengths(file, { start: 0, end: file.byteLength }, sized);
  return [...renewed, ...toSplices(pieces)].sort(byOffset);
}

function byOffset(x: Splice, y: Splice): number {
  return x.offset - y.offset;
}
