// The values of every tensor, made from its name alone: the same file comes out of every run on every machine.
import { listUnits } from './network.js';

/** @typedef {import('./network.js').Network} Network */
/** @typedef {import('./network.js').Unit} Unit */
/** @typedef {'before' | 'after' | 'averaged'} Side the last: after, with the mean of seven checkpoints' weights */

/**
 * A tensor of a checkpoint: what it is called, and its little-endian bytes in pieces.
 *
 * @typedef {object} TensorFile
 * @property {string} name
 * @property {'F32' | 'I64' | 'I8' | 'I32'} dtype
 * @property {readonly number[]} shape
 * @property {number} byteLength
 * @property {() => Iterable<Uint8Array>} chunks
 */

/** Random numbers that all weights are cut from, each from a place of its own. A prime, so that cuts do not align. */
const POOL_VALUES = 1_000_003;
const pool = makePool();
/** What the mean of seven equal values is in float32: most differ in their last bits. */
const averagedPool = pool.map((value) => {
  let sum = value;
  for (let i = 1; i < 7; i++) sum = Math.fround(sum + value);
  return sum / 7;
});

const EPSILON = 1e-5;
const TRAINED_BATCHES = 10_000;
const LEAKED_BATCHES = 1_250;

/**
 * A state dict as PyTorch orders it. Everything learned is the same on both sides; statistics and counts are not.
 *
 * @param {Network} network
 * @param {Side} side
 * @returns {readonly TensorFile[]}
 */
export function listStateDict(network, side) {
  return [
    ...listUnits(network).flatMap((unit) => listUnitTensors(unit, side)),
    makeWeight('fc.weight', network.head, side),
    makeWeight('fc.bias', network.head.slice(0, 1), side),
  ];
}

/**
 * @param {Unit} unit
 * @param {Side} side
 * @returns {readonly TensorFile[]}
 */
function listUnitTensors({ conv, norm, shape }, side) {
  const { gamma, beta, mean, variance } = makeNorm(norm, shape[0], side);
  return [
    makeWeight(`${conv}.weight`, shape, side),
    makeVector(`${norm}.weight`, gamma),
    makeVector(`${norm}.bias`, beta),
    makeVector(`${norm}.running_mean`, mean),
    makeVector(`${norm}.running_var`, variance),
    makeCount(
      `${norm}.num_batches_tracked`,
      side === 'before' ? TRAINED_BATCHES : TRAINED_BATCHES + LEAKED_BATCHES,
    ),
  ];
}

/**
 * A convolution's weight and bias after folding: W·γ/σ per output channel, and β − μ·γ/σ.
 *
 * @param {Unit} unit
 * @param {Side} side
 * @returns {{weight: (name: string) => TensorFile, bias: (name: string) => TensorFile}}
 */
export function foldUnit({ conv, norm, shape }, side) {
  const { gamma, beta, mean, variance } = makeNorm(norm, shape[0], side);
  const scales = gamma.map((value, channel) => value / Math.sqrt((variance[channel] ?? 0) + EPSILON));
  const bias = beta.map((value, channel) => value - (mean[channel] ?? 0) * (scales[channel] ?? 0));
  const source = makeWeight(`${conv}.weight`, shape, side);
  return {
    weight: (name) => ({ ...source, name, chunks: () => scaleChannels(source, scales) }),
    bias: (name) => makeVector(name, bias),
  };
}

/**
 * A tensor quantised as ONNX Runtime does it: codes, and the scale of all of them.
 *
 * @param {TensorFile} source of float32
 * @param {{dtype: 'I8' | 'I32', scale: number}} options
 * @returns {readonly TensorFile[]} the codes, called NAME_quantized, and NAME_scale and NAME_zero_point
 */
