import { encodeInteger, type Mutator, mutateBytes, mutateText, mutateValues } from './mutate-bytes.js';
import { BORDER_NUMBERS, type Random } from './random.js';

/** One field of a message, as the wire has it: https://protobuf.dev/programming-guides/encoding */
export interface WireField {
  readonly number: number;
  readonly wireType: number;
  /** Of a varint. */
  readonly value: bigint;
  /** Of all else. */
  readonly bytes: Uint8Array;
}

/** @returns null where the bytes are no message. */
export function readMessage(bytes: Uint8Array): readonly WireField[] | null {
  const fields: WireField[] = [];
  let at = 0;
  const readVarint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; at < bytes.length && shift < 70n; shift += 7n) {
      const byte = bytes[at++] ?? 0;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return -1n;
  };
  while (at < bytes.length) {
    const tag = readVarint();
    const [number, wireType] = [Number(tag >> 3n), Number(tag & 7n)];
    if (number < 1 || ![0, 1, 2, 5].includes(wireType)) return null;
    const value = wireType === 0 || wireType === 2 ? readVarint() : 0n;
    const length = wireType === 2 ? Number(value) : wireType === 1 ? 8 : wireType === 5 ? 4 : 0;
    if (value < 0n || at + length > bytes.length) return null;
    fields.push({ number, wireType, value, bytes: bytes.subarray(at, at + length) });
    at += length;
  }
  return fields;
}

function encodeVarint(value: bigint): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  do {
    bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Uint8Array.from(bytes);
}

/** The bytes of a message: lengths are those of the fields. */
export function writeMessage(fields: readonly WireField[]): Uint8Array {
  return Buffer.concat(
    fields.flatMap(({ number, wireType, value, bytes }) => {
      const head = encodeVarint((BigInt(number) << 3n) | BigInt(wireType));
      if (wireType === 0) return [head, encodeVarint(value)];
      return wireType === 2 ? [head, encodeVarint(BigInt(bytes.length)), bytes] : [head, bytes];
    }),
  );
}

/** Deeper than ONNX models nest. */
const MAX_DEPTH = 16;

/** A change as rare as deep models are. */
const NEST = -1;

/** A graph in an attribute of a node of a graph, and so on: GraphProto.node, NodeProto.attribute, AttributeProto.g. */
const NESTING = [6, 5, 1];

/** From the inside out, since each length counts what is within. */
function nest(random: Random): Uint8Array {
  const heads: Uint8Array[] = [];
  let length = 0;
  for (let level = random.pick([30, 300, 20_000]); level > 0; level--)
    for (const number of NESTING) {
      const head = Buffer.concat([encodeVarint(BigInt(number * 8 + 2)), encodeVarint(BigInt(length))]);
      heads.push(head);
      length += head.length;
    }
  return Buffer.concat(heads.reverse());
}

/** Changes a field somewhere in a message; the lengths around it are put right. */
export const mutateProtobuf: Mutator = (bytes, random, donor) =>
  random.oneIn(15) ? mutateBytes(bytes, random, donor) : mutateMessage(bytes, { random, donor, depth: 0 });

interface Surroundings {
  readonly random: Random;
  readonly donor: Uint8Array;
  readonly depth: number;
}

function mutateMessage(bytes: Uint8Array, { random, donor, depth }: Surroundings): Uint8Array {
  const fields = [...(readMessage(bytes) ?? [])];
  const at = pickField(fields, random);
  const field = fields[at];
  if (field === undefined) return mutateBytes(bytes, random, donor);
  const inner = field.wireType === 2 && field.bytes.length > 1 ? readMessage(field.bytes) : null;
  // The outermost fields are few, and what matters is within them.
  if (inner !== null && depth < MAX_DEPTH && !random.oneIn(depth < 2 ? 30 : 3)) {
    const counterpart = random.pick(
      (readMessage(donor) ?? []).filter(({ number }) => number === field.number),
    );
    const changed = mutateMessage(field.bytes, {
      random,
      donor: counterpart?.bytes ?? donor,
      depth: depth + 1,
    });
    fields[at] = { ...field, bytes: changed };
  } else {
    changeFields(fields, at, { random, donor });
  }
  return writeMessage(fields);
}

/** Half of the time by size: most nodes and tensors lie in few fields. */
function pickField(fields: readonly WireField[], random: Random): number {
  if (random.oneIn(2)) return random.below(fields.length);
  let rest = random.below(fields.reduce((sum, { bytes }) => sum + bytes.length + 1, 0));
  return fields.findIndex(({ bytes }) => {
    rest -= bytes.length + 1;
    return rest < 0;
  });
}

function changeFields(
  fields: WireField[],
  at: number,
  { random, donor }: Pick<Surroundings, 'random' | 'donor'>,
): void {
  const [field] = fields.slice(at, at + 1);
  if (field === undefined) return;
  const other = random.below(fields.length);
  switch (random.oneIn(20) ? NEST : random.below(9)) {
    case NEST: {
      const [inner] = readMessage(nest(random)) ?? [];
      if (inner !== undefined) fields.splice(at, 0, inner);
      break;
    }
    case 0:
      fields.splice(at, 1);
      break;
    case 1:
      fields.splice(other, 0, field);
      break;
    case 2:
      fields[at] = fields[other] ?? field;
      fields[other] = field;
      break;
    case 3: {
      const foreign = random.pick(readMessage(donor) ?? []);
      if (foreign !== undefined) fields.splice(at, random.below(2), foreign);
      break;
    }
    case 4:
      fields[at] = {
        ...field,
        number: random.pick([field.number + 1, Math.max(1, field.number - 1), 1 + random.below(24)]),
      };
      break;
    case 5: {
      const wireType = random.pick([0, 1, 2, 5]);
      const width = wireType === 1 ? 8 : 4;
      fields[at] = {
        ...field,
        wireType,
        bytes: wireType === 2 ? field.bytes : encodeInteger(field.value, width, true),
      };
      break;
    }
    default:
      fields[at] = changeContent(field, random, fields);
  }
}

function changeContent(field: WireField, random: Random, fields: readonly WireField[]): WireField {
  const { value, bytes, wireType } = field;
  if (wireType === 0) {
    const changed = random.oneIn(2)
      ? random.pick(BORDER_NUMBERS)
      : value + BigInt(random.pick([1, -1, 2, 3, 10, -4]));
    return { ...field, value: BigInt.asUintN(64, changed) };
  }
  if (wireType !== 2)
    return {
      ...field,
      bytes: random.oneIn(2) ? mutateValues(bytes, random, bytes) : random.bytes(bytes.length),
    };
  const isText = bytes.length < 200 && bytes.every((byte) => byte >= 0x20 && byte < 0x7f);
  if (!isText)
    return { ...field, bytes: (random.oneIn(2) ? mutateValues : mutateBytes)(bytes, random, bytes) };
  const others = fields
    .filter(({ wireType: type }) => type === 2)
    .map((one) => Buffer.from(one.bytes).toString());
  return { ...field, bytes: Buffer.from(mutateText(Buffer.from(bytes).toString(), random, others)) };
}
