import { bytesOf, u64, utf8 } from './bytes.js';

/** What a group or dataset of {@link hdf5Bytes} is made of: messages of its header, which may name others by their key. */
export type Hdf5Message = readonly [
  type: number,
  body: Uint8Array | { readonly to: string; readonly name: string },
];

const u16 = (value: number) => Uint8Array.of(value & 255, value >> 8);
const u32 = (value: number) =>
  Uint8Array.of(value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24);

/** A text of Keras's: an attribute of variable or, here, fixed length. */
export function textAttribute(name: string, texts: readonly string[]): Hdf5Message {
  const width = Math.max(1, ...texts.map((text) => utf8(text).length));
  const type = bytesOf(0x13, 0, 0, 0, u32(width));
  const space = bytesOf(2, 1, 0, 1, u64(texts.length));
  const called = bytesOf(name, 0);
  const values = texts.map((text) => bytesOf(text, new Uint8Array(width - utf8(text).length)));
  return [
    0x0c,
    bytesOf(3, 0, u16(called.length), u16(type.length), u16(space.length), 0, called, type, space, ...values),
  ];
}

/** The messages of a dataset of float32, whose values stand in its header. */
export function floats(shape: readonly number[], bytes: Uint8Array): readonly Hdf5Message[] {
  return [
    [0x01, bytesOf(2, shape.length, 0, 1, ...shape.map(u64))],
    [0x03, bytesOf(0x11, 0x20, 31, 0, u32(4), u16(0), u16(32), 23, 8, 0, 23, u32(127))],
    [0x08, bytesOf(3, 0, u16(bytes.length), bytes)],
  ];
}

/** A link to what stands under a key. */
export function link(name: string, to: string): Hdf5Message {
  return [0x06, { name, to }];
}

/**
 * An HDF5 file of version 2 made by hand: headers one after the other, each under a key; the root's is `root`. So little
 * is what a reader needs that tests can break any of it.
 */
export function hdf5Bytes(objects: Readonly<Record<string, readonly Hdf5Message[]>>): Uint8Array {
  const lengthOf = (body: Hdf5Message[1]) =>
    body instanceof Uint8Array ? body.length : 3 + utf8(body.name).length + 8;
  const addresses = new Map<string, number>();
  let end = 48;
  for (const [key, messages] of Object.entries(objects)) {
    addresses.set(key, end);
    end += 10 + messages.reduce((sum, [, body]) => sum + 4 + lengthOf(body), 0) + 4;
  }
  const write = (body: Hdf5Message[1]) =>
    body instanceof Uint8Array
      ? body
      : bytesOf(1, 0, utf8(body.name).length, body.name, u64(addresses.get(body.to) ?? 0));
  const headers = Object.values(objects).map((messages) => {
    const bodies = messages.map(([type, body]) => bytesOf(type, u16(lengthOf(body)), 0, write(body)));
    const inside = bytesOf(...bodies);
    return bytesOf('OHDR', 2, 2, u32(inside.length), inside, u32(0));
  });
  const root = addresses.get('root') ?? 0;
  const superblock = bytesOf(
    0x89,
    'HDF\r\n',
    0x1a,
    '\n',
    2,
    8,
    8,
    0,
    u64(0),
    u64(2n ** 64n - 1n),
    u64(end),
    u64(root),
    u32(0),
  );
  return bytesOf(superblock, ...headers);
}
