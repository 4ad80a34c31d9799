// Reads directories of torch.distributed.checkpoint: `.metadata`, and tensors in pieces in `.distcp` files.

import type { Checkpoint, ReadOptions } from '../../checkpoint/checkpoint.js';
import { refuseEdits } from '../../checkpoint/edit-plan.js';
import { fail, quote } from '../../errors.js';
import { type ArrayPiece, assembleArray } from '../../io/assembled-array.js';
import { type ByteRange, type ByteSource, joinRanges, orClose, wholeOf } from '../../io/byte-source.js';
import { countElements } from '../../io/row-major.js';
import { Keeper } from '../../io/views.js';
import { getOrMake } from '../../norm/naming.js';
import { openBeside } from '../open-beside.js';
import { readPickle } from './pickle.js';
import {
  asInteger,
  asIntegers,
  attributesOf,
  type DictNode,
  describeValue,
  entriesOf,
  isNode,
  itemsOf,
  type PickleValue,
  type StorageNode,
} from './pickle-values.js';
import {
  asTensorCall,
  buildTensor,
  elementTypeOfDType,
  makeTensorCall,
  readLayout,
  type StorageTable,
  type TorchContainer,
} from './tensors.js';
import { readContainer } from './torch.js';
import { openZipContainer } from './zip-container.js';

/** Each rank writes some files, each of which stays open. */
const MAX_FILES = 1_000;

/** Pieces of all tensors: 10,000 tensors on 100 ranks. */
const MAX_PIECES = 1_000_000;

/** Of complex numbers in double precision. */
const MAX_ELEMENT_BYTES = 16;

/** Where a piece of a tensor is saved. */
interface SavedPiece {
  /** Null where the tensor was saved as a whole. */
  readonly offsets: readonly number[] | null;
  readonly file: string;
  readonly offset: number;
  readonly byteLength: number;
}

/** A tensor as `.metadata` describes it. */
interface SavedTensor {
  /** Where it stood in the dict that was saved: keys from the outermost on. */
  readonly path: readonly string[];
  readonly shape: readonly number[];
  readonly dtype: PickleValue;
  readonly pieces: readonly SavedPiece[];
}

/**
 * Opens a checkpoint that `torch.distributed.checkpoint.save` wrote (torch/distributed/checkpoint/metadata.py and
 * filesystem.py). `.metadata` is a pickle:
 *
 *     state_dict_metadata  {name: TensorStorageMetadata(properties, size, chunks)}
 *     planner_data         {name: keys of the nested dict that was saved}
 *     storage_data         {MetadataIndex(name, offset): _StorageInfo(relative_path, offset, length)}
 *
 * and each piece is what torch.save writes of one tensor. Reads `.metadata` and the head of every piece.
 *
 * @throws CheckpointError where it is something else, damaged or hostile, or where pieces of a tensor are missing.
 */
export async function openDistributed(source: ByteSource, options: ReadOptions): Promise<Checkpoint> {
  const file = source.name;
  const { value } = await readPickle(wholeOf(source), {
    subject: 'the pickle of the metadata',
    resolvePersistentId: (id) => {
      fail(file, `expected no persistent id in the metadata, found ${describeValue(id)}`);
    },
  });
  const saved = readMetadata(value, file);
  const sources = new Map<string, ByteSource>();
  const close = async () => {
    for (const opened of [...sources.values(), source]) await opened.close();
  };
  return orClose({ close }, async () => {
    const names = new Set([...saved.values()].flatMap(({ pieces }) => pieces.map((piece) => piece.file)));
    if (names.size > MAX_FILES)
      fail(file, `expected at most ${MAX_FILES} files, found ${names.size}`, 'limit-exceeded');
    for (const name of names)
      sources.set(name, await openBeside(source, name, { ...options, what: 'the metadata: file' }));
    refuseRepeated(saved, sources, file);
    const container: TorchContainer = {
      format: 'PyTorch',
      root: nest(saved),
      storages: new PieceTable(saved, sources, file),
    };
    const checkpoint = await readContainer(container, source, options);
    return {
      ...checkpoint,
      format: 'PyTorch, distributed',
      inModuleOrder: false,
      planEdits: () => refuseEdits(file, 'the pieces of a distributed checkpoint'),
      close,
    };
  });
}

