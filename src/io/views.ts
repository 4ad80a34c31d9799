// Byte sources that show another one otherwise: strided (a transposed tensor), byte-swapped (big-endian), unpacked (four bits).

import { fail } from '../errors.js';
import { type ByteRange, type ByteSource, checkBounds, type PlacedBytes, wholeOf } from './byte-source.js';

/** Lets one of several sources at a time hold what it has computed, so that memory stays at what one of them holds. */
export class Keeper {
  #release: () => void = () => {};

  /** Has the source that held something before give it up. @param release the one that holds something from here on. */
  take(release: () => void): void {
    if (release === this.#release) return;
    this.#release();
    this.#release = release;
  }
}

/**
 * Integers of four bits, two to a byte, as integers of a byte each.
 *
 * @param range bytes, each of which has the first of its two integers in its lower half.
 * @param count of integers: twice the bytes, or one less.
 */
export function unpackedSource(
  range: ByteRange,
  { count, isSigned }: { readonly count: number; readonly isSigned: boolean },
): ByteSource {
  const source: ByteSource = {
    name: range.source.name,
    byteLength: count,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      const first = Math.floor(position / 2);
      const packed = new Uint8Array(Math.ceil((position + target.byteLength) / 2) - first);
      await range.source.readInto(packed, range.offset + first);
      for (let i = 0; i < target.byteLength; i++) {
        const byte = packed[Math.floor((position + i) / 2) - first] ?? 0;
        const bits = (position + i) % 2 === 0 ? byte & 0x0f : byte >> 4;
        target[i] = isSigned && bits >= 8 ? bits - 16 : bits;
      }
    },
    close: () => range.source.close(),
    computedFrom: range,
  };
  return source;
}

/**
 * A range of big-endian units as one of little-endian ones; the same range where units of their width have no order.
 *
 * @param unitByteLength the width that is reversed: 2, 4 or 8. Complex elements are two units.
 */
export function byteSwapped(range: ByteRange, unitByteLength: number): ByteRange {
  if (unitByteLength !== 2 && unitByteLength !== 4 && unitByteLength !== 8) return range;
  const source: ByteSource = {
    name: range.source.name,
    byteLength: range.byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      const before = position % unitByteLength;
      const after = (unitByteLength - ((position + target.byteLength) % unitByteLength)) % unitByteLength;
      const isWhole = before === 0 && after === 0;
      const units = isWhole ? target : new Uint8Array(before + target.byteLength + after);
      await range.source.readInto(units, range.offset + position - before);
      reverseUnits(units, unitByteLength);
      if (!isWhole) target.set(units.subarray(before, before + target.byteLength));
    },
    close: () => range.source.close(),
    backing: {
      range,
      scatter(bytes) {
        const swapped = bytes.slice();
        reverseUnits(swapped, unitByteLength);
        return [{ source: range.source, offset: range.offset, bytes: swapped }];
      },
    },
  };
  return wholeOf(source);
}

function reverseUnits(bytes: Uint8Array, unitByteLength: 2 | 4 | 8): void {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (unitByteLength === 2) buffer.swap16();
  else if (unitByteLength === 4) buffer.swap32();
  else buffer.swap64();
}

/**
 * Elements that are computed of a range as they are read, `atOnce` at most, so that memory stays flat.
 *
 * @param width of an element in bytes.
 * @param compute the bytes of the elements `first` up to `end`.
 */
export function computedSource(
  range: ByteRange,
  { count, width, atOnce }: Readonly<Record<'count' | 'width' | 'atOnce', number>>,
  compute: (first: number, end: number) => Promise<Uint8Array>,
): ByteSource {
  const source: ByteSource = {
    name: range.source.name,
    byteLength: count * width,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      for (let done = 0; done < target.byteLength; ) {
        const first = Math.floor((position + done) / width);
        const end = Math.min(Math.ceil((position + target.byteLength) / width), first + atOnce);
        const bytes = (await compute(first, end)).subarray(position + done - first * width);
        const part = bytes.subarray(0, target.byteLength - done);
        target.set(part, done);
        done += part.byteLength;
      }
    },
    close: () => range.source.close(),
    computedFrom: range,
  };
  return source;
}

