// Reads the tree of an HDF5 file: groups, text attributes, and what each dataset's header says.

import { type CheckpointErrorCode, fail, quote } from '../../errors.js';
import { type ByteRange, readRange, sliceRange } from '../../io/byte-source.js';
import { Cursor } from '../../io/cursor.js';
import { countElements } from '../../io/row-major.js';
import { HDF5_SIGNATURE, startsWith } from '../sniff.js';
import { readDense } from './hdf5-heap.js';

// The layouts are those of the "HDF5 File Format Specification Version 3.0" (docs.hdfgroup.org), sections as noted. Read
// is what h5py writes for Keras: offsets and lengths of eight bytes, groups that list their members in old symbol tables,
// in link messages or in heaps (hdf5-heap.ts), hard links alone. Checksums are not looked at.

/** A Keras model has two groups for each layer, and a dataset for each variable and each of an optimizer's slots. */
const MAX_OBJECTS = 200_000;

/** Groups in groups; models in models have some ten. */
const MAX_DEPTH = 64;

/** An object's header; 64 KiB is the most that one message of it holds. */
const MAX_HEADER_BYTES = 16 * 1024 * 1024;
const MAX_HEADER_BLOCKS = 4_096;

/** The names of a group's members, or one collection of texts: a model's configuration may have megabytes. */
const MAX_HEAP_BYTES = 64 * 1024 * 1024;

/** What all text attributes of a file hold, however often one text is referred to. */
const MAX_TEXT_BYTES = 64 * 1024 * 1024;

/** Paths of all objects, each with the names of all groups above it; names may overlap in their heap. */
const MAX_PATH_CHARACTERS = 16 * 1024 * 1024;

/**
 * The metadata that is read in all, in bytes of the file: each is read about once. A file whose headers overlap, or are
 * found again and again, costs no more than this.
 */
const MAX_READ_PER_BYTE = 4;
const FREE_READ_BYTES = 1024 * 1024;

/** Metadata is small and scattered: it is read in pieces of this size, of which so many are held. */
const PAGE_BYTES = 16 * 1024;
const MAX_PAGES = 256;

/** Stands where an address would, for nothing. */
const UNDEFINED = 0xffff_ffff_ffff_ffffn;

/** What kinds of message of an object's header are read (IV.A.2). */
const MESSAGE = {
  dataspace: 0x01,
  linkInfo: 0x02,
  datatype: 0x03,
  link: 0x06,
  external: 0x07,
  layout: 0x08,
  groupInfo: 0x0a,
  filters: 0x0b,
  attribute: 0x0c,
  continuation: 0x10,
  symbolTable: 0x11,
  attributeInfo: 0x15,
} as const;

/** The texts of an attribute; one text where it is no list. Attributes of other types are left out. */
type Attributes = ReadonlyMap<string, readonly string[]>;

/** A group and its members, in the order in which the file lists them. */
export interface Hdf5Group {
  readonly kind: 'group';
  readonly attributes: Attributes;
  readonly members: ReadonlyMap<string, Hdf5Object>;
}

/** A dataset as its header describes it. What the messages say is yet to be understood. */
export interface Hdf5Dataset {
  readonly kind: 'dataset';
  /** The file that it is in. */
  readonly reader: Hdf5Reader;
  /** Names from the root, joined by slashes. */
  readonly path: string;
  readonly attributes: Attributes;
  readonly shape: readonly number[];
  /** What the shape may become, Infinity for a dimension without a bound. */
  readonly fullShape: readonly number[];
  readonly datatype: Datatype;
  readonly layout: Cursor;
  readonly filters: Cursor | null;
}

/** What a name in a group stands for. */
export type Hdf5Object = Hdf5Group | Hdf5Dataset;

/** An element type (IV.A.2.d). */
export interface Datatype {
  /** 0 integer, 1 float, 3 text, 5 opaque, 8 enumeration, 9 variable length; others are compound and the like. */
  readonly class: number;
  /** The class's 24 bits. */
  readonly bits: number;
  readonly byteLength: number;
  readonly properties: Uint8Array;
}

/** One message of an object's header. */
interface Message {
  readonly type: number;
  readonly isShared: boolean;
  readonly body: Cursor;
}