/** Each piece is opened, so that files of which many pieces take the same bytes would cost more than their size. */
function refuseRepeated(
  saved: ReadonlyMap<string, SavedTensor>,
  sources: ReadonlyMap<string, ByteSource>,
  file: string,
): void {
  const claimed = new Map<string, number>();
  const sizeOf = (name: string) => sources.get(name)?.byteLength ?? 0;
  for (const { pieces } of saved.values())
    for (const { file: name, offset, byteLength } of pieces) {
      // What reaches beyond its file is refused as truncated.
      if (byteLength > 0 && offset + byteLength <= sizeOf(name))
        claimed.set(name, (claimed.get(name) ?? 0) + byteLength);
    }
  for (const [name, byteLength] of claimed) {
    if (byteLength > sizeOf(name))
      fail(
        file,
        `expected pieces in places of their own in ${quote(name)}, found ${byteLength} bytes of them in ${sizeOf(name)}`,
        'limit-exceeded',
      );
  }
}

/** The attributes of an instance, which may hold further ones. */
type Attributes = ReadonlyMap<PickleValue, PickleValue>;

function readMetadata(value: PickleValue, file: string): ReadonlyMap<string, SavedTensor> {
  const metadata = attributesIn(value);
  const described = entriesOf(metadata?.get('state_dict_metadata'));
  const stored = entriesOf(metadata?.get('storage_data'));
  if (described === null || stored === null)
    fail(file, `expected the metadata of a distributed checkpoint, found ${describeValue(value)}`);
  const places = readPlaces(stored, file);
  const paths = entriesOf(metadata?.get('planner_data'));
  const saved = new Map<string, SavedTensor>();
  for (const [name, description] of described) {
    const facts = attributesIn(description);
    // What is no tensor, such as a step count, is a pickle of its own, which nobody asks for.
    if (typeof name !== 'string' || facts?.has('size') !== true) continue;
    const shape = asIntegers(facts.get('size'));
    if (shape === null)
      fail(file, `expected a size for ${quote(name)}, found ${describeValue(facts.get('size'))}`);
    if (!Number.isSafeInteger(MAX_ELEMENT_BYTES * countElements(shape)))
      fail(
        file,
        `expected a shape that fits into memory for ${quote(name)}, found [${shape}]`,
        'limit-exceeded',
      );
    const [dtype = null] = itemsOf(stateOf(facts.get('properties')));
    const pieces = places.get(name);
    if (pieces === undefined) fail(file, `expected a place for ${quote(name)}, found none`);
    saved.set(name, {
      path: readPath(paths?.get(name)) ?? [name],
      shape,
      dtype,
      pieces: [...pieces.values()],
    });
  }
  return saved;
}

/** The places of pieces by tensor; of several at one offset, e.g. of replicas, one is as good as the other. */
function readPlaces(stored: Attributes, file: string): ReadonlyMap<string, ReadonlyMap<string, SavedPiece>> {
  if (stored.size > MAX_PIECES)
    fail(file, `expected at most ${MAX_PIECES} pieces, found ${stored.size}`, 'limit-exceeded');
  const places = new Map<string, Map<string, SavedPiece>>();
  for (const [key, info] of stored) {
    const [index, place] = [attributesIn(key), attributesIn(info)];
    const name = index?.get('fqn');
    const path = place?.get('relative_path');
    const [offset, byteLength] = [asInteger(place?.get('offset')), asInteger(place?.get('length'))];
    if (typeof name !== 'string' || typeof path !== 'string' || offset === null || byteLength === null)
      fail(file, `expected a file, an offset and a length for a piece, found ${describeValue(info)}`);
    const transforms = place?.get('transform_descriptors');
    if (itemsOf(transforms).length > 0)
      fail(
        file,
        `the pieces of ${quote(name)} were compressed or transformed when they were saved`,
        'unsupported',
      );
    const offsets = asIntegers(index?.get('offset'));
    const pieces = getOrMake(places, name, () => new Map());
    pieces.set(String(offsets), { offsets, file: path, offset, byteLength });
  }
  return places;
}

function attributesIn(value: PickleValue | undefined): Attributes | null {
  return isNode(value, 'object') ? attributesOf(value) : null;
}

function stateOf(value: PickleValue | undefined): PickleValue {
  return isNode(value, 'object') ? value.state : null;
}

/** The keys that lead to a tensor; null where they are none, as in checkpoints without a planner's data. */
function readPath(value: PickleValue | undefined): readonly string[] | null {
  const keys = itemsOf(value).map((key) =>
    typeof key === 'string' || typeof key === 'number' ? String(key) : null,
  );
  return keys.length === 0 || keys.includes(null) ? null : keys.filter((key) => key !== null);
}