/** A strided view of elements; counts of elements, outermost dimension first. */
export interface StridedView {
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  /** Where the view's first element is. */
  readonly firstElement: number;
  readonly elementByteLength: number;
}

interface StridedSource extends ByteSource {
  readonly strided: { readonly range: ByteRange; readonly view: StridedView; readonly keeper: Keeper };
}

/**
 * The most that is put in order at a time. A transposed matrix is read once from front to back for each piece of this
 * size, where its columns are short; a weight of 64 MB twice.
 */
const MAX_BAND_BYTES = 32 * 1024 * 1024;

/** While a view is read on and on, each piece is so many times the one before. */
const BAND_GROWTH = 8;

/** What is read from the file at a time, and put in order. */
const WINDOW_BYTES = 1024 * 1024;

/** What lies between two runs is read with them up to so many bytes: a system call of its own takes longer. */
const MAX_GAP_BYTES = 8 * 1024;

/** Windows that overlap (torch.Tensor.unfold) are read as a whole: every element is in many of them. */
const MAX_OVERLAPPING_BYTES = 16 * 1024 * 1024;

/** So many elements are copied side by side: a line of the processor's cache, of float32. */
const TILE = 16;

/** So many units that lie side by side in both orders are copied as such. */
const MIN_RUN = 64;

/**
 * A strided view (transposed, channels_last, sliced, expanded) of a range as a source of row-major bytes. Read on and on,
 * it costs little more than the bytes of the range do: they are read in runs, as they lie, and put in order in pieces,
 * of which the last one is held.
 *
 * The caller has checked that every element of the view lies within the range.
 *
 * @param keeper of the sources of one file, of which one at a time holds a piece.
 */
export function stridedSource(range: ByteRange, view: StridedView, keeper = new Keeper()): StridedSource {
  const layout = layOut(view);
  const { unitBytes } = layout;
  const nothing = { start: 0, bytes: new Uint8Array(0) };
  let held = nothing;
  const release = () => {
    held = nothing;
  };
  const bandAt = async (position: number, wanted: number) => {
    const end = held.start + held.bytes.byteLength;
    if (held.start <= position && position < end) return held;
    const grown = position === end ? BAND_GROWTH * held.bytes.byteLength : 0;
    const capacity = Math.min(MAX_BAND_BYTES, Math.max(wanted, grown));
    // What was held is given up before more is made.
    keeper.take(release);
    release();
    const start = Math.floor(position / unitBytes);
    const box = boxAt(layout, start, Math.ceil(capacity / unitBytes) + 1);
    const units = makeUnits(unitBytes, countElements(box.axes));
    await gather(range, box, units);
    held = { start: start * unitBytes, bytes: bytesOf(units) };
    return held;
  };
  const source: StridedSource = {
    name: range.source.name,
    byteLength: view.shape.reduce((product, size) => product * size, view.elementByteLength),
    strided: { range, view, keeper },
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      for (let done = 0; done < target.byteLength; ) {
        const { start, bytes } = await bandAt(position + done, target.byteLength - done);
        const from = position + done - start;
        const part = bytes.subarray(from, from + target.byteLength - done);
        target.set(part, done);
        done += part.byteLength;
      }
    },
    close: () => range.source.close(),
    backing: { range, scatter: (bytes) => placeRuns(range, layout, bytes) },
  };
  return source;
}

/**
 * Two strided views of one layout in the order in which they are stored, and what they repeat once: as good for a
 * comparison, and as quick as if they were contiguous.
 *
 * @returns null where they are no such views; they are to be read as they are then.
 */
