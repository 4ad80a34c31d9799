import { basename } from 'node:path';
import { CheckpointError, quote } from '../../errors.js';
import {
  type ByteRange,
  holdBytes,
  memorySource,
  type PlacedContent,
  readRange,
} from '../../io/byte-source.js';
import type { FileSource } from '../../io/file-source.js';
import { joinRanges } from '../../io/joined-source.js';
import type { Tensor } from '../checkpoint.js';
import {
  asFile,
  type EditOptions,
  type EditPlan,
  placeEdits,
  refuseOtherSources,
  type Splice,
  type TensorEdit,
  toSplices,
} from '../edit-plan.js';
import type { Graph } from '../graph.js';
import { findGraphFields, findLocations, type LocationField, readFields, renewLengths } from './fields.js';
import type { LocatedNodes } from './onnx.js';
import { encodeFieldHead, ProtoWriter } from './proto-writer.js';
import { planSplits, type Rewrite } from './split-constants.js';
import type { TensorStore } from './stored-tensor.js';
import { WIRE_LENGTH } from './wire.js';

/** What edits of a model are planned from. */
export interface EditedModel extends EditOptions {
  readonly store: TensorStore;
  readonly graph: Graph;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly located: LocatedNodes;
}

/** The nodes that read statistics are small; a larger one holds a tensor of its own. */
const MAX_NODE_BYTES = 1024 * 1024;

/** Fields of GraphProto and NodeProto. */
const INITIALIZER_FIELD = 5;
const NODE_FIELD = 1;
const NODE_INPUT_FIELD = 1;

/**
 * Plans how a model and its data files take tensors of other bytes. In place where a constant is stored as it is and
 * everything that reads it wants the same; else the graph gets an initializer in its place.
 *
 * @throws CheckpointError `unsupported` naming the tensor, where the graph leaves no place for a value of its own.
 */
export async function planOnnxEdits(edits: readonly TensorEdit[], model: EditedModel): Promise<EditPlan> {
  const { store, tensors } = model;
  const file = asFile(store.file);
  const { inPlace, sharers, rewrite } = await planSplits(edits, model);
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
    rewrite,
    renames: renameLocations(locations, names),
    located: model.located,
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
  readonly rewrite: Rewrite;
  readonly renames: readonly Splice[];
  readonly located: LocatedNodes;
}

/** Rewritten fields with the lengths around them, and the pieces that stay in place between them. */
async function planModelSplices(changes: ModelChanges): Promise<readonly Splice[]> {
  const { file, pieces, renames } = changes;
  const rewritten = await rewriteFields(changes);
  const isInside = (offset: number) =>
    rewritten.some((splice) => offset >= splice.offset && offset < splice.offset + splice.deleted);
  const sized = [...rewritten, ...renames.filter(({ offset }) => !isInside(offset))].sort(byOffset);
  const renewed = await renewLengths(file, { start: 0, end: file.byteLength }, sized);
  return [...renewed, ...toSplices(pieces)].sort(byOffset);
}

function byOffset(x: Splice, y: Splice): number {
  return x.offset - y.offset;
}

async function rewriteFields({ file, rewrite, located }: ModelChanges): Promise<readonly Splice[]> {
  const { initializers, replacedNodes, inputNames } = rewrite;
  if (initializers.size + replacedNodes.size + inputNames.size === 0) return [];
  const { mainGraph } = located;
  const fields = await findGraphFields(file);
  const splices: Splice[] = [];
  for (const [index, { name }] of mainGraph.initializers.entries()) {
    const tensor = initializers.get(name);
    const field = fields.initializers[index];
    if (tensor === undefined || field === undefined) continue;
    const content = joinFields(file, [[INITIALIZER_FIELD, tensor]]);
    splices.push({ offset: field.start, deleted: field.end - field.start, content });
  }
  for (const [index, node] of mainGraph.nodes.entries()) {
    const field = fields.nodes[index];
    const added = replacedNodes.get(node);
    const renamed = inputNames.get(node);
    if (field === undefined || (added === undefined && renamed === undefined)) continue;
    const kept =
      renamed === undefined ? [] : [[NODE_FIELD, await renameInputs(file, field, renamed.names)] as const];
    const tensors = [...(added === undefined ? [] : [added]), ...(renamed?.initializers ?? [])];
    const content = joinFields(file, [
      ...kept,
      ...tensors.map((tensor) => [INITIALIZER_FIELD, tensor] as const),
    ]);
    splices.push({ offset: field.start, deleted: field.end - field.start, content });
  }
  return splices.sort(byOffset);
}

/** Length-delimited fields one after the other. */
function joinFields(
  { name }: FileSource,
  fields: readonly (readonly [number: number, content: ByteRange])[],
): ByteRange {
  const parts = fields.flatMap(([number, content]) => [
    holdBytes(encodeFieldHead(number, content.byteLength)),
    content,
  ]);
  return joinRanges(name, parts);
}

/** A node's content with other names for some of its inputs. */
async function renameInputs(
  file: FileSource,
  field: { readonly payloadStart: number; readonly end: number },
  names: ReadonlyMap<number, string>,
): Promise<ByteRange> {
  const byteLength = field.end - field.payloadStart;
  if (byteLength > MAX_NODE_BYTES) {
    throw new CheckpointError(
      `expected a node of at most ${MAX_NODE_BYTES} bytes to be rewritten, found ${byteLength}`,
      { code: 'limit-exceeded', file: file.name, offset: field.payloadStart },
    );
  }
  const bytes = await readRange({ source: file, offset: field.payloadStart, byteLength });
  const writer = new ProtoWriter();
  let input = 0;
  for await (const part of readFields(memorySource(file.name, bytes), { start: 0, end: byteLength })) {
    const name =
      part.number === NODE_INPUT_FIELD && part.wire === WIRE_LENGTH ? names.get(input++) : undefined;
    if (name === undefined) writer.writeBytes(bytes.subarray(part.start, part.end));
    else writer.writeText(NODE_INPUT_FIELD, name);
  }
  return holdBytes(writer.written.slice());
}
