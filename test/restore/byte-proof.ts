import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { expect } from 'vitest';
import type { Checkpoint, Tensor } from '../../src/checkpoint/checkpoint.js';
import type { LayerComparison } from '../../src/compare/compare-layers.js';
import { compareCheckpoints } from '../../src/compare-checkpoints.js';
import { type Field, readFields } from '../../src/formats/onnx/edit-graph.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { enclosingRange, memorySource, readRange } from '../../src/io/byte-source.js';
import { FileSource } from '../../src/io/file-source.js';
import { crc32 } from '../../src/io/zip.js';
import { storedTensorOf } from '../../src/norm/norm-layer.js';

/** Bytes of a file that a restoration may change. */
interface Extent {
  readonly path: string;
  readonly start: number;
  readonly end: number;
  /** How many of them, where a strided tensor has others between its own. */
  readonly most: number;
}

/**
 * Proves that a restored checkpoint is after in every byte but those of the statistics and batch counts of its drifted
 * layers (of a folded one, those of its convolution's weight and bias), and the checksums of the zip records that hold
 * them. Where the bytes are is asked of the reader of after, and of the zip directory as it is read here: nothing that
 * planned the change is.
 *
 * @returns how many bytes differ between after and FIXED, checksums included; null where a file changed its size.
 */
export async function proveRestored(
  beforePath: string,
  afterPath: string,
  fixedPath: string,
): Promise<number | null> {
  const [before, after, fixed] = [
    await openCheckpoint(beforePath),
    await openCheckpoint(afterPath),
    await openCheckpoint(fixedPath),
  ];
  try {
    const { layers } = await compareCheckpoints(before, after);
    const found = layers.filter(({ status }) => status === 'drifted').flatMap(listTensors);
    // Where an operator hands a constant on, the reader shows what comes out of it: the constant has the same name.
    const restored = found.map((tensor) => after.tensors.get(tensor.name) ?? tensor);
    await proveOthersEqual(after, fixed, restored);
    const extents = restored.flatMap(toExtents);
    const counts = listFiles(after).map((path) => {
      const twin = twinOf(path, afterPath, fixedPath);
      const own = extents.filter((extent) => extent.path === path);
      if (statSync(path).size === statSync(twin).size) return proveFileEqual(path, twin, own);
      return null;
    });
    const hasGrown = counts.includes(null);
    if (hasGrown) await proveModelEqual(afterPath, fixedPath, restored);
    return hasGrown ? null : counts.reduce((sum: number, count) => sum + (count ?? 0), 0);
  } finally {
    for (const checkpoint of [before, after, fixed]) await checkpoint.close();
  }
}

/** The tensors of after in which a layer's statistics are. */
function listTensors({ after }: LayerComparison): readonly Tensor[] {
  const { foldedInto, mean, variance, batchCount } = after;
  if (foldedInto !== undefined)
    return [foldedInto.weight, ...(foldedInto.bias === null ? [] : [foldedInto.bias])];
  return [mean, variance, batchCount].flatMap((one) => storedTensorOf(one) ?? []);
}

function toExtents({ range }: Tensor): readonly Extent[] {
  const { source, offset, byteLength } = enclosingRange(range);
  if (!(source instanceof FileSource)) return [];
  return [{ path: source.path, start: offset, end: offset + byteLength, most: range.byteLength }];
}

/** Every file of a checkpoint, whether or not anything in it changes. */
function listFiles({ path, tensors }: Checkpoint): readonly string[] {
  const own = statSync(path).isDirectory() ? readdirSync(path).map((name) => join(path, name)) : [path];
  const others = [...tensors.values()].flatMap(({ range }) => {
    const { source } = enclosingRange(range);
    return source instanceof FileSource ? [source.path] : [];
  });
  return [...new Set([...own, ...others])];
}

/** The file of FIXED that a file of after became. Files beside the one that was named keep their names. */
function twinOf(path: string, afterPath: string, fixedPath: string): string {
  if (path === afterPath) return fixedPath;
  return statSync(fixedPath).isDirectory()
    ? join(fixedPath, basename(path))
    : join(dirname(fixedPath), basename(path));
}

