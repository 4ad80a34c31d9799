// Writes .pt files as torch.save does: a zip of stored records, each aligned to 64 bytes, and a pickle of protocol 2.
import { crc32 } from 'node:zlib';

/** @typedef {import('./values.js').TensorFile} TensorFile */

const ALIGNMENT = 64;
const ROOT = 'archive';

/**
 * A record of the zip, before it has a place in it.
 *
 * @typedef {object} Entry
 * @property {string} name
 * @property {number} byteLength
 * @property {() => Iterable<Uint8Array>} chunks
 */

/**
 * The pieces of a .pt file that holds a state dict.
 *
 * @param {readonly TensorFile[]} tensors
 * @param {{isChannelsLast?: boolean}} [options] isChannelsLast: weights of four dimensions are stored output by output,
 *   row by row, column by column, as `model.to(memory_format=torch.channels_last)` leaves them
 * @returns {Iterable<Uint8Array>}
 */
export function* writeTorch(tensors, { isChannelsLast = false } = {}) {
  const stridesOf = isChannelsLast ? channelsLastStrides : contiguousStrides;
  const entries = [
    makeEntry('data.pkl', pickleStateDict(tensors, stridesOf)),
    makeEntry('.format_version', Buffer.from('1')),
    makeEntry('.storage_alignment', Buffer.from(String(ALIGNMENT))),
    makeEntry('byteorder', Buffer.from('little')),
    ...tensors.map(({ byteLength, chunks }, key) => ({ name: `${ROOT}/data/${key}`, byteLength, chunks })),
    makeEntry('version', Buffer.from('3\n')),
  ];
  /** @type {Buffer[]} */
  const directory = [];
  let offset = 0;
  for (const entry of entries) {
    const header = writeLocalHeader(entry, offset);
    yield header;
    let checksum = 0;
    for (const chunk of entry.chunks()) {
      checksum = crc32(chunk, checksum);
      yield chunk;
    }
    const descriptor = writeDescriptor(entry, checksum);
    yield descriptor;
    directory.push(writeDirectoryEntry(entry, { checksum, offset }));
    offset += header.length + entry.byteLength + descriptor.length;
  }
  yield* directory;
  yield writeEnd({ count: directory.length, byteLength: Buffer.concat(directory).length, offset });
}

/**
 * @param {string} name
 * @param {Buffer} bytes
 * @returns {Entry}
 */
function makeEntry(name, bytes) {
  return { name: `${ROOT}/${name}`, byteLength: bytes.length, chunks: () => [bytes] };
}

/** Sizes and checksum follow the data (bit 3); names are UTF-8 (bit 11). */
const FLAGS = 0x0808;

/**
 * A local file header (APPNOTE 4.3.7) with an extra field `FB` that pads it, so that the data is aligned.
 *
 * @param {Entry} entry
 * @param {number} offset where the header starts
 */
function writeLocalHeader({ name }, offset) {
  const nameBytes = Buffer.from(name);
  const unpadded = offset + 30 + nameBytes.length + 4;
  const padding = (ALIGNMENT - (unpadded % ALIGNMENT)) % ALIGNMENT;
  const extra = Buffer.alloc(4 + padding, 'Z');
  extra.write('FB', 0, 'latin1');
  extra.writeUInt16LE(padding, 2);
  const header = Buffer.alloc(30);
  header.writeUInt32LE(0x04034b50, 0);
  header.writeUInt16LE(FLAGS, 6);
  header.writeUInt16LE(nameBytes.length, 26);
  header.writeUInt16LE(extra.length, 28);
  return Buffer.concat([header, nameBytes, extra]);
}

/**
 * A data descriptor (APPNOTE 4.3.9).
 *
 * @param {Entry} entry
 * @param {number} checksum
 */
