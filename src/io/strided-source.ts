import { type ByteRange, type ByteSource, checkBounds, type PlacedBytes } from './byte-source.js';

/** A strided view of elements; counts of elements, outermost dimension first. */
export interface StridedView {
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  /** Where the view's first element is. */
  readonly firstElement: number;
  readonly elementByteLength: number;
}

/** Elements gathered at a time: 512 KiB of addresses. */
const MAX_BATCH_ELEMENTS = 64 * 1024;

/** Underlying bytes held at a time; a view that is spread wider is gathered in several sweeps. */
const MAX_WINDOW_BYTES = 4 * 1024 * 1024;

/**
 * A strided view (transposed, sliced, expanded) of a range as a source of row-major bytes, gathered as they are read.
 * Memory stays flat whatever the view's size and spread.
 *
 * The caller has checked that every element of the view lies within the range.
 */
export function stridedSource(range: ByteRange, view: StridedView): ByteSource {
  const width = view.elementByteLength;
  const elementCount = view.shape.reduce((product, size) => product * size, 1);
  const source: ByteSource = {
    name: range.source.name,
    byteLength: elementCount * width,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      const first = Math.floor(position / width);
      const end = Math.ceil((position + target.byteLength) / width);
      for (let from = first; from < end; from += MAX_BATCH_ELEMENTS) {
        const count = Math.min(MAX_BATCH_ELEMENTS, end - from);
        const gathered = await gather(range, addressesOf(view, from, count), width);
        const skipped = Math.max(0, position - from * width);
        const at = from * width + skipped - position;
        target.set(
          gathered.subarray(skipped, Math.min(gathered.length, skipped + target.byteLength - at)),
          at,
        );
      }
    },
    close: () => range.source.close(),
    backing: { range, scatter: (bytes) => scatterElements(range, view, bytes) },
  };
  return source;
}

/** One piece for each run of elements that lie side by side. */
function scatterElements(range: ByteRange, view: StridedView, bytes: Uint8Array): readonly PlacedBytes[] {
  const width = view.elementByteLength;
  const pieces: PlacedBytes[] = [];
  const elementCount = bytes.byteLength / width;
  for (let from = 0; from < elementCount; from += MAX_BATCH_ELEMENTS) {
    const addresses = addressesOf(view, from, Math.min(MAX_BATCH_ELEMENTS, elementCount - from));
    for (let start = 0, end = 1; start < addresses.length; start = end, end++) {
      const first = addresses[start] ?? 0;
      while (addresses[end] === first + (end - start) * width) end++;
      const content = bytes.subarray((from + start) * width, (from + end) * width);
      pieces.push({ source: range.source, offset: range.offset + first, bytes: content });
    }
  }
  return pieces;
}

/** Where in the range the view's elements `from` to `from + count` start, in bytes. */
function addressesOf(view: StridedView, from: number, count: number): Float64Array {
  const { shape, strides } = view;
  const index = indexOf(shape, from);
  let element = view.firstElement;
  index.forEach((value, axis) => {
    element += value * (strides[axis] ?? 0);
  });
  const addresses = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    addresses[i] = element * view.elementByteLength;
    // Like an odometer: the last axis counts up, and each that is full goes back to zero and carries.
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const stride = strides[axis] ?? 0;
      const next = (index[axis] ?? 0) + 1;
      element += stride;
      if (next < (shape[axis] ?? 0)) {
        index[axis] = next;
        break;
      }
      element -= next * stride;
      index[axis] = 0;
    }
  }
  return addresses;
}

/** The index, one number per axis, of the element that is number `position` in row-major order. */
function indexOf(shape: readonly number[], position: number): number[] {
  const index = new Array<number>(shape.length).fill(0);
  let rest = position;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] ?? 1;
    index[axis] = rest % size;
    rest = Math.floor(rest / size);
  }
  return index;
}

async function gather(range: ByteRange, addresses: Float64Array, width: number): Promise<Uint8Array> {
  const gathered = new Uint8Array(addresses.length * width);
  let next = smallestFrom(addresses, 0);
  while (next < Number.POSITIVE_INFINITY) {
    const end = Math.min(next + MAX_WINDOW_BYTES, largestOf(addresses) + width);
    const window = new Uint8Array(end - next);
    await range.source.readInto(window, range.offset + next);
    copyElements(addresses, width, { window, start: next, gathered });
    next = smallestFrom(addresses, end - width + 1);
  }
  return gathered;
}

function copyElements(
  addresses: Float64Array,
  width: number,
  { window, start, gathered }: { window: Uint8Array; start: number; gathered: Uint8Array },
): void {
  for (let i = 0; i < addresses.length; i++) {
    const at = (addresses[i] ?? 0) - start;
    if (at < 0 || at + width > window.length) continue;
    for (let byte = 0; byte < width; byte++) gathered[i * width + byte] = window[at + byte] ?? 0;
  }
}

/** The smallest address that is at least `minimum`; infinity where there is none. */
function smallestFrom(addresses: Float64Array, minimum: number): number {
  let smallest = Number.POSITIVE_INFINITY;
  for (const address of addresses) if (address >= minimum && address < smallest) smallest = address;
  return smallest;
}

function largestOf(addresses: Float64Array): number {
  let largest = 0;
  for (const address of addresses) if (address > largest) largest = address;
  return largest;
}
