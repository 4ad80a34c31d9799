import { dirname, resolve, sep } from 'node:path';
import type { OnnxCheckpoint } from '../checkpoint/onnx/onnx.js';
import { CheckpointError } from '../errors.js';
import { readRange } from '../io/byte-source.js';
import type { ExternalTensors } from './runtime.js';

/** Files that must be read whole, because ONNX Runtime would not follow the links to them. */
const MAX_LOADED_BYTES = 2 ** 32 - 1;

/**
 * Says where ONNX Runtime finds a model's external data although the model itself is loaded from memory: in the
 * model's folder, from which it maps the files. Where the files are links to other names or places, which it refuses
 * and the user has allowed, they are read into memory.
 *
 * @throws CheckpointError `limit-exceeded` for linked files that are too large to read.
 */
export async function findExternalTensors({ path, externalFiles }: OnnxCheckpoint): Promise<ExternalTensors> {
  const files = [...externalFiles()];
  const folders = new Set(
    files.map(([location, file]) => {
      const tail = sep + location.split('/').join(sep);
      return file.path.endsWith(tail) ? file.path.slice(0, -tail.length) || sep : null;
    }),
  );
  const [folder = dirname(resolve(path))] = folders;
  if (folders.size <= 1 && folder !== null) return { kind: 'folder', path: folder };
  const loaded = [];
  for (const [location, source] of files) {
    if (source.byteLength > MAX_LOADED_BYTES) {
      throw new CheckpointError(
        `expected linked external data of at most ${MAX_LOADED_BYTES} bytes, found ${source.byteLength}`,
        { code: 'limit-exceeded', file: source.name, hint: 'Put the data file itself beside the model.' },
      );
    }
    loaded.push({
      path: location,
      data: await readRange({ source, offset: 0, byteLength: source.byteLength }),
    });
  }
  return { kind: 'loaded', files: loaded };
}
