import { bytesOf as op, u64, utf8 } from '../../../build/bytes.js';

export { op };

/** A piece of a pickle: the opcodes that leave one value on the stack. */
export type Piece = Uint8Array;

/** A 32-bit little-endian number. */
export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
  return bytes;
}

export const none = op('N');
export const yes = op(0x88);
export const no = op(0x89);
export const emptyTuple = op(')');

/** BINUNICODE. */
export function text(value: string): Piece {
  const bytes = utf8(value);
  return op('X', u32(bytes.length), bytes);
}

/** BININT, or LONG1 beyond 32 bits. */
export function int(value: number | bigint): Piece {
  const isSmall = value >= -(2 ** 31) && value < 2 ** 31;
  return isSmall ? op('J', u32(Number(value))) : op(0x8a, 8, u64(BigInt.asUintN(64, BigInt(value))));
}

/** BINFLOAT. */
export function float(value: number): Piece {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setFloat64(0, value, false);
  return op('G', bytes);
}

export function tuple(...items: Piece[]): Piece {
  return op('(', ...items, 't');
}

export function list(...items: Piece[]): Piece {
  return op(']', '(', ...items, 'e');
}

export function dict(entries: Record<string, Piece>): Piece {
  return op('}', '(', ...Object.entries(entries).flatMap(([key, value]) => [text(key), value]), 'u');
}

/** GLOBAL. */
export function global(module: string, name: string): Piece {
  return op(`c${module}\n${name}\n`);
}

export function reduce(callee: Piece, args: Piece): Piece {
  return op(callee, args, 'R');
}

export function newObject(type: Piece, state: Piece): Piece {
  return op(type, ')', 0x81, state, 'b');
}

/** An OrderedDict, with `_metadata` as state dicts carry it: versions by module path. */
export function orderedDict(entries: Record<string, Piece>, versions?: Record<string, number>): Piece {
  const empty = reduce(global('collections', 'OrderedDict'), emptyTuple);
  const filled = op(
    empty,
    '(',
    ...Object.entries(entries).flatMap(([key, value]) => [text(key), value]),
    'u',
  );
  if (versions === undefined) return filled;
  const metadata = Object.fromEntries(
    Object.entries(versions).map(([path, version]) => [path, dict({ version: int(version) })]),
  );
  return op(filled, dict({ _metadata: orderedDict(metadata) }), 'b');
}

/** What a tensor's call says; the defaults are those of a vector of four floats. */
export interface TensorPiece {
  readonly key: string;
  readonly storage?: string;
  readonly elementCount?: number | bigint;
  readonly offset?: number | bigint;
  readonly size?: readonly (number | bigint)[];
  readonly stride?: readonly (number | bigint)[];
  readonly requiresGrad?: boolean;
  /** The sixth item of a legacy persistent id: key, offset, count. */
  readonly view?: readonly [string, number, number] | null;
}

/** `_rebuild_tensor_v2` of a storage. */
export function tensor(piece: TensorPiece): Piece {
  const { offset = 0, size = [4], stride = [1], requiresGrad = false } = piece;
  const hooks = orderedDict({});
  return reduce(
    global('torch._utils', '_rebuild_tensor_v2'),
    tuple(
      storage(piece),
      int(offset),
      tuple(...size.map(int)),
      tuple(...stride.map(int)),
      requiresGrad ? yes : no,
      hooks,
    ),
  );
}

/** The persistent id of a storage. */
export function storage({ key, storage: type = 'FloatStorage', elementCount = 4, view }: TensorPiece): Piece {
  const id = [text('storage'), global('torch', type), text(key), text('cpu'), int(elementCount)];
  if (view === null) id.push(none);
  else if (view !== undefined) id.push(tuple(text(view[0]), int(view[1]), int(view[2])));
  return op(tuple(...id), 'Q');
}

/** A whole pickle. */
export function pickle(value: Piece, protocol = 2): Uint8Array {
  return op(0x80, protocol, value, '.');
}