/**
 * Reads all groups and headers of an HDF5 file.
 *
 * @param file all of the file, which may be a record of an archive.
 * @param used what was read of the other shards of a model: the limits are those of all of them.
 * @throws CheckpointError `refused` for links and data outside of the file, `unsupported` for what h5py does not write for
 *   Keras, `truncated`, `malformed` or `limit-exceeded` for a broken or hostile file.
 */
export async function readHdf5(file: ByteRange, used = new Used()): Promise<Hdf5Reader> {
  const reader = new Hdf5Reader(file, used);
  await reader.readRoot();
  return reader;
}

/** What was read so far, and the pieces that are held. */
export class Used {
  objects = 0;
  textBytes = 0;
  pathCharacters = 0;
  readonly pages = new Map<number, Uint8Array>();
  /** The file whose pieces they are. */
  owner: Hdf5Reader | null = null;
}

/** An HDF5 file, of which pieces are read by their addresses. */
export class Hdf5Reader {
  readonly file: ByteRange;
  root: Hdf5Group = { kind: 'group', attributes: new Map(), members: new Map() };
  readonly #used: Used;
  readonly #texts = new Map<number, ReadonlyMap<number, Uint8Array>>();
  readonly #groups = new Set<number>();
  #readBytes = 0;

  constructor(file: ByteRange, used: Used) {
    this.file = file;
    this.#used = used;
  }