/** Every tensor that is none of the restored ones, nor another name of one. */
async function proveOthersEqual(
  after: Checkpoint,
  fixed: Checkpoint,
  restored: readonly Tensor[],
): Promise<void> {
  const placeOf = ({ range }: Tensor) => {
    const { source, offset } = enclosingRange(range);
    return source instanceof FileSource ? `${source.path} ${offset}` : null;
  };
  const names = new Set(restored.map(({ name }) => name));
  const places = new Set(restored.map(placeOf));
  for (const [name, tensor] of after.tensors) {
    if (names.has(name) || (placeOf(tensor) !== null && places.has(placeOf(tensor)))) continue;
    const twin = fixed.tensors.get(name);
    expect(twin, name).toMatchObject({ dtype: tensor.dtype, shape: tensor.shape });
    const isEqual =
      twin !== undefined && Buffer.compare(await readRange(tensor.range), await readRange(twin.range)) === 0;
    expect(isEqual, name).toBe(true);
  }
}

/** Two files of one size; returns how many bytes differ. */
function proveFileEqual(path: string, twin: string, extents: readonly Extent[]): number {
  const [old, written] = [readFileSync(path), readFileSync(twin)];
  const differing = old.equals(written) ? [] : listDifferences(old, written);
  const checksums = isZip(old) ? proveChecksums(old, written, extents) : [];
  const outside = differing.filter(
    (at) => ![...extents, ...checksums].some(({ start, end }) => at >= start && at < end),
  );
  expect(outside, `bytes of ${path}`).toEqual([]);
  for (const { start, end, most } of extents)
    expect(differing.filter((at) => at >= start && at < end).length).toBeLessThanOrEqual(most);
  return differing.length;
}

function listDifferences(old: Buffer, written: Buffer): readonly number[] {
  const differing: number[] = [];
  for (let at = 0; at < old.length; at++) if (old[at] !== written[at]) differing.push(at);
  return differing;
}

function isZip(bytes: Buffer): boolean {
  return bytes.subarray(0, 4).toString('latin1') === 'PK\x03\x04';
}

/** The places of the checksums of records in which something changes, which are proved to be right. */
function proveChecksums(
  old: Buffer,
  written: Buffer,
  extents: readonly Extent[],
): readonly Pick<Extent, 'start' | 'end'>[] {
  return listRecords(old).flatMap(({ start, end, checksumsAt }) => {
    if (!extents.some((extent) => extent.start < end && extent.end > start)) return [];
    const crc = crc32(written.subarray(start, end));
    for (const at of checksumsAt) {
      if (old.readUInt32LE(at) === 0) expect(written.readUInt32LE(at)).toBe(0);
      else expect(written.readUInt32LE(at)).toBe(crc);
    }
    return checksumsAt.map((at) => ({ start: at, end: at + 4 }));
  });
}

/** A zip record: where its bytes are, and each place that states their CRC. */
interface ZipRecord {
  readonly start: number;
  readonly end: number;
  readonly checksumsAt: readonly number[];
}

/** The records of a small archive (APPNOTE.TXT 4.3.7, 4.3.9, 4.3.12), without zip64. */
function listRecords(bytes: Buffer): readonly ZipRecord[] {
  const records: ZipRecord[] = [];
  let at = bytes.readUInt32LE(bytes.lastIndexOf('PK\x05\x06', undefined, 'latin1') + 16);
  while (bytes.toString('latin1', at, at + 4) === 'PK\x01\x02') {
    const header = bytes.readUInt32LE(at + 42);
    const start = header + 30 + bytes.readUInt16LE(header + 26) + bytes.readUInt16LE(header + 28);
    const end = start + bytes.readUInt32LE(at + 20);
    const hasDescriptor = (bytes.readUInt16LE(at + 8) & 8) !== 0;
    const hasSignature = bytes.toString('latin1', end, end + 4) === 'PK\x07\x08';
    // Where a descriptor follows, the header may leave the checksum to it, or state it as well.
    const inHeader = bytes.readUInt32LE(header + 14) === bytes.readUInt32LE(at + 16) ? [header + 14] : [];
    const inDescriptor = hasDescriptor ? [hasSignature ? end + 4 : end] : [];
    records.push({ start, end, checksumsAt: [at + 16, ...inHeader, ...inDescriptor] });
    at += 46 + [28, 30, 32].reduce((sum, length) => sum + bytes.readUInt16LE(at + length), 0);
  }
  return records;
}

