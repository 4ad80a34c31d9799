// Knows ONNX files by their first bytes.

import { FIELDS } from './schema.js';
import { MAX_VARINT_BYTES, WIRE_FIXED32, WIRE_FIXED64, WIRE_LENGTH, WIRE_VARINT } from './wire.js';

/** The way back from a model that ONNX Runtime saved with optimisations that cannot be audited. */
export const SAVE_UNOPTIMISED =
  'Audit the ONNX model that it was made from, or save it again with graph_optimization_level = ORT_ENABLE_BASIC or ORT_ENABLE_EXTENDED and optimized_model_filepath.';

/** Fields looked at before giving up; unknown ones may come first. */
const MAX_FIELDS = 16;

/** IR versions are small; 14 was reached in nine years. */
const MAX_IR_VERSION = 1_000;

const MODEL = FIELDS.model;
const MODEL_FIELDS: ReadonlySet<number> = new Set(Object.values(MODEL));

/** The tags with which a graph may begin: each of its fields is length-delimited. */
const GRAPH_TAGS = Object.values(FIELDS.graph).map((field) => field * 8 + WIRE_LENGTH);

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
    if (MODEL_FIELDS.has(field)) {
      const isNumber = field === MODEL.irVersion || field === MODEL.modelVersion;
      return wire === (isNumber ? WIRE_VARINT : WIRE_LENGTH) && fitsModelField(head, tag.end, field);
    }
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
  const first = head[end] ?? 0;
  switch (field) {
    case MODEL.irVersion:
      return value > 0 && value <= MAX_IR_VERSION;
    case MODEL.graph:
      return value > 0 && GRAPH_TAGS.includes(first);
    case MODEL.opsets: // An operator set begins with its domain or its version.
    case MODEL.metadata:
    case MODEL.functions:
      return value > 0 && (first === 0x0a || first === 0x10);
    case MODEL.producerName:
    case MODEL.producerVersion:
      return value < 256 && head.subarray(end, end + value).every((byte) => byte >= 0x20);
    default:
      return false;
  }
}

function skipValue(head: Uint8Array, at: number, wire: number): number | null {
  if (wire === WIRE_FIXED64) return at + 8;
  if (wire === WIRE_FIXED32) return at + 4;
  const number = wire === WIRE_VARINT || wire === WIRE_LENGTH ? readNumber(head, at) : null;
  return number === null ? null : number.end + (wire === WIRE_LENGTH ? number.value : 0);
}

/** Reads a varint; null where it is cut off or longer than ten bytes. */
function readNumber(
  head: Uint8Array,
  start: number,
): { readonly value: number; readonly end: number } | null {
  let value = 0;
  for (let i = 0; i < MAX_VARINT_BYTES; i++) {
    const byte = head[start + i];
    if (byte === undefined) return null;
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) return { value, end: start + i + 1 };
  }
  return null;
}
