/**
 * How the values of a payload stand in the file: `packed`, one behind the other; `tagged`, each behind a tag of its
 * own (repeated scalars that were not packed).
 */
export type SegmentForm = 'packed' | 'tagged';

/** A run of a payload field's values: where they are, not what they are. */
export interface Segment {
  /** The field of TensorProto or AttributeProto that the values belong to. */
  readonly field: number;
  readonly form: SegmentForm;
  /** First byte; of the first tag where `tagged`. */
  readonly offset: number;
  readonly byteLength: number;
  /** Bytes from one value to the next, tag included, where `tagged` and all are alike; 0 for varints. */
  readonly stride: number;
}

/*
 * A segment as it travels through the skeleton, 26 bytes little-endian:
 *   0  u8   field
 *   1  u8   1 = tagged
 *   2  f64  offset      (a float64 holds every safe integer)
 *  10  f64  byteLength
 *  18  f64  stride
 */
const SEGMENT_BYTES = 26;

/** Encodes a segment; {@link decodeSegment} is its inverse. */
export function encodeSegment(segment: Segment): Uint8Array {
  const view = new DataView(new ArrayBuffer(SEGMENT_BYTES));
  view.setUint8(0, segment.field);
  view.setUint8(1, segment.form === 'tagged' ? 1 : 0);
  view.setFloat64(2, segment.offset, true);
  view.setFloat64(10, segment.byteLength, true);
  view.setFloat64(18, segment.stride, true);
  return new Uint8Array(view.buffer);
}

/** Decodes what {@link encodeSegment} encoded. Only the skeleton pass writes these bytes, so they are well formed. */
export function decodeSegment(bytes: Uint8Array): Segment {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    field: view.getUint8(0),
    form: view.getUint8(1) === 1 ? 'tagged' : 'packed',
    offset: view.getFloat64(2, true),
    byteLength: view.getFloat64(10, true),
    stride: view.getFloat64(18, true),
  };
}
