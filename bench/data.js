// Makes the benchmark's files, once: bench/data/ keeps them for the next run.
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { planNetwork } from './network.js';
import { listStateDict } from './values.js';
import { writeOnnx } from './write-onnx.js';
import { writeSafetensors } from './write-safetensors.js';
import { writeTorch } from './write-torch.js';

/** @typedef {import('./values.js').Side} Side */
/** @typedef {'safetensors' | 'onnx' | 'pt' | 'channels-last' | 'folded' | 'quantised'} Format */

/**
 * Two files to audit, and a copy of the first for `cmp`: it stops at the first difference, so only equal files make
 * it read everything.
 *
 * @typedef {object} Pair
 * @property {string} before
 * @property {string} after
 * @property {string} copy of before
 */

const DIRECTORY = fileURLToPath(new URL('data/', import.meta.url));

/** Raised when the writers change, so that older files are not taken for theirs. */
const GENERATION = 1;

const READ_BYTES = 8 * 1024 * 1024;

/** @type {Readonly<Record<Format, {ending: string, write: (megabytes: number, side: Side) => Iterable<Uint8Array>}>>} */
const FORMATS = {
  safetensors: {
    ending: 'safetensors',
    write: (megabytes, side) => writeSafetensors(listStateDict(planNetwork(megabytes), side)),
  },
  onnx: {
    ending: 'onnx',
    write: (megabytes, side) => writeOnnx(planNetwork(megabytes), side, { isFolded: false }),
  },
  pt: { ending: 'pt', write: (megabytes, side) => writeTorch(listStateDict(planNetwork(megabytes), side)) },
  'channels-last': {
    ending: 'channels-last.pt',
    write: (megabytes, side) =>
      writeTorch(listStateDict(planNetwork(megabytes), side), { isChannelsLast: true }),
  },
  folded: {
    ending: 'folded.onnx',
    write: (megabytes, side) => writeOnnx(planNetwork(megabytes), side, { isFolded: true }),
  },
  quantised: {
    ending: 'int8.onnx',
    // A quarter of the bytes: so many megabytes of codes.
    write: (megabytes, side) =>
      writeOnnx(planNetwork(4 * megabytes), side, { isFolded: true, isQuantised: true }),
  },
};

/**
 * The pair of a format and size; written unless it is there.
 *
 * @param {Format} format
 * @param {number} megabytes
 * @returns {Pair}
 */
export function preparePair(format, megabytes) {
  const { ending, write } = FORMATS[format];
  const directory = join(DIRECTORY, `${megabytes}mb-${GENERATION}`);
  mkdirSync(directory, { recursive: true });
  const before = join(directory, `before.${ending}`);
  const after = join(directory, `after.${ending}`);
  const copy = join(directory, `copy.${ending}`);
  writeOnce(before, (path) => writePieces(path, write(megabytes, 'before')));
  writeOnce(after, (path) => writePieces(path, write(megabytes, 'after')));
  writeOnce(copy, (path) => copyFileSync(before, path));
  return { before, after, copy };
}

/**
 * The safetensors pair of a size whose after holds averages: every learned tensor equal up to rounding alone.
 *
 * @param {number} megabytes
 * @returns {Pair}
 */
export function prepareAveragedPair(megabytes) {
  const pair = preparePair('safetensors', megabytes);
  const after = join(dirname(pair.after), 'averaged.safetensors');
  writeOnce(after, (path) => writePieces(path, FORMATS.safetensors.write(megabytes, 'averaged')));
  return { ...pair, after };
}

/**
 * A training run of a frozen network whose norm layers drift: so many copies of the safetensors after of a size, each with
 * batch counts and a running mean of its own.
 *
 * @param {number} megabytes
 * @param {number} count
 * @returns {Pair & {checkpoints: readonly string[]}} `after` is the directory
 */
export function prepareRun(megabytes, count) {
  const pair = preparePair('safetensors', megabytes);
  const directory = join(dirname(pair.after), 'run');
  mkdirSync(directory, { recursive: true });
  const checkpoints = Array.from({ length: count }, (_, index) =>
    join(directory, `epoch_${index + 1}.safetensors`),
  );
  checkpoints.forEach((path, index) => {
    writeOnce(path, (partial) => {
      copyFileSync(pair.after, partial);
      moveStatistics(partial, index + 1);
    });
  });
  return { ...pair, after: directory, checkpoints };
}

/**
 * Writes other batch counts into a safetensors file, and another first value into its first running mean.
 *
 * @param {string} path
 * @param {number} epoch
 */
function moveStatistics(path, epoch) {
  const descriptor = openSync(path, 'r+');
  const length = Buffer.alloc(8);
  readSync(descriptor, length, 0, 8, 0);
  const header = Buffer.alloc(Number(length.readBigUInt64LE()));
  readSync(descriptor, header, 0, header.length, 8);
  const entries = Object.entries(JSON.parse(header.toString('utf8')));
  const offsetOf = (/** @type {any} */ { data_offsets: [begin] }) => 8 + header.length + begin;
  const counts = entries.filter(([name]) => name.endsWith('num_batches_tracked'));
  const count = Buffer.alloc(8);
  count.writeBigInt64LE(BigInt(1000 + 100 * epoch));
  for (const [, entry] of counts) writeSync(descriptor, count, 0, 8, offsetOf(entry));
  const mean = Buffer.alloc(4);
  mean.writeFloatLE(0.01 * epoch);
  const first = entries.find(([name]) => name.endsWith('running_mean'));
  if (first !== undefined) writeSync(descriptor, mean, 0, 4, offsetOf(first[1]));
  closeSync(descriptor);
}

/**
 * Where a command writes what it makes of a file: on the same file system.
 *
 * @param {string} path
 * @returns {string}
 */
export function chooseTarget(path) {
  return join(DIRECTORY, `written${extname(path)}`);
}

/**
 * Reads a file once, so that what is measured next finds it in the page cache.
 *
 * @param {string} path
 */
export function warm(path) {
  const buffer = new Uint8Array(READ_BYTES);
  const descriptor = openSync(path, 'r');
  while (readSync(descriptor, buffer) > 0);
  closeSync(descriptor);
}

/**
 * @param {string} path
 * @param {(path: string) => void} write
 */
function writeOnce(path, write) {
  if (existsSync(path)) return;
  process.stderr.write(`writing ${path}\n`);
  write(`${path}.partial`);
  renameSync(`${path}.partial`, path);
}

/**
 * @param {string} path
 * @param {Iterable<Uint8Array>} pieces
 */
function writePieces(path, pieces) {
  const descriptor = openSync(path, 'w');
  for (const piece of pieces) {
    for (let done = 0; done < piece.length; ) done += writeSync(descriptor, piece, done);
  }
  closeSync(descriptor);
}
