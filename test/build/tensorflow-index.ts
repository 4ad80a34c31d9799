import { bytesOf, u64 } from './bytes.js';

/** A number as a varint. */
export function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return Uint8Array.of(...bytes, rest);
}

/** A protobuf field: a number, or what has a length. */
export function field(number: number, value: number | Uint8Array | string): Uint8Array {
  if (typeof value === 'number') return bytesOf(varint(number * 8), varint(value));
  const content = bytesOf(value);
  return bytesOf(varint(number * 8 + 2), varint(content.length), content);
}

/** A block of a table: its entries with whole keys. */
export function block(entries: readonly (readonly [key: string, value: Uint8Array])[]): Uint8Array {
  const all = entries.map(([key, value]) =>
    bytesOf(0, varint(bytesOf(key).length), varint(value.length), key, value),
  );
  return bytesOf(...all, new Uint8Array(4), 1, 0, 0, 0);
}

/** The index of a TensorFlow checkpoint, of one block of entries; `compression` is what it says of its blocks. */
export function indexBytes(
  entries: readonly (readonly [key: string, value: Uint8Array])[],
  { compression = 0 }: { compression?: number } = {},
): Uint8Array {
  const data = block([['', bytesOf(field(1, 1), field(3, field(1, 1)))], ...entries]);
  const trailer = bytesOf(compression, 0, 0, 0, 0);
  const index = block([['z', bytesOf(varint(0), varint(data.length))]]);
  const handles = bytesOf(0, 0, varint(data.length + 5), varint(index.length));
  return bytesOf(
    data,
    trailer,
    index,
    trailer,
    handles,
    new Uint8Array(40 - handles.length),
    u64(0xdb4775248b80fb57n),
  );
}

/** An entry for float32 of one dimension. */
export function floatEntry(count: number, offset: number, more: readonly Uint8Array[] = []): Uint8Array {
  return bytesOf(
    field(1, 1),
    field(2, field(2, field(1, count))),
    field(4, offset),
    field(5, 4 * count),
    ...more,
  );
}
