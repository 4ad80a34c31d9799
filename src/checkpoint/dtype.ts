// The element types of tensors: their widths, and exact decoding and encoding of their numbers.

/** Element types under their safetensors names, each with its size in bits. */
const BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

/** An element type under its safetensors name. */
export type DType = keyof typeof BITS;

/** A floating-point format that can be decoded: sign, exponent and significand widths, and what the extremes mean. */
interface FloatFormat {
  readonly byteLength: 1 | 2 | 4 | 8;
  readonly significandBits: number;
  readonly exponentBias: number;
  /** Exponent of the smallest normal number. */
  readonly minExponent: number;
  readonly maxValue: number;
  /** What a value that rounds beyond `maxValue` becomes. */
  readonly overflow: 'infinity' | 'nan';
  readonly signedZero: boolean;
}

// IEEE 754 for F16, F32, F64; bfloat16 as truncated binary32; the 8-bit formats of OCP OFP8 and of Graphcore/AMD
// (FNUZ: one NaN, no infinity, no negative zero, bias one higher).
const FLOATS: Partial<Record<DType, FloatFormat>> = {
  F64: float(8, 52, 1023, Number.MAX_VALUE, 'infinity'),
  F32: float(4, 23, 127, 3.4028234663852886e38, 'infinity'),
  F16: float(2, 10, 15, 65504, 'infinity'),
  BF16: float(2, 7, 127, 3.3895313892515355e38, 'infinity'),
  F8_E5M2: float(1, 2, 15, 57344, 'infinity'),
  F8_E4M3: float(1, 3, 7, 448, 'nan'),
  F8_E5M2FNUZ: { ...float(1, 2, 16, 57344, 'nan'), signedZero: false },
  F8_E4M3FNUZ: { ...float(1, 3, 8, 240, 'nan'), signedZero: false },
};

function float(
  byteLength: FloatFormat['byteLength'],
  significandBits: number,
  exponentBias: number,
  maxValue: number,
  overflow: FloatFormat['overflow'],
): FloatFormat {
  const minExponent = 1 - exponentBias;
  return { byteLength, significandBits, exponentBias, minExponent, maxValue, overflow, signedZero: true };
}

/** @throws RangeError where the type has no floats, or none that can be decoded. */
function formatOf(dtype: DType): FloatFormat {
  const format = FLOATS[dtype];
  if (format === undefined) throw new RangeError(`${dtype} has no float values`);
  return format;
}

/** Whether `name` is a dtype of the safetensors format, spelled as there. */
export function isDType(name: string): name is DType {
  return Object.hasOwn(BITS, name);
}

/** Every dtype's name, for messages. */
export const DTYPE_NAMES: readonly DType[] = Object.keys(BITS) as DType[];

/** Size of one element in bits: 4 to 64. */
export function bitsOf(dtype: DType): number {
  return BITS[dtype];
}

/** Whether an optimizer could train a tensor of this type: every float, also those that cannot be decoded here. */
export function isFloatingPoint(dtype: DType): boolean {
  return dtype.startsWith('F') || dtype === 'BF16' || dtype === 'C64';
}

/** Whether a float type has a negative zero; in some its pattern is NaN or a number. */
export function hasSignedZero(dtype: DType): boolean {
  return FLOATS[dtype]?.signedZero ?? dtype !== 'F8_E8M0';
}

/** Whether {@link decodeFloats} can read the type. */
export function isDecodable(dtype: DType): boolean {
  return FLOATS[dtype] !== undefined || dtype === 'F8_E8M0';
}

/** Whether a count can be read from the type: any integer, or a float that can be decoded. */
export function isCountable(dtype: DType): boolean {
  return isDecodable(dtype) || dtype.startsWith('I') || dtype.startsWith('U');
}

/** The number of significand bits of a decodable float, the hidden bit left out; what "wider" means between floats. */
export function significandBitsOf(dtype: DType): number {
  return FLOATS[dtype]?.significandBits ?? 0;
}

/** The smallest number above zero that a decodable float can hold: the distance between its subnormal values. */
export function quantumOf(dtype: DType): number {
  const format = FLOATS[dtype];
  return format === undefined ? 0 : 2 ** (format.minExponent - format.significandBits);
}