  /** Bytes of the file by their address, with a cursor at their start. */
  async read(address: number, byteLength: number, subject: string): Promise<Cursor> {
    if (address + byteLength > this.file.byteLength)
      this.fail(`expected ${byteLength} bytes of ${subject}, found the end of the file`, {
        code: 'truncated',
        address,
      });
    this.#readBytes += byteLength;
    if (this.#readBytes > FREE_READ_BYTES + MAX_READ_PER_BYTE * this.file.byteLength)
      this.fail('expected headers that each stand in a place of their own, found some that overlap', {
        code: 'limit-exceeded',
        address,
      });
    const origin = { file: this.file.source.name, baseOffset: this.file.offset + address, subject };
    const first = Math.floor(address / PAGE_BYTES);
    if (byteLength > PAGE_BYTES)
      return new Cursor(await readRange(sliceRange(this.file, address, address + byteLength)), origin);
    const bytes = new Uint8Array(byteLength);
    for (let page = first; page * PAGE_BYTES < address + byteLength; page++) {
      const [held, start] = [await this.#readPage(page), page * PAGE_BYTES - address];
      const piece = held.subarray(Math.max(0, -start), byteLength - start);
      bytes.set(piece, Math.max(0, start));
    }
    return new Cursor(bytes, origin);
  }

  async #readPage(page: number): Promise<Uint8Array> {
    const { pages } = this.#used;
    const known = this.#used.owner === this ? pages.get(page) : undefined;
    if (known !== undefined) return known;
    const start = page * PAGE_BYTES;
    const end = Math.min(start + PAGE_BYTES, this.file.byteLength);
    const bytes = await readRange(sliceRange(this.file, start, end));
    if (pages.size >= MAX_PAGES || this.#used.owner !== this) pages.clear();
    this.#used.owner = this;
    pages.set(page, bytes);
    return bytes;
  }

  /** Where something stands; null for nothing. */
  readAddress(cursor: Cursor): number | null {
    const address = cursor.readU64();
    return address === UNDEFINED ? null : Number(address);
  }

  /** The error that a file is broken: `malformed` where nothing else is said. */
  fail(
    message: string,
    {
      code = 'malformed',
      address,
      hint,
    }: { code?: CheckpointErrorCode; address?: number; hint?: string } = {},
  ): never {
    const { source, offset } = this.file;
    fail(source.name, message, code, { offset: address === undefined ? undefined : offset + address, hint });
  }

  /**
   * Reads the superblock (II.A) and all that hangs on it.
   *
   *     versions 0 and 1                          versions 2 and 3
   *      8  1  version                             8  1  version
   *     13  1  size of offsets                     9  1  size of offsets
   *     14  1  size of lengths                    10  1  size of lengths
   *     24  8  base address (version 1: 28)       12  8  base address
   *     40  8  end of the file (44)               28  8  end of the file
   *     64  8  address of the root's header (68)  36  8  address of the root's header
   */
  async readRoot(): Promise<void> {
    const head = await this.read(0, Math.min(96, this.file.byteLength), 'the superblock');
    head.skip(HDF5_SIGNATURE.length);
    const version = head.readU8();
    if (version > 3)
      this.fail(`expected an HDF5 superblock of version 0 to 3, found ${version}`, { code: 'unsupported' });
    if (version < 2) head.skip(4);
    const sizes = [head.readU8(), head.readU8()];
    if (sizes.some((size) => size !== 8))
      this.fail(`expected HDF5 offsets and lengths of 8 bytes, found ${sizes.join(' and ')}`, {
        code: 'unsupported',
      });
    head.skip(version < 2 ? 9 + 4 * version : 1);
    if (head.readU64() !== 0n)
      this.fail('expected an HDF5 file that begins with its superblock, found another base address', {
        code: 'unsupported',
      });
    head.skip(8);
    const end = head.readU64();
    if (end > this.file.byteLength)
      this.fail(`expected an HDF5 file of ${end} bytes, found ${this.file.byteLength}: it is cut short`, {
        code: 'truncated',
      });
    head.skip(version < 2 ? 16 : 0);
    const root = this.readAddress(head);
    if (root === null) this.fail('expected the address of the root group, found none');
    const object = await this.#readObject(root, '', 0);
    if (object?.kind !== 'group')
      this.fail('expected a group at the root, found something else', { address: root });
    this.root = object;
    this.#texts.clear();
  }

  /** @returns null for what is neither group nor dataset, such as a named type. */
  async #readObject(address: number, path: string, depth: number): Promise<Hdf5Object | null> {
    if (++this.#used.objects > MAX_OBJECTS)
      this.fail(`expected at most ${MAX_OBJECTS} groups and datasets, found more`, {
        code: 'limit-exceeded',
      });
    if (depth > MAX_DEPTH)
      this.fail(`expected at most ${MAX_DEPTH} groups in each other, found more`, { code: 'limit-exceeded' });
    this.#countPath(path.length);
    const messages = await this.#readHeader(address);
    const find = (type: number) => messages.find((message) => message.type === type);
    if (find(MESSAGE.external) !== undefined)
      this.fail(
        `dataset ${quote(path)}: its values lie in another file (external storage), which is not opened`,
        { code: 'refused', address },
      );
    const attributes = await this.#readAttributes(messages);
    const layout = find(MESSAGE.layout);
    if (layout !== undefined) {
      const [space, type, filters] = [MESSAGE.dataspace, MESSAGE.datatype, MESSAGE.filters].map(find);
      if (
        space === undefined ||
        type === undefined ||
        [space, type, layout, filters].some((one) => one?.isShared)
      )
        return this.fail(`dataset ${quote(path)}: expected its shape and type in its header, found none`, {
          code: 'unsupported',
          address,
        });
      const datatype = readDatatype(type.body);
      const { shape, fullShape } = this.#readShape(space.body, path);
      return {
        kind: 'dataset',
        reader: this,
        path,
        attributes,
        shape,
        fullShape,
        datatype,
        layout: layout.body,
        filters: filters?.body ?? null,
      };
    }
    const isGroup = [MESSAGE.symbolTable, MESSAGE.linkInfo, MESSAGE.link, MESSAGE.groupInfo].some(find);
    if (!isGroup) return null;
    if (this.#groups.has(address))
      this.fail(`group ${quote(path)}: is one that was read under another name (links in a circle)`, {
        address,
      });
    this.#groups.add(address);
    const members = new Map<string, Hdf5Object>();
    for (const [name, at] of await this.#readLinks(messages, path)) {
      if (members.has(name))
        this.fail(`group ${quote(path)}: expected unique names, found ${quote(name)} twice`);
      const member = await this.#readObject(at, path === '' ? name : `${path}/${name}`, depth + 1);
      if (member !== null) members.set(name, member);
    }
    return { kind: 'group', attributes, members };
  }

  #countPath(characters: number): void {
    this.#used.pathCharacters += characters;
    if (this.#used.pathCharacters > MAX_PATH_CHARACTERS)
      this.fail(`expected paths of at most ${MAX_PATH_CHARACTERS} characters in all, found more`, {
        code: 'limit-exceeded',
      });
  }

  /**
   * The messages of an object's header (IV.A.1), with the blocks that it goes on in.
   *
   *     version 1                        version 2
   *      0  1  version                    0  4  OHDR
   *      2  2  number of messages         4  1  version
   *      8  4  size of the messages       5  1  flags
   *     16     messages                   6     times (16, flag 5), limits (4, flag 4),
   *                                             size of the messages (1 to 8), messages, checksum
   */
  async #readHeader(address: number): Promise<readonly Message[]> {
    // The longest beginning of a header has 34 bytes, the shortest header 16.
    const left = Math.min(34, Math.max(16, this.file.byteLength - address));
    const head = await this.read(address, left, 'an object header');
    const isNew = startsWith(head.bytes, 'OHDR');
    if (isNew) head.skip(4);
    const version = head.readU8();
    const flags = isNew ? head.readU8() : 0;
    if (version !== (isNew ? 2 : 1))
      this.fail('expected an HDF5 object header, found other bytes', { address });
    const hasOrder = isNew && (flags & 4) !== 0;
    let byteLength: number;
    if (isNew) {
      head.skip((flags & 32 ? 16 : 0) + (flags & 16 ? 4 : 0));
      byteLength = readSized(head, 1 << (flags & 3));
    } else {
      head.skip(7);
      byteLength = head.readU32();
      head.skip(4);
    }
    const messages: Message[] = [];
    const blocks = [{ address: address + head.position, byteLength, isFirst: true }];
    const seen = new Set<number>();
    let total = 0;
    for (const block of blocks) {
      total += block.byteLength;
      if (seen.has(block.address))
        this.fail('object header: its blocks lead in a circle', { address: block.address });
      if (seen.add(block.address).size > MAX_HEADER_BLOCKS || total > MAX_HEADER_BYTES)
        this.fail(`expected an object header of at most ${MAX_HEADER_BYTES} bytes, found more`, {
          code: 'limit-exceeded',
          address: block.address,
        });
      const cursor = await this.read(block.address, block.byteLength, 'an object header');
      if (isNew && !block.isFirst) {
        if (!startsWith(cursor.bytes, 'OCHK'))
          this.fail('expected a block of an object header, found other bytes', { address: block.address });
        cursor.skip(4);
      }
      const end = isNew && !block.isFirst ? 4 : 0;
      const prefix = isNew ? (hasOrder ? 6 : 4) : 8;
      while (cursor.remaining - end >= prefix) {
        const type = isNew ? cursor.readU8() : cursor.readU16();
        const length = cursor.readU16();
        const isShared = (cursor.readU8() & 2) !== 0;
        cursor.skip(prefix - (isNew ? 4 : 5));
        const body = cursor.readPart(length);
        if (type !== MESSAGE.continuation) messages.push({ type, isShared, body });
        else {
          const next = this.readAddress(body);
          const size = Number(body.readU64());
          if (next !== null) blocks.push({ address: next, byteLength: size, isFirst: false });
        }
      }
    }
    return messages;
  }

  /**
   * A dataspace (IV.A.2.b): 0 version, 1 rank, 2 flags (1: with bounds), 3 kind (version 2) or 5 reserved bytes, then the
   * dimensions, then their bounds.
   */
  #readShape(cursor: Cursor, path: string): Pick<Hdf5Dataset, 'shape' | 'fullShape'> {
    const version = cursor.readU8();
    const rank = cursor.readU8();
    const hasBounds = (cursor.readU8() & 1) !== 0;
    if (version === 1) cursor.skip(5);
    else if (cursor.readU8() === 2) return { shape: [0], fullShape: [0] };
    const shape = Array.from({ length: rank }, () => Number(cursor.readU64()));
    const fullShape = hasBounds
      ? shape.map(() => this.readAddress(cursor) ?? Number.POSITIVE_INFINITY)
      : shape;
    const count = countElements(shape);
    const isPossible = Number.isSafeInteger(count * 8) && shape.every(Number.isSafeInteger);
    if (!isPossible || shape.some((size, axis) => size > (fullShape[axis] ?? 0)))
      this.fail(`dataset ${quote(path)}: expected a shape that a file can hold, found [${shape.join(', ')}]`);
    return { shape, fullShape };
  }

  async #readAttributes(messages: readonly Message[]): Promise<Attributes> {
    const attributes = new Map<string, readonly string[]>();
    for (const { type, isShared, body } of messages) {
      if (isShared) continue;
      const stored =
        type === MESSAGE.attributeInfo
          ? await this.#readDense(body, 'attribute', 2)
          : type === MESSAGE.attribute
            ? [body]
            : [];
      for (const one of stored) {
        const [name, texts] = await this.#readAttribute(one);
        if (texts !== null) attributes.set(name, texts);
      }
    }
    return attributes;
  }