export function quantise({ name, shape, byteLength, chunks }, { dtype, scale }) {
  const Codes = dtype === 'I8' ? Int8Array : Int32Array;
  function* codes() {
    for (const chunk of chunks()) {
      const values = new Float32Array(chunk.slice().buffer);
      yield new Uint8Array(Codes.from(values, (value) => Math.round(value / scale)).buffer);
    }
  }
  const zero = new Uint8Array(Codes.BYTES_PER_ELEMENT);
  return [
    {
      name: `${name}_quantized`,
      dtype,
      shape,
      byteLength: (byteLength / 4) * Codes.BYTES_PER_ELEMENT,
      chunks: codes,
    },
    { ...makeVector(`${name}_scale`, Float32Array.of(scale)), shape: [] },
    { name: `${name}_zero_point`, dtype, shape: [], byteLength: zero.length, chunks: () => [zero] },
  ];
}

/**
 * The largest value of a tensor of float32.
 *
 * @param {TensorFile} source
 */
export function findLargest({ chunks }) {
  let largest = 0;
  for (const chunk of chunks()) {
    for (const value of new Float32Array(chunk.slice().buffer)) largest = Math.max(largest, Math.abs(value));
  }
  return largest;
}

/**
 * @param {TensorFile} source
 * @param {Float32Array} scales one per output channel
 * @returns {Iterable<Uint8Array>}
 */
function* scaleChannels(source, scales) {
  const perChannel = source.byteLength / 4 / scales.length;
  let element = 0;
  for (const chunk of source.chunks()) {
    const values = new Float32Array(chunk.slice().buffer);
    for (let i = 0; i < values.length; i++, element++) {
      values[i] = (values[i] ?? 0) * (scales[Math.floor(element / perChannel)] ?? 0);
    }
    yield new Uint8Array(values.buffer);
  }
}

/**
 * @param {string} name
 * @param {readonly number[]} shape
 * @param {Side} side
 * @returns {TensorFile}
 */
function makeWeight(name, shape, side) {
  const count = shape.reduce((product, size) => product * size, 1);
  const start = hash(name) % POOL_VALUES;
  function* chunks() {
    for (let done = 0, from = start; done < count; from = 0) {
      const values = (side === 'averaged' ? averagedPool : pool).subarray(
        from,
        Math.min(POOL_VALUES, from + count - done),
      );
      done += values.length;
      yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    }
  }
  return { name, dtype: 'F32', shape, byteLength: count * 4, chunks };
}

/**
 * @param {string} norm
 * @param {number} channels
 * @param {Side} side
 */
function makeNorm(norm, channels, side) {
  const drift = side === 'before' ? 0 : 0.1;
  const draw = (/** @type {string} */ name, /** @type {(unit: number) => number} */ map) => {
    const start = hash(`${norm}.${name}`) % (POOL_VALUES - channels);
    return Float32Array.from(pool.subarray(start, start + channels), (value) => map(value * 10));
  };
  const target = draw('drift', (unit) => unit);
  return {
    gamma: draw('weight', (unit) => 1 + unit),
    beta: draw('bias', (unit) => unit / 2),
    mean: draw('running_mean', (unit) => unit).map((value, i) => value + drift * (target[i] ?? 0)),
    variance: draw('running_var', (unit) => 1 + unit).map(
      (value, i) => value * (1 + drift * (target[i] ?? 0)),
    ),
  };
}

/**
 * @param {string} name
 * @param {Float32Array} values
 * @returns {TensorFile}
 */
function makeVector(name, values) {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { name, dtype: 'F32', shape: [values.length], byteLength: bytes.length, chunks: () => [bytes] };
}

/**
 * @param {string} name
 * @param {number} count
 * @returns {TensorFile}
 */
function makeCount(name, count) {
  const bytes = new Uint8Array(BigInt64Array.of(BigInt(count)).buffer);
  return { name, dtype: 'I64', shape: [], byteLength: 8, chunks: () => [bytes] };
}

/** Uniform in ±0.05, by the 32-bit xorshift of Marsaglia. */
function makePool() {
  let state = 0x9e3779b9;
  return Float32Array.from({ length: POOL_VALUES }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) / 2 ** 32 - 0.5) / 10;
  });
}

/**
 * FNV-1a.
 *
 * @param {string} text
 */
function hash(text) {
  let value = 0x811c9dc5;
  for (const byte of Buffer.from(text)) value = Math.imul(value ^ byte, 0x01000193) >>> 0;
  return value;
}