/**
 * Decodes little-endian elements to float64, exactly.
 *
 * @param bytes whole elements; any alignment.
 * @throws RangeError when the type is not decodable; ask {@link isDecodable} first.
 */
export function decodeFloats(bytes: Uint8Array, dtype: DType): Float64Array {
  if (IS_LITTLE_ENDIAN && (dtype === 'F32' || dtype === 'F64')) return widen(bytes, dtype);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = bytes.byteLength / (BITS[dtype] / 8);
  const values = new Float64Array(count);
  switch (dtype) {
    case 'F64':
      for (let i = 0; i < count; i++) values[i] = view.getFloat64(8 * i, true);
      return values;
    case 'F32':
      for (let i = 0; i < count; i++) values[i] = view.getFloat32(4 * i, true);
      return values;
    case 'BF16':
      for (let i = 0; i < count; i++) values[i] = bitsToFloat32(view.getUint16(2 * i, true) << 16);
      return values;
    case 'F16': {
      const table = tableOf(dtype);
      for (let i = 0; i < count; i++) values[i] = table[view.getUint16(2 * i, true)] ?? Number.NaN;
      return values;
    }
    default: {
      const table = tableOf(dtype);
      for (let i = 0; i < count; i++) values[i] = table[bytes[i] ?? 0] ?? Number.NaN;
      return values;
    }
  }
}

/** Decoded elements of a tensor. */
export type Values = Float32Array | Float64Array;

/** Elements as numbers: those of float32 as they stand where they are aligned, others converted by {@link decodeFloats}. */
export function toValues(bytes: Uint8Array, dtype: DType): Values {
  return dtype === 'F32' && IS_LITTLE_ENDIAN && bytes.byteOffset % 4 === 0
    ? new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
    : decodeFloats(bytes, dtype);
}

/** Whether this machine keeps numbers as the files do. */
export const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** The engine's own conversion, which runs at full speed from the first element on. Typed arrays want aligned bytes. */
function widen(bytes: Uint8Array, dtype: 'F32' | 'F64'): Float64Array {
  if (dtype === 'F64') return new Float64Array(new Uint8Array(bytes).buffer);
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  return new Float64Array(new Float32Array(buffer, byteOffset, byteLength / 4));
}

/**
 * Rounds a float64 to the nearest value that `dtype` can hold, ties to even.
 *
 * @returns that value as float64; an infinity or NaN where the format overflows so.
 * @throws RangeError when the type is not decodable.
 */
export function roundToFloat(value: number, dtype: DType): number {
  if (dtype === 'F64') return value;
  if (dtype === 'F32') return Math.fround(value);
  if (dtype === 'F8_E8M0') return roundToPowerOfTwo(value);
  const format = formatOf(dtype);
  if (value === 0 || Number.isNaN(value)) return value;
  const overflowed = format.overflow === 'nan' ? Number.NaN : Math.sign(value) * Number.POSITIVE_INFINITY;
  if (!Number.isFinite(value)) return overflowed;
  const exponent = Math.max(exponentOf(value), format.minExponent);
  // Scaling by powers of two is exact, so the only rounding is the one meant.
  const quantum = 2 ** (exponent - format.significandBits);
  const rounded = roundHalfToEven(Math.abs(value) / quantum) * quantum;
  return rounded > format.maxValue ? overflowed : Math.sign(value) * rounded;
}

/** Whether every value of `narrow` is a value of `wide` too. Neither of float16 and bfloat16 holds all of the other's. */
export function holdsAllOf(wide: DType, narrow: DType): boolean {
  const [one, other] = [FLOATS[wide], FLOATS[narrow]];
  // F8_E8M0 has powers of two alone.
  if (one === undefined || other === undefined) return other === undefined;
  return (
    one.significandBits >= other.significandBits &&
    one.maxValue >= other.maxValue &&
    quantumOf(wide) <= quantumOf(narrow)
  );
}

/** Numbers from `low` to `high`, with or without the ends. */
export interface Preimage {
  readonly low: number;
  readonly high: number;
  readonly hasEnds: boolean;
}

/**
 * The numbers that {@link roundToFloat} takes to a value of the type: from half the way to one neighbour to half the way
 * to the other. Ties go to even, so the ends belong to it when its significand is even.
 *
 * @param value one that the type can hold; no NaN.
 */