  /**
   * An attribute (IV.A.2.m): 0 version, 1 flags, 2 size of the name, 4 of the type, 6 of the dataspace, 8 character set
   * (version 3); these three, in version 1 each padded to 8 bytes; then the values.
   */
  async #readAttribute(cursor: Cursor): Promise<readonly [name: string, texts: readonly string[] | null]> {
    const version = cursor.readU8();
    const isShared = cursor.readU8() !== 0 && version > 1;
    const sizes = [cursor.readU16(), cursor.readU16(), cursor.readU16()];
    if (version > 2) cursor.skip(1);
    const [name, type, space] = sizes.map((size) => {
      const part = cursor.readPart(size);
      if (version === 1) cursor.skip(Math.min(-size & 7, cursor.remaining));
      return part;
    });
    if (name === undefined || type === undefined || space === undefined) return ['', null];
    const called = decodeText(name.bytes);
    if (isShared) return [called, null];
    const datatype = readDatatype(type);
    const count = countElements(this.#readShape(space, called).shape);
    const isText = datatype.class === 3 || (datatype.class === 9 && (datatype.bits & 15) === 1);
    if (!isText) return [called, null];
    // An element takes at least a byte, so that the list is no longer than the message; an empty list has none.
    if (count * Math.max(1, datatype.byteLength) > cursor.remaining)
      this.fail(`attribute ${quote(called)}: expected ${count} texts, found too few bytes`);
    const texts: string[] = [];
    for (let index = 0; index < count; index++) {
      const stored = cursor.readPart(datatype.byteLength);
      const bytes = datatype.class === 3 ? stored.bytes : await this.#readVariable(stored);
      this.#used.textBytes += bytes.byteLength;
      if (this.#used.textBytes > MAX_TEXT_BYTES)
        this.fail(`expected attributes of at most ${MAX_TEXT_BYTES} bytes in all, found more`, {
          code: 'limit-exceeded',
        });
      texts.push(decodeText(bytes));
    }
    return [called, texts];
  }

  /** A text of variable length: 0 4 length, 4 8 address of its collection, 12 4 its number there (III.E). */
  async #readVariable(cursor: Cursor): Promise<Uint8Array> {
    const length = cursor.readU32();
    const address = this.readAddress(cursor);
    if (length === 0 || address === null || address === 0) return new Uint8Array(0);
    const bytes = (await this.#readCollection(address)).get(cursor.readU32());
    if (bytes === undefined || bytes.byteLength < length)
      return this.fail(`expected a text of ${length} bytes in the global heap, found none`, { address });
    return bytes.subarray(0, length);
  }

  /** A global heap collection (III.E): GCOL, 8 8 its size; objects of 0 2 number, 8 8 size, bytes padded to 8. */
  async #readCollection(address: number): Promise<ReadonlyMap<number, Uint8Array>> {
    const known = this.#texts.get(address);
    if (known !== undefined) return known;
    const head = await this.read(address, 16, 'a global heap');
    if (!startsWith(head.bytes, 'GCOL')) this.fail('expected a global heap, found other bytes', { address });
    head.skip(8);
    const byteLength = this.#readHeapSize(head, 'a global heap', address);
    const heap = await this.read(address, byteLength, 'a global heap');
    const texts = new Map<number, Uint8Array>();
    heap.skip(16);
    while (heap.remaining >= 16) {
      const index = heap.readU16();
      heap.skip(6);
      const size = heap.readU64();
      if (index === 0) break;
      texts.set(index, heap.readBytes(size));
      heap.skip(Math.min(Number(-size & 7n), heap.remaining));
    }
    this.#texts.set(address, texts);
    return texts;
  }

