// Reads safetensors files.

import type { Checkpoint, Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, DTYPE_NAMES, isDType } from '../../checkpoint/dtype.js';
import { planPlainEdits } from '../../checkpoint/edit-plan.js';
import {
  describeJson,
  isJsonArray,
  isJsonObject,
  JsonReader,
  type JsonValue,
  toUnsignedInteger,
} from '../../checkpoint/json-reader.js';
import { findProgress } from '../../checkpoint/training-progress.js';
import { type CheckpointErrorCode, fail, quote } from '../../errors.js';
import { type ByteRange, type ByteSource, readRange } from '../../io/byte-source.js';

/** Bytes of the header's length, a little-endian u64 at the start of the file. */
const LENGTH_BYTES = 8;

/** The reference reader's own limit (`MAX_HEADER_SIZE`). */
export const MAX_HEADER_BYTES = 100_000_000n;

/** Twice what the largest mixture-of-experts models have in all their shards; each is kept in memory. */
const MAX_TENSORS = 200_000;

/** Far above any real tensor; a shape is kept in memory. */
export const MAX_RANK = 64;

/** What a safetensors header says. */
export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** `__metadata__`; empty when absent. */
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Whether a file starts like safetensors: a header length that can be true, then `{`, possibly after white space.
 *
 * @param head the first bytes of the file.
 */
export function looksLikeSafetensors(head: Uint8Array): boolean {
  if (head.length <= LENGTH_BYTES) return false;
  const headerLength = new DataView(head.buffer, head.byteOffset).getBigUint64(0, true);
  if (headerLength > MAX_HEADER_BYTES) return false;
  let position = LENGTH_BYTES;
  while (isSpace(head[position])) position++;
  return head[position] === 0x7b;
}

/**
 * Opens a safetensors file: reads its header and checks everything that the reference reader checks, in its order.
 *
 * Layout (huggingface/safetensors, `safetensors/src/tensor.rs`): u64 little-endian N at byte 0, N bytes of JSON from
 * byte 8, then the buffer that `data_offsets` count from.
 *
 * @param header where it was read already.
 * @throws CheckpointError naming the tensor, what was expected and what was found.
 */
export async function openSafetensors(
  source: ByteSource,
  path: string,
  header?: SafetensorsHeader,
): Promise<Checkpoint> {
  const { tensors: stored, metadata } = header ?? (await readSafetensorsHeader(source));
  const tensors = withDroppedAliases(stored, metadata);
  return {
    path,
    format: 'safetensors',
    tensors,
    inModuleOrder: false,
    graph: null,
    modules: new Map(),
    progress: findProgress([metadata]),
    warnings: [],
    planEdits: (edits) => planPlainEdits(edits, tensors.values(), [source]),
    close: () => source.close(),
  };
}

/**
 * Reads and checks the header alone.
 *
 * @throws CheckpointError as {@link openSafetensors}.
 */
export async function readSafetensorsHeader(source: ByteSource): Promise<SafetensorsHeader> {
  const headerLength = await readHeaderLength(source);
  const bytes = await readRange({ source, offset: LENGTH_BYTES, byteLength: headerLength });
  const header = parseHeader(bytes, source);
  checkLayout([...header.tensors.values()], LENGTH_BYTES + headerLength, source);
  return header;
}

async function readHeaderLength(source: ByteSource): Promise<number> {
  const { name, byteLength } = source;
  if (byteLength < LENGTH_BYTES) {
    const expected = 'expected a safetensors header length of 8 bytes';
    fail(name, `${expected}, found a file of ${byteLength} bytes: too short`, 'truncated');
  }
  const bytes = await readRange({ source, offset: 0, byteLength: LENGTH_BYTES });
  const length = new DataView(bytes.buffer).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    const expected = `expected a safetensors header of at most ${MAX_HEADER_BYTES} bytes`;
    fail(name, `${expected}, found a header length of ${length}: too large`, 'limit-exceeded');
  }
  if (length + BigInt(LENGTH_BYTES) > BigInt(byteLength)) {
    const found = `found ${byteLength - LENGTH_BYTES} bytes after its length: the header reaches beyond the file`;
    fail(name, `expected a safetensors header of ${length} bytes, ${found}`, 'truncated');
  }
  if (length === 0n) fail(name, 'expected a safetensors header in JSON, found a header length of 0');
  return Number(length);
}

function parseHeader(bytes: Uint8Array, source: ByteSource): SafetensorsHeader {
  const file = source.name;
  const buffer = { source, offset: LENGTH_BYTES + bytes.length };
  const tensors = new Map<string, Tensor>();
  let metadata: ReadonlyMap<string, string> = new Map();
  new JsonReader(bytes, file, LENGTH_BYTES).readTopObject((key, value) => {
    if (key === '__metadata__') metadata = parseMetadata(value, file);
    else if (tensors.set(key, parseEntry(key, value, buffer)).size > MAX_TENSORS)
      fail(file, `more than ${MAX_TENSORS} tensors in one header`, 'limit-exceeded');
  });
  return { tensors, metadata };
}

function parseMetadata(value: JsonValue, file: string): ReadonlyMap<string, string> {
  const metadata = new Map<string, string>();
  if (value === null) return metadata;
  if (!isJsonObject(value)) fail(file, `expected __metadata__ to be an object, found ${describeJson(value)}`);
  for (const [key, text] of value) {
    if (typeof text !== 'string')
      fail(file, `expected strings in __metadata__, found ${describeJson(text)} under ${quote(key)}`);
    metadata.set(key, text);
  }
  return metadata;
}

