// Opens .npz archives and folders of .npy files: each array is a tensor, named by its entry or file.

import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Checkpoint, ReadOptions, Tensor } from '../../checkpoint/checkpoint.js';
import { placeEdits, planOneFile, planPlainEdits, refuseOtherSources } from '../../checkpoint/edit-plan.js';
import { CheckpointError, quote } from '../../errors.js';
import { type ByteSource, orClose, wholeOf } from '../../io/byte-source.js';
import { explainAs } from '../../io/file-source.js';
import { openWithin } from '../../io/places.js';
import { isInflated, openZip } from '../../io/zip.js';
import { listFirst } from '../../norm/naming.js';
import { planZipSplices } from '../torch/zip-container.js';
import { readNpy, readNpz } from './npy.js';

/** Every array of a folder is an open file; large models have some thousand. */
const MAX_FILES = 4_000;

/** Names of arrays that a warning lists. */
const MAX_LISTED = 3;

/**
 * Opens what numpy.savez and numpy.savez_compressed write. Reads the directory and the headers of the arrays.
 *
 * @throws CheckpointError as the readers of both do; `unsupported` or `refused` where no array holds numbers.
 */
export async function openNpz(source: ByteSource, { path }: ReadOptions): Promise<Checkpoint> {
  const archive = await openZip(source);
  const found = await readArrays(readNpz(archive), source.name);
  return {
    ...describeArrays(found),
    path,
    async planEdits(edits) {
      const pieces = await placeEdits(edits, found.tensors.values());
      refuseOtherSources(pieces, new Set([source, ...[...pieces.keys()].filter(isInflated)]), edits);
      return planOneFile(source, await planZipSplices(archive, pieces));
    },
    close: () => source.close(),
  };
}

/**
 * Opens a folder of what numpy.save writes.
 *
 * @param first one of its files, which is open already.
 */
export async function openNpyFolder(first: ByteSource, options: ReadOptions): Promise<Checkpoint> {
  const folder = options.path;
  const entries = explainAs(folder, () => readdirSync(folder, { withFileTypes: true }));
  const names = entries.map(({ name }) => name).filter((name) => name.endsWith('.npy'));
  if (names.length > MAX_FILES)
    throw new CheckpointError(`expected at most ${MAX_FILES} .npy files in a folder, found ${names.length}`, {
      code: 'limit-exceeded',
      file: folder,
      hint: 'Save the arrays in one file, with numpy.savez.',
    });
  const sources: ByteSource[] = [];
  const close = async () => {
    for (const source of [first, ...sources]) await source.close();
  };
  return orClose({ close }, async () => {
    const arrays = new Map<string, () => Promise<Tensor>>();
    for (const fileName of names.sort()) {
      const source = openArray(folder, fileName, options);
      sources.push(source);
      const name = fileName.slice(0, -'.npy'.length);
      arrays.set(name, () => readNpy(wholeOf(source), name));
    }
    const found = await readArrays(arrays, folder);
    const deeper = entries.filter((entry) => entry.isDirectory() && holdsArrays(join(folder, entry.name)));
    const listed = listFirst(
      deeper.map(({ name }) => quote(name)),
      MAX_LISTED,
    );
    const warnings = deeper.length === 0 ? [] : [`${listed}: .npy files in folders within are not compared`];
    return {
      ...describeArrays(found),
      path: folder,
      warnings: [...found.warnings, ...warnings],
      planEdits: (edits) => planPlainEdits(edits, found.tensors.values(), sources),
      close,
    };
  });
}

function openArray(folder: string, name: string, options: ReadOptions): ByteSource {
  const path = join(folder, name);
  const message = 'expected a file in the folder of arrays, found a symbolic link out of it';
  return openWithin(folder, path, { ...options, refusal: { file: path, message } });
}

function holdsArrays(folder: string): boolean {
  const isThere = explainAs(folder, () => lstatSync(folder).isDirectory());
  return isThere && explainAs(folder, () => readdirSync(folder)).some((name) => name.endsWith('.npy'));
}

type FoundArrays = Pick<Checkpoint, 'tensors' | 'warnings'>;

function describeArrays(found: FoundArrays): Omit<Checkpoint, 'path' | 'close'> {
  return { ...found, format: 'NumPy arrays', inModuleOrder: false, graph: null, modules: new Map() };
}

/** Reads the headers of arrays. What holds no numbers, such as names of classes, is left out, unless nothing else is there. */
async function readArrays(
  arrays: ReadonlyMap<string, () => Promise<Tensor>>,
  file: string,
): Promise<FoundArrays> {
  const tensors = new Map<string, Tensor>();
  const leftOut = new Map<string, CheckpointError>();
  for (const [name, read] of arrays) {
    try {
      tensors.set(name, await read());
    } catch (error) {
      const isOfNoNumbers = error instanceof CheckpointError && /^(?:unsupported|refused)$/.test(error.code);
      if (!isOfNoNumbers) throw error;
      leftOut.set(name, error);
    }
  }
  const [first] = leftOut;
  if (first === undefined) return { tensors, warnings: [] };
  const [name, { message, code }] = first;
  if (tensors.size === 0) throw new CheckpointError(message, { code, file, hint: saveByName(name) });
  const listed = listFirst([...leftOut.keys()].map(quote), MAX_LISTED);
  const are = leftOut.size === 1 ? 'is no array' : 'are no arrays';
  return { tensors, warnings: [`${listed} ${are} of numbers: not compared`] };
}

/** The way out where a dict was saved as one array of objects. */
function saveByName(name: string): string {
  const array = /^\w{1,64}$/.test(name) ? name : 'NAME';
  return (
    'If it is a dict of arrays and you trust the file, save them by their names: ' +
    `np.savez('weights.npz', **np.load('FILE', allow_pickle=True)['${array}'].item())`
  );
}