  #readHeapSize(cursor: Cursor, subject: string, address: number): number {
    const byteLength = cursor.readU64();
    if (byteLength > MAX_HEAP_BYTES)
      this.fail(`expected ${subject} of at most ${MAX_HEAP_BYTES} bytes, found ${byteLength}`, {
        code: 'limit-exceeded',
        address,
      });
    return Number(byteLength);
  }

  /** What a group's links lead to, by name. */
  async #readLinks(messages: readonly Message[], path: string): Promise<ReadonlyMap<string, number>> {
    const links = new Map<string, number>();
    const add = (name: string, address: number) => {
      if (links.has(name))
        this.fail(`group ${quote(path)}: expected unique names, found ${quote(name)} twice`);
      if (links.set(name, address).size > MAX_OBJECTS)
        this.fail(`group ${quote(path)}: expected at most ${MAX_OBJECTS} members, found more`, {
          code: 'limit-exceeded',
        });
    };
    for (const { type, body } of messages) {
      if (type === MESSAGE.linkInfo) {
        const stored = await this.#readDense(body, 'link', 8);
        const found = stored.map((link) => this.#readLink(link, path));
        // The tree has them by the hashes of their names; elsewhere they stand by the names.
        for (const link of found.sort(([x], [y]) => (x < y ? -1 : 1))) add(...link);
      } else if (type === MESSAGE.link) add(...this.#readLink(body, path));
      else if (type === MESSAGE.symbolTable) {
        const [tree, heap] = [this.readAddress(body), this.readAddress(body)];
        if (tree !== null && heap !== null)
          await this.#readSymbols(tree, await this.#readNames(heap), add, path);
      }
    }
    return links;
  }

  /**
   * Many members or attributes stand in a heap of their own, where h5py is asked for it. 0 version, 1 flags, the number of
   * the last one where they are numbered, then the addresses of the heap and of the tree that lists it by name.
   */
  async #readDense(
    body: Cursor,
    kind: 'link' | 'attribute',
    numberBytes: number,
  ): Promise<readonly Cursor[]> {
    body.skip(1);
    if (body.readU8() & 1) body.skip(numberBytes);
    const [heap, tree] = [this.readAddress(body), this.readAddress(body)];
    if (heap === null || tree === null) return [];
    return readDense(this, kind, { heap, tree });
  }

  /** A link (IV.A.2.g): 0 version, 1 flags, then the fields that the flags tell, the name, and where it leads. */
  #readLink(cursor: Cursor, path: string): readonly [name: string, address: number] {
    cursor.skip(1);
    const flags = cursor.readU8();
    const kind = flags & 8 ? cursor.readU8() : 0;
    cursor.skip((flags & 4 ? 8 : 0) + (flags & 16 ? 1 : 0));
    const name = cursor.readText(readSized(cursor, 1 << (flags & 3)));
    if (kind !== 0) return this.#refuseLink(kind === 1 ? 'soft' : 'external', name, path);
    const address = this.readAddress(cursor);
    return address === null
      ? this.fail(`group ${quote(path)}: ${quote(name)} leads nowhere`)
      : [name, address];
  }

  #refuseLink(kind: 'soft' | 'external', name: string, path: string): never {
    const what = kind === 'soft' ? 'a soft link' : 'a link to another file (external link)';
    return this.fail(`group ${quote(path)}: ${quote(name)} is ${what}, which is not followed`, {
      code: 'refused',
    });
  }

  /** A local heap (III.D): HEAP, 8 8 size of its data, 24 8 their address. */
  async #readNames(address: number): Promise<Uint8Array> {
    const head = await this.read(address, 32, 'a local heap');
    if (!startsWith(head.bytes, 'HEAP')) this.fail('expected a local heap, found other bytes', { address });
    head.skip(8);
    const byteLength = this.#readHeapSize(head, 'a local heap', address);
    head.skip(8);
    const data = this.readAddress(head);
    return data === null ? new Uint8Array(0) : (await this.read(data, byteLength, 'a local heap')).bytes;
  }

  /**
   * The symbol tables under a B-tree of version 1 (III.A.1, III.B). An entry: 0 8 offset of the name in the heap, 8 8
   * address of the header, 16 4 kind (2: soft link), 24 16 more of it.
   */
  async #readSymbols(
    tree: number,
    names: Uint8Array,
    add: (name: string, address: number) => void,
    path: string,
  ): Promise<void> {
    for (const { address } of await this.readTree(tree, 0, 8)) {
      const head = await this.read(address, 8, 'a symbol table');
      if (!startsWith(head.bytes, 'SNOD'))
        this.fail('expected a symbol table, found other bytes', { address });
      head.skip(6);
      const count = head.readU16();
      const entries = await this.read(address + 8, count * 40, 'a symbol table');
      for (let index = 0; index < count; index++) {
        const start = Number(entries.readU64());
        const header = this.readAddress(entries);
        const kind = entries.readU32();
        entries.skip(20);
        const end = names.indexOf(0, start);
        if (start > names.byteLength || end < 0)
          this.fail(`group ${quote(path)}: expected a name in its heap, found none`, { address });
        this.#countPath(end - start);
        const name = decodeText(names.subarray(start, end));
        if (kind === 2 || header === null) this.#refuseLink('soft', name, path);
        else add(name, header);
      }
    }
  }

  /**
   * The leaves of a B-tree of version 1 (III.A.1), each with the key before it: TREE, 4 1 type, 5 1 level, 6 2 entries,
   * 8 16 siblings, then key, address, key, address, …, key.
   */
  async readTree(
    root: number,
    type: number,
    keyBytes: number,
    maxLeaves = MAX_OBJECTS,
  ): Promise<readonly { readonly key: Uint8Array; readonly address: number }[]> {
    const leaves: { key: Uint8Array; address: number }[] = [];
    const seen = new Set<number>();
    const visit = async (address: number, level: number | null): Promise<void> => {
      if (seen.has(address)) this.fail('B-tree: its nodes lead in a circle', { address });
      if (seen.add(address).size + leaves.length > 2 * maxLeaves + MAX_DEPTH)
        this.fail(`expected a B-tree of at most ${maxLeaves} leaves, found more`, {
          code: 'limit-exceeded',
          address,
        });
      const head = await this.read(address, 24, 'a B-tree');
      if (!startsWith(head.bytes, 'TREE')) this.fail('expected a B-tree, found other bytes', { address });
      head.skip(4);
      const [found, own, count] = [head.readU8(), head.readU8(), head.readU16()];
      if (found !== type || (level !== null && own !== level))
        this.fail('expected a B-tree of the other kind or level, found a node that does not fit', {
          address,
        });
      const body = await this.read(address + 24, count * (keyBytes + 8), 'a B-tree');
      for (let index = 0; index < count; index++) {
        const key = body.readBytes(keyBytes);
        const child = this.readAddress(body);
        if (child === null) this.fail('expected the address of a node of a B-tree, found none', { address });
        else if (own > 0) await visit(child, own - 1);
        else leaves.push({ key, address: child });
      }
    };
    await visit(root, null);
    return leaves;
  }
}

/** An unsigned number of 1, 2, 4 or 8 bytes. */
function readSized(cursor: Cursor, byteLength: number): number {
  if (byteLength === 1) return cursor.readU8();
  if (byteLength === 2) return cursor.readU16();
  return byteLength === 4 ? cursor.readU32() : Number(cursor.readU64());
}

/** 0 1 class and version, 1 3 bits, 4 4 size, 8 properties. */
function readDatatype(cursor: Cursor): Datatype {
  const kind = cursor.readU8() & 15;
  const bits = cursor.readU8() | (cursor.readU8() << 8) | (cursor.readU8() << 16);
  const byteLength = cursor.readU32();
  return { class: kind, bits, byteLength, properties: cursor.readBytes(cursor.remaining) };
}

/** Text up to its padding: zeros, or spaces as Fortran writes them. */
function decodeText(bytes: Uint8Array): string {
  const zero = bytes.indexOf(0);
  let end = zero < 0 ? bytes.byteLength : zero;
  while (bytes[end - 1] === 0x20) end--;
  return new TextDecoder().decode(bytes.subarray(0, end));
}
