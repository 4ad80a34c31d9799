import { lstatSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CheckpointError } from '../errors.js';
import { explainFileError, openFileSource } from '../io/file-source.js';
import { MAX_POLICY_BYTES, POLICY_FILE_NAME, type Policy, parsePolicy } from './policy.js';

/**
 * The policy file that holds for a directory: in it, or in the nearest one above, up to the root of the repository
 * (where `.git` is) or of the file system.
 *
 * @param directory an absolute path.
 * @returns null where there is none.
 * @throws CheckpointError where a directory cannot be looked into: a policy that is passed over asserts nothing.
 */
export function findPolicyFile(directory: string): string | null {
  for (let current = directory; ; current = dirname(current)) {
    const candidate = join(current, POLICY_FILE_NAME);
    if (exists(candidate)) return candidate;
    if (exists(join(current, '.git')) || dirname(current) === current) return null;
  }
}

function exists(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch (error) {
    const { message, code } = explainFileError(error, path);
    const hint = 'Name the policy with --config FILE, or go without one: --no-config';
    throw new CheckpointError(`looking for a policy: ${message}`, { code, file: path, hint, cause: error });
  }
}

/**
 * Reads a policy file.
 *
 * @param name how messages name it, where that differs from the path.
 * @throws CheckpointError when it cannot be read, is too large or is no JSON.
 * @throws UsageError when a key or value is none of the schema's.
 */
export async function readPolicyFile(path: string, name: string = path): Promise<Policy> {
  const source = openFileSource(name, path);
  try {
    if (source.byteLength > MAX_POLICY_BYTES) {
      throw new CheckpointError(
        `expected a policy of at most ${MAX_POLICY_BYTES} bytes, found ${source.byteLength}`,
        { code: 'limit-exceeded', file: name },
      );
    }
    const bytes = new Uint8Array(source.byteLength);
    await source.readInto(bytes, 0);
    return parsePolicy(bytes, name);
  } finally {
    await source.close();
  }
}