export function inStoredOrder(one: ByteRange, other: ByteRange): readonly [ByteRange, ByteRange] | null {
  if (!isWholeView(one) || !isWholeView(other)) return null;
  const [axes, others] = [axesOf(one.source.strided.view), axesOf(other.source.strided.view)];
  const isAlike =
    axes.length === others.length &&
    axes.every(({ size, stride }, i) => size === others[i]?.size && stride === others[i]?.stride);
  if (!isAlike || countElements(axes) === 0) return null;
  const stored = axes.filter(({ stride }) => stride > 0).sort((x, y) => y.stride - x.stride);
  return [readAsStored(one.source, stored), readAsStored(other.source, stored)];
}

function isWholeView(range: ByteRange): range is ByteRange & { readonly source: StridedSource } {
  const { source, offset, byteLength } = range;
  return 'strided' in source && offset === 0 && byteLength === source.byteLength;
}

function readAsStored({ strided }: StridedSource, axes: readonly Axis[]): ByteRange {
  const { range, view, keeper } = strided;
  const { firstElement, elementByteLength } = view;
  const byteLength = countElements(axes) * elementByteLength;
  if (axes.every(({ stride }, i) => stride === countElements(axes.slice(i + 1))))
    return { source: range.source, offset: range.offset + firstElement * elementByteLength, byteLength };
  const shape = axes.map(({ size }) => size);
  const strides = axes.map(({ stride }) => stride);
  const source = stridedSource(range, { shape, strides, firstElement, elementByteLength }, keeper);
  return wholeOf(source);
}

/** A dimension of a view: how many elements lie between neighbours where they are stored, and in row-major order. */
interface Axis {
  readonly size: number;
  readonly stride: number;
  readonly step: number;
}

/** Part of a view: where it begins in the storage, and its dimensions. */
interface Box {
  readonly first: number;
  readonly axes: readonly Axis[];
}

interface Layout extends Box {
  readonly unitBytes: number;
}

function countElements(axes: readonly Axis[]): number {
  return axes.reduce((product, { size }) => product * size, 1);
}

/** A view's dimensions, as few as say the same: those of size 1 left out, and neighbours joined where they can be. */
function axesOf({ shape, strides }: Pick<StridedView, 'shape' | 'strides'>): readonly Axis[] {
  const axes: Axis[] = [];
  let step = 1;
  for (let at = shape.length - 1; at >= 0; at--) {
    const [size = 1, stride = 0] = [shape[at], strides[at]];
    const inner = axes[0];
    if (size === 1) continue;
    if (inner !== undefined && stride === inner.stride * inner.size)
      axes[0] = { ...inner, size: size * inner.size };
    else axes.unshift({ size, stride, step });
    step *= size;
  }
  return axes;
}

/** Elements of 8 bytes and more are dimensions of smaller units. */
function layOut(view: StridedView): Layout {
  const { elementByteLength, firstElement } = view;
  const unitBytes = elementByteLength % 4 === 0 ? 4 : elementByteLength % 2 === 0 ? 2 : 1;
  const units = elementByteLength / unitBytes;
  const { shape, strides } = view;
  const inUnits = { shape: [...shape, units], strides: [...strides.map((stride) => stride * units), 1] };
  return { first: firstElement * units, axes: axesOf(inUnits), unitBytes };
}

/** The largest part of a view that begins with an element and holds no more than `capacity`: some of one dimension. */
function boxAt({ first, axes }: Layout, element: number, capacity: number): Box {
  const at = axes.findIndex(({ step }) => step <= capacity && element % step === 0);
  const outer = axes.slice(0, Math.max(at, 0) + 1).map((axis) => {
    const index = Math.floor(element / axis.step) % axis.size;
    return { axis, index };
  });
  const start = outer.reduce((sum, { axis, index }) => sum + index * axis.stride, first);
  const cut = outer.at(-1);
  if (cut === undefined) return { first: start, axes: [] };
  const { axis, index } = cut;
  const size = Math.min(axis.size - index, Math.max(1, Math.floor(capacity / axis.step)));
  return { first: start, axes: [{ ...axis, size }, ...axes.slice(at + 1)] };
}

