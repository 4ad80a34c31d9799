// Writes safetensors files as `safetensors.torch.save_file` does: counts first, then floats by name.

/** @typedef {import('./values.js').TensorFile} TensorFile */

/**
 * The pieces of a safetensors file.
 *
 * @param {readonly TensorFile[]} tensors
 * @returns {Iterable<Uint8Array>}
 */
export function* writeSafetensors(tensors) {
  const sorted = [...tensors].sort((x, y) => compareText(y.dtype, x.dtype) || compareText(x.name, y.name));
  /** @type {Record<string, unknown>} */
  const entries = { __metadata__: { format: 'pt' } };
  let end = 0;
  for (const { name, dtype, shape, byteLength } of sorted) {
    entries[name] = { dtype, shape, data_offsets: [end, end + byteLength] };
    end += byteLength;
  }
  const json = JSON.stringify(entries);
  const header = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  yield length;
  yield header;
  for (const { chunks } of sorted) yield* chunks();
}

/**
 * @param {string} x
 * @param {string} y
 */
function compareText(x, y) {
  return x < y ? -1 : x > y ? 1 : 0;
}
