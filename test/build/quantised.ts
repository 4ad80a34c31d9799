import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { tensorOf, tensorOfBytes } from './checkpoints.js';

/** How a test quantises. */
export interface QuantiseOptions {
  readonly shape: readonly number[];
  /** Default: int8. */
  readonly dtype?: 'I8' | 'U8' | 'I32';
  /** Codes of four bits, as ONNX stores INT4 and UINT4. Default: all bits of the type. */
  readonly packedBits?: 4;
  /** The axis along which the scales differ; null (the default) for one scale. */
  readonly axis?: number | null;
  /** So many indices along the axis have a scale; then each index of the other axes has its own. */
  readonly blockSize?: number;
  /** The scale of everything, in place of what fits the largest value. */
  readonly scale?: number;
  /** How a number becomes an integer. Default: to nearest. */
  readonly round?: (value: number) => number;
}

const ENDS = { I8: [-127, 127], U8: [0, 255], I32: [-(2 ** 31), 2 ** 31 - 1] } as const;
const SHORT_ENDS = { ...ENDS, I8: [-7, 7], U8: [0, 15] } as const;

/** Values as onnxruntime.quantization stores them: symmetric for int8, from the least to the largest for uint8. */
export function quantise(values: readonly number[], options: QuantiseOptions): Tensor {
  const { shape, dtype = 'I8', axis = null, round = Math.round, blockSize, packedBits } = options;
  const [lowest, highest] = (packedBits === undefined ? ENDS : SHORT_ENDS)[dtype];
  const scaleShape = shape.flatMap((size, at) => {
    if (blockSize === undefined) return at === axis ? [size] : [];
    return [at === axis ? Math.ceil(size / blockSize) : size];
  });
  const groups = scaleShape.reduce((a, b) => a * b, 1);
  const groupOf = (i: number) => {
    const indices = shape.map(
      (size, at) => Math.floor(i / shape.slice(at + 1).reduce((a, b) => a * b, 1)) % size,
    );
    if (blockSize === undefined) return axis === null ? 0 : (indices[axis] ?? 0);
    return indices.reduce(
      (group, index, at) =>
        group * (scaleShape[at] ?? 1) + (at === axis ? Math.floor(index / blockSize) : index),
      0,
    );
  };
  const ranges = Array.from({ length: groups }, (_, group) => {
    const own = values.filter((_, i) => groupOf(i) === group);
    const [least, most] = [Math.min(0, ...own), Math.max(0, ...own)];
    if (dtype === 'U8') {
      const scale = Math.fround((most - least) / highest) || 1;
      return { scale, zero: Math.round(-least / scale) };
    }
    return {
      scale: Math.fround(
        options.scale ?? (Math.max(-least, most) / (packedBits === undefined ? 127 : 7) || 1),
      ),
      zero: 0,
    };
  });
  const codes = values.map((value, i) => {
    const { scale, zero } = ranges[groupOf(i)] ?? { scale: 1, zero: 0 };
    return Math.min(highest, Math.max(lowest, round(value / scale) + zero));
  });
  const toBytes = (numbers: readonly number[]) =>
    new Uint8Array(
      (dtype === 'I32' ? Int32Array : dtype === 'I8' ? Int8Array : Uint8Array).from(numbers).buffer,
    );
  const packing = packedBits === undefined ? {} : { packedBits };
  return {
    ...tensorOf(
      'weight',
      codes.map((code, i) => (code - (ranges[groupOf(i)]?.zero ?? 0)) * (ranges[groupOf(i)]?.scale ?? 1)),
      { shape },
    ),
    quantised: {
      codes: { ...tensorOfBytes('codes', toBytes(codes), { dtype, shape }), ...packing },
      scale: tensorOf(
        'scale',
        ranges.map(({ scale }) => scale),
        { shape: scaleShape },
      ),
      zeroPoint: tensorOfBytes('zero_point', toBytes(ranges.map(({ zero }) => zero)), {
        dtype,
        shape: scaleShape,
      }),
      axis,
      ...(blockSize === undefined ? {} : { blockSize }),
    },
  };
}