type Units = Uint8Array<ArrayBuffer> | Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

function makeUnits(unitBytes: number, count: number): Units {
  if (unitBytes === 4) return new Uint32Array(count);
  return unitBytes === 2 ? new Uint16Array(count) : new Uint8Array(count);
}

function bytesOf({ buffer, byteOffset, byteLength }: Units): Uint8Array<ArrayBuffer> {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** How the stored units of a box are read: `inner` dimensions in one run, `grouped` in several, others one by one. */
interface Sweep {
  readonly outer: readonly Axis[];
  readonly grouped: Axis;
  readonly inner: readonly Axis[];
  /** Units from the first to behind the last of `inner`. */
  readonly span: number;
  /** What the box repeats. */
  readonly repeated: readonly Axis[];
}

const SINGLE: Axis = { size: 1, stride: 0, step: 0 };

function planSweep(axes: readonly Axis[], range: ByteRange, unitBytes: number): Sweep {
  const repeated = axes.filter(({ stride }) => stride === 0);
  const moving = axes.filter(({ stride }) => stride > 0).sort((x, y) => y.stride - x.stride);
  const spanOf = (inner: readonly Axis[]) =>
    inner.reduce((span, { size, stride }) => span + (size - 1) * stride, 1);
  if (moving.some(({ stride }, i) => stride < spanOf(moving.slice(i + 1)))) {
    const span = spanOf(moving);
    if (span * unitBytes > MAX_OVERLAPPING_BYTES) {
      const expected = `expected windows that overlap within at most ${MAX_OVERLAPPING_BYTES} bytes`;
      const found = `found a view of ${span * unitBytes} bytes`;
      fail(range.source.name, `${expected}, ${found}`, 'limit-exceeded', { hint: 'Save it with .clone().' });
    }
    return { outer: [], grouped: SINGLE, inner: moving, span, repeated };
  }
  let [at, span] = [moving.length, 1];
  for (let axis = moving[at - 1]; axis !== undefined; axis = moving[--at - 1]) {
    const whole = span + (axis.size - 1) * axis.stride;
    if ((axis.stride - span) * unitBytes > MAX_GAP_BYTES || whole * unitBytes > WINDOW_BYTES) break;
    span = whole;
  }
  return {
    outer: moving.slice(0, Math.max(0, at - 1)),
    grouped: moving[at - 1] ?? SINGLE,
    inner: moving.slice(at),
    span,
    repeated,
  };
}

/** Reads a box of stored units and puts them in row-major order. */
async function gather(range: ByteRange, { first, axes }: Box, target: Units): Promise<void> {
  const unitBytes = target.BYTES_PER_ELEMENT;
  const { outer, grouped, inner, span, repeated } = planSweep(axes, range, unitBytes);
  const isOneRun = (grouped.stride - span) * unitBytes <= MAX_GAP_BYTES;
  const slot = isOneRun ? grouped.stride : span;
  const fitting = Math.floor((WINDOW_BYTES / unitBytes - span) / Math.max(slot, 1)) + 1;
  const group = Math.min(grouped.size, Math.max(1, fitting));
  const window = makeUnits(unitBytes, (group - 1) * slot + span);
  const read = (at: number, start: number, count: number) =>
    range.source.readInto(bytesOf(window.subarray(at, at + count)), range.offset + start * unitBytes);
  for (const { stored, ordered } of eachOf(outer, first)) {
    for (let start = 0; start < grouped.size; start += group) {
      const count = Math.min(group, grouped.size - start);
      const from = stored + start * grouped.stride;
      if (isOneRun) await read(0, from, (count - 1) * slot + span);
      else for (let i = 0; i < count; i++) await read(i * slot, from + i * grouped.stride, span);
      const slots = { size: count, stride: slot, step: grouped.step };
      copyUnits(window, target.subarray(ordered + start * grouped.step), [slots, ...inner, ...repeated]);
    }
  }
}

interface Place {
  readonly stored: number;
  readonly ordered: number;
}

/** Every place that dimensions lead to. */
function* eachOf(axes: readonly Axis[], stored = 0, ordered = 0): Generator<Place> {
  const [axis, ...rest] = axes;
  if (axis === undefined) {
    yield { stored, ordered };
    return;
  }
  for (let i = 0; i < axis.size; i++) yield* eachOf(rest, stored + i * axis.stride, ordered + i * axis.step);
}

/** Copies units from where strides lead to where steps lead. */
function copyUnits(from: Units, to: Units, all: readonly Axis[]): void {
  const axes = all.filter(({ size }) => size > 1).sort((x, y) => y.step - x.step);
  const row = axes.pop() ?? SINGLE;
  const isRun = row.size >= MIN_RUN && row.stride === 1;
  const [column = null] = isRun
    ? []
    : axes.filter(({ stride }) => stride > 0).sort((x, y) => x.stride - y.stride);
  const rest = axes.filter((axis) => axis !== column);
  for (const place of eachOf(rest)) {
    if (column === null) copyRow(from, to, row, place);
    else copyTiles(from, to, row, column, place);
  }
}

function copyRow(from: Units, to: Units, { size, stride, step }: Axis, { stored, ordered }: Place): void {
  if (stride === 1 && step === 1) to.set(from.subarray(stored, stored + size), ordered);
  else if (stride === 0 && step === 1) to.fill(from[stored] ?? 0, ordered, ordered + size);
  else for (let i = 0; i < size; i++) to[ordered + i * step] = from[stored + i * stride] ?? 0;
}

/** Rows are written side by side, each on and on, from columns that lie side by side. */
function copyTiles(from: Units, to: Units, row: Axis, column: Axis, { stored, ordered }: Place): void {
  for (let tile = 0; tile < column.size; tile += TILE) {
    const end = Math.min(column.size, tile + TILE);
    for (let i = 0; i < row.size; i++) {
      const source = stored + i * row.stride;
      const target = ordered + i * row.step;
      for (let j = tile; j < end; j++)
        to[target + j * column.step] = from[source + j * column.stride] as number;
    }
  }
}

/** One piece for each run of elements that lie side by side, and the first that says another thing of repeated ones. */
function placeRuns(range: ByteRange, { first, axes, unitBytes }: Layout, bytes: Uint8Array): PlacedBytes[] {
  const units = makeUnits(unitBytes, bytes.byteLength / unitBytes);
  bytesOf(units).set(bytes);
  const repeated = axes.filter(({ stride }) => stride === 0);
  const moving = axes.filter(({ stride }) => stride > 0).sort((x, y) => y.stride - x.stride);
  let [at, length] = [moving.length, 1];
  for (let axis = moving[at - 1]; axis?.stride === length; axis = moving[--at - 1]) length *= axis.size;
  const inner = moving.slice(at).map(({ size, stride, step }) => ({ size, stride: step, step: stride }));
  const pieces: PlacedBytes[] = [];
  for (const copy of eachOf(repeated)) {
    let index = 0;
    for (const { stored, ordered } of eachOf(moving.slice(0, at), first, copy.ordered)) {
      const run = makeUnits(unitBytes, length);
      copyUnits(units.subarray(ordered), run, inner);
      const piece = { source: range.source, offset: range.offset + stored * unitBytes, bytes: bytesOf(run) };
      const known = pieces[index++];
      if (known === undefined) pieces.push(piece);
      else if (Buffer.compare(known.bytes, piece.bytes) !== 0) return [...pieces, piece];
    }
  }
  return pieces;
}