function writeDescriptor({ byteLength }, checksum) {
  const descriptor = Buffer.alloc(16);
  descriptor.writeUInt32LE(0x08074b50, 0);
  descriptor.writeUInt32LE(checksum, 4);
  descriptor.writeUInt32LE(byteLength, 8);
  descriptor.writeUInt32LE(byteLength, 12);
  return descriptor;
}

/**
 * A central directory header (APPNOTE 4.3.12).
 *
 * @param {Entry} entry
 * @param {{checksum: number, offset: number}} place
 */
function writeDirectoryEntry({ name, byteLength }, { checksum, offset }) {
  const nameBytes = Buffer.from(name);
  const header = Buffer.alloc(46);
  header.writeUInt32LE(0x02014b50, 0);
  header.writeUInt16LE(FLAGS, 8);
  header.writeUInt32LE(checksum, 16);
  header.writeUInt32LE(byteLength, 20);
  header.writeUInt32LE(byteLength, 24);
  header.writeUInt16LE(nameBytes.length, 28);
  header.writeUInt32LE(offset, 42);
  return Buffer.concat([header, nameBytes]);
}

/**
 * The end of central directory record (APPNOTE 4.3.16).
 *
 * @param {{count: number, byteLength: number, offset: number}} directory
 */
function writeEnd({ count, byteLength, offset }) {
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(count, 8);
  end.writeUInt16LE(count, 10);
  end.writeUInt32LE(byteLength, 12);
  end.writeUInt32LE(offset, 16);
  return end;
}

/**
 * `OrderedDict` of tensors, each over a storage of its own with the key of its position.
 *
 * @param {readonly TensorFile[]} tensors
 * @param {(shape: readonly number[]) => readonly number[]} stridesOf
 */
function pickleStateDict(tensors, stridesOf) {
  return Buffer.concat([
    opcode('\x80\x02'),
    opcode('ccollections\nOrderedDict\n'),
    opcode(')R('),
    ...tensors.flatMap((tensor, key) => [unicode(tensor.name), pickleTensor(tensor, { key, stridesOf })]),
    opcode('u.'),
  ]);
}

/**
 * `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`, the storage by persistent id.
 *
 * @param {TensorFile} tensor
 * @param {{key: number, stridesOf: (shape: readonly number[]) => readonly number[]}} place
 */
function pickleTensor({ dtype, shape }, { key, stridesOf }) {
  const elements = shape.reduce((product, size) => product * size, 1);
  return Buffer.concat([
    opcode('ctorch._utils\n_rebuild_tensor_v2\n('),
    opcode('('),
    unicode('storage'),
    opcode(dtype === 'F32' ? 'ctorch\nFloatStorage\n' : 'ctorch\nLongStorage\n'),
    unicode(String(key)),
    unicode('cpu'),
    integer(elements),
    opcode('tQ'),
    integer(0),
    tuple(shape),
    tuple(stridesOf(shape)),
    opcode('\x89ccollections\nOrderedDict\n)RtR'),
  ]);
}

/** @param {readonly number[]} shape */
function contiguousStrides(shape) {
  return shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
}

/** @param {readonly number[]} shape */
function channelsLastStrides(shape) {
  const [, inputs = 1, rows = 1, columns = 1] = shape;
  return shape.length === 4
    ? [inputs * rows * columns, 1, inputs * columns, inputs]
    : contiguousStrides(shape);
}

/** @param {readonly number[]} values */
function tuple(values) {
  return Buffer.concat([opcode('('), ...values.map(integer), opcode('t')]);
}

/** @param {string} codes opcodes and their arguments, one byte a character */
function opcode(codes) {
  return Buffer.from(codes, 'latin1');
}

/** @param {string} text */
function unicode(text) {
  const bytes = Buffer.from(text);
  const head = Buffer.alloc(5);
  head.write('X', 0, 'latin1');
  head.writeUInt32LE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

/** @param {number} value */
function integer(value) {
  const bytes = Buffer.alloc(5);
  bytes.write('J', 0, 'latin1');
  bytes.writeInt32LE(value, 1);
  return bytes;
}
