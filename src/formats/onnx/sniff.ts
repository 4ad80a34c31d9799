// Knows ONNX files by their first bytes.

import { WIRE_FIXED32, WIRE_FIXED64, WIRE_LENGTH, WIRE_VARINT } from './wire.js';

/** Fields looked at before giving up; unknown ones may come first. */
const MAX_FIELDS = 16;

/** IR versions are small; 14 was reached in nine years. */
const MAX_IR_VERSION = 1_000;

/** Wire types of ModelProto's fields (onnx.in.proto). */
const MODEL_FIELDS: ReadonlyMap<number, number> = new Map([
  [1, WIRE_VARINT], // ir_version
  [2, WIRE_LENGTH], // producer_name
  [3, WIRE_LENGTH], // producer_version
  [4, WIRE_LENGTH], // domain
  [5, WIRE_VARINT], // model_version
  [6, WIRE_LENGTH], // doc_string
  [7, WIRE_LENGTH], // graph
  [8, WIRE_LENGTH], // opset_import
  [14, WIRE_LENGTH], // metadata_props
  [20, WIRE_LENGTH], // training_info
  [25, WIRE_LENGTH], // functions
]);

/**
 * Whether a file that bears no other format's magic bytes may be an ONNX model, which has none: the first known field
 * is ir_version with a small value (every serializer in use writes it first), or another field of ModelProto whose
 * content fits. Text, JSON and zeros do not pass; a model that was cut off after its first byte does.
 *
 * @param head the first bytes of the file; 64 are plenty.
 */
export function looksLikeOnnx(head: Uint8Array): boolean {
  let at = 0;
  for (let i = 0; i < MAX_FIELDS && at < head.byteLength; i++) {
    const tag = readNumber(head, at);
    if (tag === null) return false;
    const field = Math.floor(tag.value / 8);
    const wire = tag.value % 8;
    const expected = MODEL_FIELDS.get(field);
    if (expected !== undefined) return wire === expected && fitsModelField(head, tag.end, field);
    const end = skipValue(head, tag.end, wire);
    if (end === null) return false;
    at = end;
  }
  return false;
}

function fitsModelField(head: Uint8Array, at: number, field: number): boolean {
  if (at >= head.byteLength) return true;
  const number = readNumber(head, at);
  if (number === null) return false;
  const { value, end } = number;
  if (field === 1) return value > 0 && value <= MAX_IR_VERSION;
  const first = head[end] ?? 0;
  switch (field) {
    case 7: // The graph begins with one of its fields as a length-delimited one.
      return value > 0 && [0x0a, 0x12, 0x2a, 0x52, 0x5a, 0x62, 0x6a, 0x7a].includes(first);
    case 8: // An operator set begins with its domain or its version.
    case 14:
    case 25:
      return value > 0 && (first === 0x0a || first === 0x10);
    case 2:
    case 3:
      return value < 256 && head.subarray(end, end + value).every((byte) => byte >= 0x20);
    default:
      return false;
  }
}

function skipValue(head: Uint8Array, at: number, wire: number): number | null {
  switch (wire) {
    case WIRE_VARINT:
      return readNumber(head, at)?.end ?? null;
    case WIRE_FIXED64:
      return at + 8;
    case WIRE_LENGTH: {
      const length = readNumber(head, at);
      return length === null ? null : length.end + length.value;
    }
    case WIRE_FIXED32:
      return at + 4;
    default:
      return null;
  }
}

/** Reads a varint; null where it is cut off or longer than ten bytes. */
function readNumber(
  head: Uint8Array,
  start: number,
): { readonly value: number; readonly end: number } | null {
  let value = 0;
  for (let i = 0; i < 10; i++) {
    const byte = head[start + i];
    if (byte === undefined) return null;
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) return { value, end: start + i + 1 };
  }
  return null;
}