/** ModelProto.graph, and what of it is a node or an initializer. */
const GRAPH = 7;
const NODE = 1;
const INITIALIZER = 5;

/** Operators whose output an initializer may take the place of: they compute a constant. */
const CONSTANT_OPERATORS = ['Identity', 'Cast', 'Constant', 'Concat', 'Unsqueeze', 'Reshape'];

/**
 * A model that got initializers of its own for constants that layers shared. Everything outside the graph stays byte for
 * byte, and so does every field in it but initializers of restored tensors and nodes: those that an initializer takes
 * the place of, and those that read another name in some inputs.
 */
async function proveModelEqual(
  afterPath: string,
  fixedPath: string,
  restored: readonly Tensor[],
): Promise<void> {
  const [old, written] = [await readModel(afterPath), await readModel(fixedPath)];
  expect(written.outside).toEqual(old.outside);
  const [removed, added] = [subtract(old.graph, written.graph), subtract(written.graph, old.graph)];
  const removedNodes = await Promise.all(removed.filter(({ number }) => number === NODE).map(readNode));
  const addedNodes = await Promise.all(added.filter(({ number }) => number === NODE).map(readNode));
  const renamed = new Set(addedNodes.map(({ withoutInputs }) => withoutInputs));
  for (const { operator, withoutInputs } of removedNodes)
    if (!renamed.has(withoutInputs)) expect(CONSTANT_OPERATORS).toContain(operator);
  const known = new Set(removedNodes.map(({ withoutInputs }) => withoutInputs));
  for (const { withoutInputs } of addedNodes) expect(known).toContain(withoutInputs);
  const names = restored.map(({ name }) => name);
  for (const field of removed.filter(({ number }) => number !== NODE)) {
    expect(field.number).toBe(INITIALIZER);
    expect(names).toContain(await readText(field, 8));
  }
  for (const field of added.filter(({ number }) => number !== NODE)) expect(field.number).toBe(INITIALIZER);
}

interface Message {
  readonly number: number;
  /** The whole field as text, to be compared. */
  readonly text: string;
  readonly content: Uint8Array;
}

async function listFields(bytes: Uint8Array): Promise<readonly Message[]> {
  const fields: Message[] = [];
  const cut = ({ start, end }: Pick<Field, 'start' | 'end'>) => bytes.subarray(start, end);
  for await (const field of readFields(memorySource('m', bytes), { start: 0, end: bytes.byteLength })) {
    const content = cut({ start: field.payloadStart, end: field.end });
    fields.push({ number: field.number, text: Buffer.from(cut(field)).toString('latin1'), content });
  }
  return fields;
}

async function readModel(path: string): Promise<{ outside: readonly string[]; graph: readonly Message[] }> {
  const fields = await listFields(readFileSync(path));
  const graphs = fields.filter(({ number }) => number === GRAPH);
  return {
    outside: fields.filter(({ number }) => number !== GRAPH).map(({ text }) => text),
    graph: (await Promise.all(graphs.map(({ content }) => listFields(content)))).flat(),
  };
}

/** What one list has and the other has not, each as often as it is missing there. */
function subtract(fields: readonly Message[], others: readonly Message[]): readonly Message[] {
  const counts = new Map<string, number>();
  for (const { text } of others) counts.set(text, (counts.get(text) ?? 0) + 1);
  return fields.filter(({ text }) => {
    const count = counts.get(text) ?? 0;
    counts.set(text, count - 1);
    return count <= 0;
  });
}

/** NodeProto: input 1, op_type 4. */
async function readNode({ content }: Message): Promise<{ operator: string; withoutInputs: string }> {
  const fields = await listFields(content);
  return {
    operator: Buffer.from(fields.find(({ number }) => number === 4)?.content ?? []).toString(),
    withoutInputs: JSON.stringify(fields.filter(({ number }) => number !== 1).map(({ text }) => text)),
  };
}

async function readText({ content }: Message, number: number): Promise<string> {
  const field = (await listFields(content)).find((one) => one.number === number);
  return Buffer.from(field?.content ?? []).toString();
}
