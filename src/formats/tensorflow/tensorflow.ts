// Opens TensorFlow checkpoints: an index, the data files beside it, and the names that its object graph has for variables.

import type { Checkpoint, ReadOptions, Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { refuseEdits } from '../../checkpoint/edit-plan.js';
import { CheckpointError, fail, quote } from '../../errors.js';
import { type ByteRange, type ByteSource, fileNameOf, orClose, readRange } from '../../io/byte-source.js';
import { Cursor } from '../../io/cursor.js';
import { countElements } from '../../io/row-major.js';
import { openBeside } from '../open-beside.js';
import { listFields, readTable, readVarint } from './table.js';

/** Every data file is open at a time; TensorFlow writes one, and one for each task of a cluster. */
const MAX_SHARDS = 1_000;

/** Far above any real tensor; a shape is kept in memory. */
const MAX_RANK = 64;

/** The graph of the objects of a program: some hundred bytes for each layer and each slot of an optimizer. */
const MAX_GRAPH_BYTES = 64 * 1024 * 1024;
const MAX_NODES = 1_000_000;

const GRAPH_KEY = '_CHECKPOINTABLE_OBJECT_GRAPH';

/** The ending of the file that the others belong to. */
const INDEX_ENDING = '.index';

/** Element types by their numbers (tensorflow/core/framework/types.proto). */
const DTYPES: ReadonlyMap<number, DType> = new Map<number, DType>([
  [1, 'F32'],
  [2, 'F64'],
  [3, 'I32'],
  [4, 'U8'],
  [5, 'I16'],
  [6, 'I8'],
  [8, 'C64'],
  [9, 'I64'],
  [10, 'BOOL'],
  [14, 'BF16'],
  [17, 'U16'],
  [19, 'F16'],
  [22, 'U32'],
  [23, 'U64'],
  [24, 'F8_E5M2'],
  [25, 'F8_E4M3'],
]);

/** What the index says of a tensor (BundleEntryProto, tensorflow/core/protobuf/tensor_bundle.proto). */
interface Entry {
  readonly dtype: number;
  readonly shape: readonly number[];
  readonly shard: number;
  readonly offset: number;
  readonly byteLength: number;
  readonly isSliced: boolean;
}

/**
 * Opens a checkpoint by its index, `PREFIX.index`. Its data lie in `PREFIX.data-00000-of-00001` and so on, which must be
 * regular files in the same directory.
 *
 * @throws CheckpointError where files are missing, broken, hostile, or hold what is not read.
 */
export async function openTensorFlow(index: ByteSource, options: ReadOptions): Promise<Checkpoint> {
  const name = fileNameOf(index);
  if (!name.endsWith(INDEX_ENDING))
    fail(
      index.name,
      'expected the index of a TensorFlow checkpoint to be called PREFIX.index, found another name',
      'unsupported',
    );
  const table = await readTable(index);
  const header = table.get('');
  if (header === undefined)
    return fail(index.name, 'expected the header of a TensorFlow checkpoint in its index, found none');
  const shardCount = readShardCount(header, index.name);
  const entries = new Map(
    [...table].flatMap(([key, value]) => (key === '' ? [] : [[key, readEntry(value, index.name)] as const])),
  );
  const sources: ByteSource[] = [index];
  const close = async () => {
    for (const source of sources) await source.close();
  };
  return orClose({ close }, async () => {
    const prefix = name.slice(0, -INDEX_ENDING.length);
    const shards: ByteSource[] = [];
    for (let shard = 0; shard < shardCount; shard++) {
      const data = `${prefix}.data-${pad(shard)}-of-${pad(shardCount)}`;
      const source = await openBeside(index, data, { ...options, what: 'its data file' });
      sources.push(source);
      shards.push(source);
    }
    const locate = (key: string, entry: Entry) => locateEntry(key, entry, shards, index.name);
    const graph = entries.get(GRAPH_KEY);
    const names =
      graph === undefined
        ? null
        : nameVariables(await readGraph(locate(GRAPH_KEY, graph), index.name), entries.keys(), index.name);
    const { tensors, warnings } = makeTensors(entries, names, locate, index.name);
    return {
      path: options.path,
      format: 'TensorFlow',
      framework: 'keras',
      tensors,
      inModuleOrder: false,
      graph: null,
      modules: new Map(),
      warnings,
      planEdits: () =>
        refuseEdits(
          index.name,
          'a TensorFlow checkpoint, whose index holds checksums of all tensors',
          'Save the model as .keras or .weights.h5, and restore into that.',
        ),
      close,
    };
  });
}

/**
 * Opens the variables of a SavedModel, given its `saved_model.pb`.
 *
 * @returns null where none are beside it.
 */
export async function openSavedModel(model: ByteSource, options: ReadOptions): Promise<Checkpoint | null> {
  const variables = openBeside(model, 'variables/variables.index', { ...options, what: 'its index' });
  const index = await variables.catch((error: unknown) => {
    if (error instanceof CheckpointError && error.code === 'not-found') return null;
    throw error;
  });
  if (index === null) return null;
  const opened = await orClose(index, () => openTensorFlow(index, options));
  const close = async () => {
    await opened.close();
    await model.close();
  };
  return { ...opened, close };
}

function pad(number: number): string {
  return String(number).padStart(5, '0');
}

/** BundleHeaderProto: 1 number of data files, 2 byte order (0 little). */
function readShardCount(header: Cursor, file: string): number {
  let count = 0;
  for (const { field, value } of listFields(header)) {
    if (field === 1) count = value;
    if (field === 2 && value !== 0)
      fail(file, 'expected little-endian tensors, found big-endian ones', 'unsupported');
  }
  if (count < 1 || count > MAX_SHARDS)
    fail(file, `expected 1 to ${MAX_SHARDS} data files, found ${count}`, 'limit-exceeded');
  return count;
}

/** BundleEntryProto: 1 type, 2 shape, 3 data file, 4 offset, 5 size, 6 checksum, 7 slices. */
function readEntry(entry: Cursor, file: string): Entry {
  const found = { dtype: 0, shard: 0, offset: 0, byteLength: 0, isSliced: false };
  let shape: readonly number[] = [];
  for (const { field, value, content } of listFields(entry)) {
    if (field === 1) found.dtype = value;
    else if (field === 2 && content !== null) shape = readShape(content, file);
    else if (field === 3) found.shard = value;
    else if (field === 4) found.offset = value;
    else if (field === 5) found.byteLength = value;
    else if (field === 7) found.isSliced = true;
  }
  return { ...found, shape };
}

/** TensorShapeProto: 2 a dimension, which has 1 its size. */
function readShape(message: Cursor, file: string): readonly number[] {
  const shape: number[] = [];
  for (const { field, content } of listFields(message)) {
    if (field !== 2 || content === null) continue;
    const size = [...listFields(content)].find((inner) => inner.field === 1)?.value ?? 0;
    if (shape.push(size) > MAX_RANK)
      fail(file, `expected at most ${MAX_RANK} dimensions, found more`, 'limit-exceeded');
  }
  return shape;
}

function locateEntry(key: string, entry: Entry, shards: readonly ByteSource[], file: string): ByteRange {
  const { shard, offset, byteLength } = entry;
  const source = shards[shard];
  if (source === undefined)
    return fail(
      file,
      `tensor ${quote(key)}: expected one of ${shards.length} data files, found number ${shard}`,
    );
  if (offset + byteLength > source.byteLength)
    fail(
      file,
      `tensor ${quote(key)}: expected ${byteLength} bytes at ${offset}, found a data file of ${source.byteLength}`,
      'truncated',
    );
  return { source, offset, byteLength };
}

/** A node of the object graph: what its attributes are called, and the variable that it is. */
interface GraphNode {
  readonly children: readonly { readonly name: string; readonly node: number }[];
  readonly variables: readonly { readonly fullName: string; readonly key: string }[];
}

/** The one text of the file: its length, four bytes of checksum, and a TrackableObjectGraph, whose field 1 is a node. */
async function readGraph(range: ByteRange, file: string): Promise<readonly GraphNode[]> {
  if (range.byteLength > MAX_GRAPH_BYTES)
    fail(
      file,
      `expected an object graph of at most ${MAX_GRAPH_BYTES} bytes, found ${range.byteLength}`,
      'limit-exceeded',
    );
  const bytes = await readRange(range);
  const text = new Cursor(bytes, { file, baseOffset: null, subject: 'the object graph' });
  const length = readVarint(text);
  text.skip(4);
  const graph = text.readPart(length);
  const nodes: GraphNode[] = [];
  for (const { field, content } of listFields(graph)) {
    if (field !== 1 || content === null) continue;
    if (nodes.push(readNode(content)) > MAX_NODES)
      fail(file, `expected at most ${MAX_NODES} objects, found more`, 'limit-exceeded');
  }
  return nodes;
}

/** TrackableObject: 1 a child (1 node, 2 name), 2 an attribute (2 full name, 3 key). */
function readNode(message: Cursor): GraphNode {
  const children: { name: string; node: number }[] = [];
  const variables: { fullName: string; key: string }[] = [];
  for (const { field, content } of listFields(message)) {
    if (content === null || (field !== 1 && field !== 2)) continue;
    const texts = new Map<number, string>();
    let node = 0;
    for (const inner of listFields(content)) {
      if (inner.content !== null) texts.set(inner.field, new TextDecoder().decode(inner.content.bytes));
      else if (inner.field === 1) node = inner.value;
    }
    if (field === 1) children.push({ name: texts.get(2) ?? '', node });
    else variables.push({ fullName: texts.get(2) ?? '', key: texts.get(3) ?? '' });
  }
  return { children, variables };
}

/** What tells an optimizer: it counts its steps, and has a learning rate. */
const OPTIMIZER_MARKS = [
  ['_iterations', 'iter'],
  ['_learning_rate', 'learning_rate'],
];

/** Components of a path that are told; those before them are left out. */
const MAX_PATH = 32;

/** Characters of all paths, each of which has the names of what it is reached through: a name may be of any length. */
const MAX_PATH_CHARACTERS = 16 * 1024 * 1024;

/** What a variable may be called: as in the model, which several may share, and by how the program reaches it. */
interface VariableName {
  readonly fullName: string;
  readonly path: string;
}

/**
 * What the variables of the model are called in it, by their keys: those that can be reached without going through
 * metrics or an optimizer, which may well be where the file has them: `model/optimizer/_trainable_variables/0` is `conv_a/kernel`.
 *
 * The root is what was saved, even if it counts its steps: `Checkpoint(model=…, iter=…, learning_rate=…)`. A key that no
 * object has is a name by itself.
 */
function nameVariables(
  nodes: readonly GraphNode[],
  keys: Iterable<string>,
  file: string,
): ReadonlyMap<string, VariableName> {
  const names = new Map<string, VariableName>();
  const owned = new Set(nodes.flatMap(({ variables }) => variables.map(({ key }) => key)));
  for (const key of keys) if (!owned.has(key)) names.set(key, { fullName: key, path: key });
  const reachedBy = new Map<number, { readonly from: number; readonly name: string } | null>([[0, null]]);
  const pathOf = (node: number): string => {
    const parts: string[] = [];
    for (
      let step = reachedBy.get(node);
      step != null && parts.length < MAX_PATH;
      step = reachedBy.get(step.from)
    )
      parts.push(parts.length === 0 ? step.name.replace(/^_(?=kernel$)/, '') : step.name);
    characters += parts.reduce((sum, part) => sum + part.length, 0);
    if (characters > MAX_PATH_CHARACTERS)
      fail(
        file,
        `expected paths of at most ${MAX_PATH_CHARACTERS} characters in all, found more`,
        'limit-exceeded',
      );
    return parts.reverse().join('/');
  };
  let characters = 0;
  for (const number of reachedBy.keys()) {
    const node = nodes[number];
    if (node === undefined)
      return fail(file, `expected one of ${nodes.length} objects of the graph, found number ${number}`);
    if (
      number > 0 &&
      OPTIMIZER_MARKS.every((marks) => node.children.some(({ name }) => marks.includes(name)))
    )
      continue;
    for (const { fullName, key } of node.variables)
      if (!names.has(key)) names.set(key, { fullName, path: pathOf(number) });
    // Sums that Keras 2 puts into a SavedModel.
    const isMetric = (name: string) => name === 'metrics' && reachedBy.get(number)?.name === 'keras_api';
    for (const { node: child, name } of node.children)
      if (!reachedBy.has(child) && !isMetric(name)) reachedBy.set(child, { from: number, name });
  }
  return names;
}

/** Copies of all variables that `model.export()` adds to them. */
const EXPORTED_COPY = '_all_variables/';

/**
 * The name of each key's tensor: none for an optimizer's, and for a copy that an export adds. Layers within a class of one's
 * own may bear its name alone (`net/gamma` of all): where a layer's full names are not its own, all are called by paths.
 */
function chooseNames(
  keys: readonly string[],
  known: ReadonlyMap<string, VariableName> | null,
): ReadonlyMap<string, string> {
  if (known === null) return new Map(keys.map((key) => [key, key]));
  const layers = new Map<
    string,
    { readonly places: Set<string>; readonly names: Set<string>; isShared: boolean }
  >();
  const chosen = new Map<string, string>();
  const kept = keys.flatMap((key) => {
    const name = known.get(key);
    return key === GRAPH_KEY || name === undefined
      ? []
      : [{ key, ...name, layer: beforeSlash(name.fullName) }];
  });
  for (const { key, fullName, path, layer } of kept) {
    if (key.startsWith(EXPORTED_COPY)) continue;
    const facts = layers.get(layer) ?? { places: new Set(), names: new Set(), isShared: fullName === '' };
    layers.set(layer, facts);
    facts.isShared ||= facts.names.has(fullName);
    facts.names.add(fullName);
    // A list of all variables says nothing of where they lie.
    if (!/(^|\/)\d+$/.test(path)) facts.places.add(beforeSlash(path));
  }
  for (const { key, fullName, path, layer } of kept) {
    const facts = layers.get(layer);
    if (key.startsWith(EXPORTED_COPY) && facts?.names.has(fullName)) continue;
    chosen.set(key, facts === undefined || facts.isShared || facts.places.size > 1 ? path : fullName);
  }
  return chosen;
}

function beforeSlash(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}

function makeTensors(
  entries: ReadonlyMap<string, Entry>,
  known: ReadonlyMap<string, VariableName> | null,
  locate: (key: string, entry: Entry) => ByteRange,
  file: string,
): Pick<Checkpoint, 'tensors' | 'warnings'> {
  const tensors = new Map<string, Tensor>();
  const unread: string[] = [];
  const names = chooseNames([...entries.keys()], known);
  for (const [key, entry] of entries) {
    const chosen = names.get(key);
    if (chosen === undefined) continue;
    const name = tensors.has(chosen) ? key : chosen;
    if (tensors.has(name)) fail(file, `expected unique names of tensors, found ${quote(name)} twice`);
    const dtype = DTYPES.get(entry.dtype);
    if (dtype === undefined) {
      unread.push(name);
      continue;
    }
    if (entry.isSliced)
      fail(file, `tensor ${quote(name)}: is stored in slices, which are not joined here`, 'unsupported', {
        hint: 'Save the model from one process, without partitioned variables.',
      });
    tensors.set(name, makeTensor(name, dtype, entry, locate(key, entry), file));
  }
  const [first] = unread;
  const left =
    first === undefined
      ? []
      : [`${unread.length} of its entries hold no numbers and were left out, such as ${quote(first)}`];
  return { tensors, warnings: left };
}

function makeTensor(name: string, dtype: DType, { shape }: Entry, range: ByteRange, file: string): Tensor {
  const elementCount = countElements(shape);
  const expected = (elementCount * bitsOf(dtype)) / 8;
  if (!Number.isSafeInteger(expected) || expected !== range.byteLength)
    fail(
      file,
      `tensor ${quote(name)}: expected ${expected} bytes for ${dtype} of shape [${shape.join(', ')}], found ${range.byteLength}`,
    );
  return { name, dtype, shape, elementCount, range };
}