/** A header entry after its own checks: sizes agree, its place in the buffer is yet to be checked. */
function parseEntry(name: string, value: JsonValue, buffer: Pick<ByteRange, 'source' | 'offset'>): Tensor {
  const failTensor = (message: string, code?: CheckpointErrorCode): never =>
    fail(buffer.source.name, `tensor ${quote(name)}: ${message}`, code);
  if (!isJsonObject(value))
    return failTensor(`expected a header entry (a JSON object), found ${describeJson(value)}`);
  const dtype = value.get('dtype');
  if (typeof dtype !== 'string' || !isDType(dtype))
    return failTensor(`expected a dtype (${DTYPE_NAMES.join(', ')}), found dtype ${describeJson(dtype)}`);
  const shape = toIntegers(value.get('shape'));
  if (shape === null) {
    const found = `found shape ${describeJson(value.get('shape'))}`;
    return failTensor(`expected a shape of non-negative integers, ${found}`);
  }
  if (shape.length > MAX_RANK) {
    const expected = `expected a shape of at most ${MAX_RANK} dimensions`;
    return failTensor(`${expected}, found ${shape.length}`, 'limit-exceeded');
  }
  const offsets = toIntegers(value.get('data_offsets'));
  const [begin, end] = offsets ?? [];
  if (offsets?.length !== 2 || begin === undefined || end === undefined) {
    const found = `found data_offsets ${describeJson(value.get('data_offsets'))}`;
    return failTensor(`expected data_offsets [begin, end] of two non-negative integers, ${found}`);
  }
  if (end < begin)
    return failTensor(`expected data_offsets with begin ≤ end, found an invalid range [${begin}, ${end}]`);
  const elementCount = shape.reduce((product, size) => product * size, 1n);
  const bits = elementCount * BigInt(bitsOf(dtype));
  if (bits >= 1n << 64n) return failTensor(`the size of shape [${shape.join(', ')}] overflows 64 bits`);
  if (bits % 8n !== 0n)
    return failTensor(`expected whole bytes, found ${bits} bits of ${dtype} in shape [${shape.join(', ')}]`);
  if (end - begin !== bits / 8n) {
    const expected = `expected ${bits / 8n} bytes for ${dtype} of shape [${shape.join(', ')}]`;
    return failTensor(`${expected}, found data_offsets of length ${end - begin}`);
  }
  // A huge range cannot be in the file: checkLayout says so, and needs exact numbers only up to the file's size.
  return {
    name,
    dtype,
    shape: shape.map(Number),
    elementCount: Number(elementCount),
    range: { source: buffer.source, offset: buffer.offset + Number(begin), byteLength: Number(end - begin) },
  };
}

function toIntegers(value: JsonValue | undefined): readonly bigint[] | null {
  if (!isJsonArray(value)) return null;
  const integers: bigint[] = [];
  for (const item of value) {
    const integer = toUnsignedInteger(item);
    if (integer === null) return null;
    integers.push(integer);
  }
  return integers;
}

/**
 * Checks that the tensors, sorted, cover the buffer exactly: no hole, no overlap, no missing or extra byte.
 *
 * @param start where the buffer starts in the file; it reaches to the file's end.
 */
function checkLayout(
  tensors: readonly Tensor[],
  start: number,
  { name: file, byteLength }: ByteSource,
): void {
  const placed = tensors.map(({ name, range }) => {
    const begin = range.offset - start;
    return { name, begin, end: begin + range.byteLength };
  });
  const bufferLength = byteLength - start;
  let position = 0;
  let previous: string | null = null;
  for (const { name, begin, end } of placed.sort((x, y) => x.begin - y.begin || x.end - y.end)) {
    if (begin !== position) {
      const kind = begin < position ? 'overlaps' : 'leaves a hole after';
      const neighbour = previous === null ? 'the start of the buffer' : `tensor ${quote(previous)}`;
      const expected = `tensor ${quote(name)}: expected data_offsets to begin at ${position}`;
      fail(file, `${expected}, found ${begin}: it ${kind} ${neighbour}`);
    }
    if (end > bufferLength) {
      const expected = `tensor ${quote(name)}: expected data_offsets within the file's ${bufferLength} data bytes`;
      const found = `found [${begin}, ${end}]: the file is truncated or the range is wrong`;
      fail(file, `${expected}, ${found}`, 'truncated');
    }
    position = end;
    previous = name;
  }
  if (position !== bufferLength) {
    const found = `found ${bufferLength - position} extra trailing bytes beyond it`;
    fail(file, `expected the file to end with its last tensor, ${found}`);
  }
}

/**
 * Adds the names that `save_model` dropped because another name holds the same tensor: it records them as
 * `__metadata__[dropped] = kept`.
 */
function withDroppedAliases(
  tensors: ReadonlyMap<string, Tensor>,
  metadata: ReadonlyMap<string, string>,
): ReadonlyMap<string, Tensor> {
  if (metadata.size === 0) return tensors;
  const all = new Map(tensors);
  for (const [dropped, kept] of metadata) {
    const tensor = tensors.get(kept);
    if (tensor !== undefined && !all.has(dropped)) all.set(dropped, { ...tensor, name: dropped });
  }
  return all;
}

/** Whether a byte is white space in JSON. */
export function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d;
}
