import { encodeInteger, type Mutator, mutateBytes, mutateText, mutateValues } from './mutate-bytes.js';
import { type JsonNode, mutateTree, parseJson, textNode, writeJson } from './mutate-json.js';
import type { Random } from './random.js';

/** The two parts of a safetensors file. */
interface Parts {
  readonly header: string;
  readonly data: Uint8Array;
}

/** Takes a file apart as far as its length goes: `u64 length, JSON header, data`. */
export function splitSafetensors(bytes: Uint8Array): Parts {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.length < 8 ? 0 : Number(view.getBigUint64(0, true));
  const end = Math.min(bytes.length, 8 + length);
  return { header: Buffer.from(bytes.subarray(8, end)).toString(), data: bytes.subarray(end) };
}

/** Puts a file together: the length is that of the header. */
export function joinSafetensors({ header, data }: Parts): Uint8Array {
  const text = Buffer.from(header);
  return Buffer.concat([encodeInteger(BigInt(text.length), 8, true), text, data]);
}

/** Types of the format and the bits of an element. */
const DTYPE_BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  F64: 64,
  I64: 64,
  U64: 64,
  C64: 64,
  F99: 32,
};

/** Gives a tensor another type or shape that its bytes fill as well: a change that no check of sizes sees. */
function retype(tensor: JsonNode, random: Random): JsonNode {
  if (tensor.kind !== 'object') return tensor;
  const offsets = tensor.members.find(([key]) => key === 'data_offsets')?.[1];
  const [start, end] = offsets === undefined ? [] : JSON.parse(writeJson(offsets));
  const [dtype, bits] = random.pick(Object.entries(DTYPE_BITS)) ?? ['F32', 32];
  const count = Math.floor(((end - start) * 8) / bits);
  const factor = [2, 3, 4, 8, 16].find((size) => count % size === 0 && random.oneIn(2)) ?? 1;
  const shape = random.pick([
    [count],
    [count / factor, factor],
    [factor, count / factor, 1, 1],
    [1, count],
    [],
  ]);
  const changed = new Map(tensor.members);
  changed.set('dtype', textNode(dtype));
  changed.set('shape', { kind: 'token', text: JSON.stringify(shape) });
  return { kind: 'object', members: [...changed] };
}

function changeTensor(header: JsonNode, random: Random): JsonNode {
  if (header.kind !== 'object') return header;
  const members = [...header.members];
  const at = random.below(members.length);
  const [name, tensor] = members[at] ?? ['', header];
  const other = random.pick(members);
  switch (random.below(4)) {
    case 0:
      members[at] = [name, other?.[1] ?? tensor];
      break;
    case 1: {
      const names = header.members.map(([key]) => key);
      members[at] = [mutateText(name, random, names), tensor];
      break;
    }
    default:
      members[at] = [name, retype(tensor, random)];
  }
  return { kind: 'object', members };
}

/** Changes a safetensors file: its header, whose length is put right, its values, or any bytes. */
export const mutateSafetensors: Mutator = (bytes, random, donor) => {
  const { header, data } = splitSafetensors(bytes);
  switch (random.below(12)) {
    case 0:
      return mutateBytes(bytes, random, donor);
    case 1:
      return joinSafetensors({
        header: Buffer.from(mutateBytes(Buffer.from(header), random, donor)).toString(),
        data,
      });
    case 2:
    case 3:
      return joinSafetensors({ header, data: mutateValues(data, random, donor) });
    case 4:
    case 5:
    case 6:
      return joinSafetensors({ header: writeJson(changeTensor(parseJson(header), random)), data });
    default: {
      const foreign = parseJson(splitSafetensors(donor).header);
      return joinSafetensors({ header: writeJson(mutateTree(parseJson(header), random, foreign)), data });
    }
  }
};