export function findPreimage(value: number, dtype: DType): Preimage {
  if (dtype === 'F8_E8M0') return findPowerPreimage(value);
  const format = formatOf(dtype);
  const quantumAt = (exponent: number) => 2 ** (exponent - format.significandBits);
  const magnitude = Math.abs(value);
  if (magnitude === 0) {
    const half = quantumAt(format.minExponent) / 2;
    return { low: -half, high: half, hasEnds: true };
  }
  const isInfinite = magnitude === Number.POSITIVE_INFINITY;
  const exponent = Math.max(exponentOf(isInfinite ? format.maxValue : magnitude), format.minExponent);
  const half = quantumAt(exponent) / 2;
  // Below a power of two, neighbours stand half as far apart.
  const isPower = magnitude === 2 ** exponent && exponent > format.minExponent;
  const near = isInfinite ? format.maxValue + half : magnitude - (isPower ? half / 2 : half);
  const far = isInfinite ? magnitude : magnitude + half;
  const hasEnds = isInfinite || (magnitude / quantumAt(exponent)) % 2 === 0;
  return value > 0 ? { low: near, high: far, hasEnds } : { low: -far, high: -near, hasEnds };
}

/**
 * Encodes float64 values as little-endian elements, each rounded to nearest even.
 *
 * @throws RangeError when the type is not decodable.
 */
export function encodeFloats(values: ArrayLike<number>, dtype: DType): Uint8Array {
  const bytes = new Uint8Array((values.length * BITS[dtype]) / 8);
  const view = new DataView(bytes.buffer);
  const half = dtype === 'F16' || dtype === 'BF16' ? FLOATS[dtype] : undefined;
  if (half !== undefined) {
    for (let i = 0; i < values.length; i++)
      view.setUint16(2 * i, encodeHalf(values[i] ?? Number.NaN, half), true);
    return bytes;
  }
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? Number.NaN;
    if (dtype === 'F64') view.setFloat64(8 * i, value, true);
    else if (dtype === 'F32') view.setFloat32(4 * i, value, true);
    else view.setUint8(i, encodeSmallFloat(value, dtype));
  }
  return bytes;
}

const float32Scratch = new Float32Array(1);
const uint32Scratch = new Uint32Array(float32Scratch.buffer);

function bitsToFloat32(bits: number): number {
  uint32Scratch[0] = bits;
  return float32Scratch[0] ?? Number.NaN;
}