/** The nested dict that was saved, with a call of torch.save's kind for each tensor. */
function nest(saved: ReadonlyMap<string, SavedTensor>): PickleValue {
  const root = makeDict();
  for (const [name, tensor] of saved) {
    let parent = root;
    for (const key of tensor.path.slice(0, -1)) {
      const child = parent.entries.get(key);
      const next = isNode(child, 'dict') ? child : makeDict();
      parent.entries.set(key, next);
      parent = next;
    }
    const { shape, dtype } = tensor;
    const byteLength = countElements(shape) * (elementTypeOfDType(dtype)?.byteLength ?? 0);
    parent.entries.set(tensor.path.at(-1) ?? name, makeTensorCall({ key: name, byteLength, shape, dtype }));
  }
  return root;
}

function makeDict(): DictNode {
  return { kind: 'dict', entries: new Map(), state: null };
}

/** Finds tensors by their names, and puts their pieces together. */
class PieceTable implements StorageTable {
  readonly #saved: ReadonlyMap<string, SavedTensor>;
  readonly #sources: ReadonlyMap<string, ByteSource>;
  readonly #file: string;
  readonly #keeper = new Keeper();

  constructor(
    saved: ReadonlyMap<string, SavedTensor>,
    sources: ReadonlyMap<string, ByteSource>,
    file: string,
  ) {
    this.#saved = saved;
    this.#sources = sources;
    this.#file = file;
  }

  async locate({ key }: StorageNode, tensorName: string) {
    const tensor = this.#saved.get(key);
    if (tensor === undefined) throw new Error('a tensor of the metadata is gone');
    const pieces: ArrayPiece[] = [];
    for (const piece of tensor.pieces) {
      const { sizes, range } = await this.#open(piece, tensor, tensorName);
      const offsets = piece.offsets ?? tensor.shape.map(() => 0);
      if (offsets.length !== tensor.shape.length || sizes.length !== tensor.shape.length)
        fail(
          this.#file,
          `expected pieces of ${tensor.shape.length} axes for ${quote(tensorName)}, found others`,
        );
      pieces.push({ offsets, sizes, range });
    }
    const width = elementTypeOfDType(tensor.dtype)?.byteLength ?? 0;
    const range = assembleArray(this.#file, tensor.shape, width, pieces);
    if (range === null)
      fail(
        this.#file,
        `expected pieces that cover ${quote(tensorName)}, [${tensor.shape}], found ${pieces.length} that do not`,
      );
    return { range, byteOrder: 'little' as const };
  }

  async verify({ key }: StorageNode, tensorName: string): Promise<void> {
    for (const piece of this.#saved.get(key)?.pieces ?? []) {
      const { container, call } = await this.#openContainer(piece, tensorName);
      const layout = readLayout(call, tensorName, piece.file);
      if (layout.kind === 'layout' && !('range' in layout.storage))
        await container.storages.verify?.(layout.storage, tensorName);
    }
  }

  async #open(
    piece: SavedPiece,
    { dtype }: SavedTensor,
    tensorName: string,
  ): Promise<{ readonly sizes: readonly number[]; readonly range: ByteRange }> {
    const { container, call } = await this.#openContainer(piece, tensorName);
    const layout = readLayout(call, tensorName, piece.file);
    const expected = elementTypeOfDType(dtype)?.dtype;
    if (layout.kind !== 'layout' || layout.dtype !== expected) {
      const found = layout.kind === 'layout' ? layout.dtype : layout.why;
      fail(
        piece.file,
        `expected a piece of ${quote(tensorName)} in ${expected ?? describeValue(dtype)}, found ${found}`,
      );
    }
    const { shape, range } = await buildTensor(tensorName, layout, {
      file: piece.file,
      storages: container.storages,
      call,
      keeper: this.#keeper,
    });
    return { sizes: shape, range };
  }

  /** Opens the ZIP archive of one piece, which torch.save wrote into a stretch of a file. */
  async #openContainer({ file, offset, byteLength }: SavedPiece, tensorName: string) {
    const source = this.#sources.get(file);
    if (source === undefined) throw new Error('a file of the metadata was not opened');
    if (offset < 0 || byteLength < 0 || offset + byteLength > source.byteLength)
      fail(
        file,
        `expected ${quote(tensorName)} at bytes ${offset} to ${offset + byteLength}, found ${source.byteLength} bytes: it is truncated`,
        'truncated',
      );
    const container = await openZipContainer(joinRanges(file, [{ source, offset, byteLength }]).source, true);
    const call = asTensorCall(container.root);
    if (call === null)
      fail(file, `expected a tensor for ${quote(tensorName)}, found ${describeValue(container.root)}`);
    return { container, call };
  }
}
