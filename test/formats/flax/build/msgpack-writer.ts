import { bytesOf, f32, utf8 } from '../../../build/bytes.js';

/** A value to be packed: bytes stand for themselves, e.g. those of {@link arrayOf}. */
export type Packable =
  | Uint8Array
  | string
  | number
  | { readonly [key: string]: Packable }
  | readonly Packable[];

/** Msgpack of a value, each length in four bytes but that of a short map. */
export function pack(value: Packable): Uint8Array {
  if (value instanceof Uint8Array) return value;
  if (typeof value === 'number') return withLength(0xce, value);
  if (typeof value === 'string') return bytesOf(0xd9, utf8(value).length, value);
  if (Array.isArray(value)) return bytesOf(withLength(0xdd, value.length), ...value.map(pack));
  const entries = Object.entries(value);
  return bytesOf(
    entries.length < 16 ? Uint8Array.of(0x80 + entries.length) : withLength(0xdf, entries.length),
    ...entries.flatMap(([key, member]) => [pack(key), pack(member)]),
  );
}

/** A byte and a length behind it, big-endian. */
export function withLength(first: number, length: number): Uint8Array {
  const bytes = new Uint8Array(5);
  bytes[0] = first;
  new DataView(bytes.buffer).setUint32(1, length);
  return bytes;
}

/** What an array says otherwise than that its four floats are a vector. */
interface ArrayOptions {
  readonly shape?: readonly Packable[] | Packable;
  readonly type?: string;
  readonly data?: Uint8Array;
  /** The extension's number. */
  readonly extension?: number;
  /** Bytes behind the array in its extension. */
  readonly extra?: number;
}

/** An array of Flax. */
export function arrayOf({
  shape = [4],
  type = 'float32',
  data,
  extension = 1,
  extra = 0,
}: ArrayOptions = {}): Uint8Array {
  const content = data ?? f32(1, 2, 3, 4);
  const packed = bytesOf(
    0x93,
    pack(shape),
    pack(type),
    withLength(0xc6, content.length),
    content,
    new Uint8Array(extra),
  );
  return bytesOf(withLength(0xc9, packed.length), extension, packed);
}