function exponentOf(value: number): number {
  const magnitude = Math.abs(value);
  let exponent = Math.floor(Math.log2(magnitude));
  // log2 may be off by one next to a power of two.
  if (2 ** exponent > magnitude) exponent--;
  else if (2 ** (exponent + 1) <= magnitude) exponent++;
  return exponent;
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const fraction = value - floor;
  if (fraction < 0.5) return floor;
  if (fraction > 0.5) return floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Ties go up, so that the upper end is none; it is taken for one, as ends come in pairs. */
function findPowerPreimage(value: number): Preimage {
  const low = value <= MIN_POWER ? 0 : 0.75 * value;
  const high = value >= MAX_POWER ? Number.MAX_VALUE : 1.5 * value;
  return { low, high, hasEnds: true };
}

/** The smallest and the largest number of F8_E8M0. */
const [MIN_POWER, MAX_POWER] = [2 ** -127, 2 ** 127];

function roundToPowerOfTwo(value: number): number {
  if (!(value > 0) || !Number.isFinite(value)) return Number.NaN;
  const low = 2 ** exponentOf(value);
  // Halfway the significands are 1 and 2, in units of `low`: to even means up, as PyTorch does it.
  const rounded = value / low < 1.5 ? low : low * 2;
  return Math.min(Math.max(rounded, MIN_POWER), MAX_POWER);
}

function decodeSmallFloat(bits: number, format: FloatFormat): number {
  const width = format.byteLength * 8;
  const exponentBits = width - 1 - format.significandBits;
  const sign = bits >>> (width - 1) === 1 ? -1 : 1;
  const exponent = (bits >>> format.significandBits) & (2 ** exponentBits - 1);
  const significand = bits & (2 ** format.significandBits - 1);
  const allOnes = 2 ** exponentBits - 1;
  if (!format.signedZero) {
    if (sign === -1 && exponent === 0 && significand === 0) return Number.NaN;
  } else if (format.overflow === 'nan') {
    if (exponent === allOnes && significand === 2 ** format.significandBits - 1) return Number.NaN;
  } else if (exponent === allOnes) {
    return significand === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  }
  const scale = 2 ** (format.minExponent - format.significandBits);
  if (exponent === 0) return sign * significand * scale;
  return sign * (significand + 2 ** format.significandBits) * scale * 2 ** (exponent - 1);
}

const tables = new Map<DType, Float64Array>();

function tableOf(dtype: DType): Float64Array {
  const known = tables.get(dtype);
  if (known !== undefined) return known;
  const format = dtype === 'F8_E8M0' ? null : formatOf(dtype);
  const decode = (bits: number) =>
    format === null ? (bits === 255 ? Number.NaN : 2 ** (bits - 127)) : decodeSmallFloat(bits, format);
  const table = Float64Array.from({ length: 2 ** BITS[dtype] }, (_, bits) => decode(bits));
  tables.set(dtype, table);
  return table;
}

const float64Scratch = new Float64Array(1);
const wordScratch = new Uint32Array(float64Scratch.buffer);
/** Which half of a float64 holds the sign, the exponent and the first 20 bits of the significand. */
const HIGH_WORD = IS_LITTLE_ENDIAN ? 1 : 0;

/**
 * The pattern of a 16-bit format with infinities, straight from the bits of the float64: whole weights are written so.
 *
 * The upper word's 20 bits, with the hidden one before them, are shifted right until the format's quantum stands at bit 0;
 * what falls off is compared with one half, and the lower word only says whether there is more.
 */
function encodeHalf(value: number, { significandBits, exponentBias, minExponent }: FloatFormat): number {
  float64Scratch[0] = value;
  const high = wordScratch[HIGH_WORD] as number;
  const exponent = ((high >>> 20) & 0x7ff) - 1023;
  const signBit = (high >>> 31) << 15;
  const infinity = ((1 << (15 - significandBits)) - 1) << significandBits;
  if (exponent === 1024)
    return Number.isNaN(value) ? infinity | (1 << (significandBits - 1)) : signBit | infinity;
  const significand = (high & 0xfffff) | 0x100000;
  // A significand shifted by 22 is less than one half, however far below it lies.
  const shift = Math.min(20 - significandBits + Math.max(minExponent - exponent, 0), 22);
  const kept = significand >>> shift;
  const dropped = significand - (kept << shift);
  const half = 1 << (shift - 1);
  const isAbove = dropped > half || (dropped === half && wordScratch[1 - HIGH_WORD] !== 0);
  const rounded = kept + (isAbove || (dropped === half && kept % 2 === 1) ? 1 : 0);
  // The hidden bit, and a carry into it, count as one step of the exponent.
  const base = Math.max(exponent + exponentBias - 1, 0) << significandBits;
  return signBit | Math.min(base + rounded, infinity);
}

function encodeSmallFloat(value: number, dtype: DType): number {
  const rounded = roundToFloat(value, dtype);
  if (dtype === 'F8_E8M0') return Number.isNaN(rounded) ? 255 : Math.log2(rounded) + 127;
  const format = formatOf(dtype);
  const width = format.byteLength * 8;
  const exponentBits = width - 1 - format.significandBits;
  const signBit = (Object.is(rounded, -0) || rounded < 0 ? 1 : 0) << (width - 1);
  const ones = (2 ** exponentBits - 1) << format.significandBits;
  if (Number.isNaN(rounded)) {
    if (!format.signedZero) return 1 << (width - 1);
    return format.overflow === 'nan' ? 2 ** (width - 1) - 1 : ones | (1 << (format.significandBits - 1));
  }
  if (!Number.isFinite(rounded)) return signBit | ones;
  if (rounded === 0) return format.signedZero ? signBit : 0;
  const exponent = Math.max(exponentOf(rounded), format.minExponent);
  const scaled = Math.abs(rounded) / 2 ** (exponent - format.significandBits);
  const isNormal = scaled >= 2 ** format.significandBits;
  const biased = isNormal ? exponent + format.exponentBias : 0;
  return (
    signBit | (biased << format.significandBits) | (scaled - (isNormal ? 2 ** format.significandBits : 0))
  );
}
