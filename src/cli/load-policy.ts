import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { findPolicyFile, readPolicyFile } from '../policy/find-policy.js';
import type { Policy } from '../policy/policy.js';
import { noteInput } from './job-summary.js';

/** A policy and where it was found. */
export interface LoadedPolicy {
  readonly policy: Policy;
  /** As messages name it. */
  readonly file: string;
  /** What the paths in the policy start from, as the working directory sees it; `.` where it is that. */
  readonly directory: string;
}

/**
 * Reads the policy that holds for a run.
 *
 * @param config the file that `--config` names; false for `--no-config`; undefined to look for one.
 * @throws as readPolicyFile.
 */
export async function loadPolicy(config: string | false | undefined): Promise<LoadedPolicy | null> {
  if (config === false) return null;
  const path = config ?? findPolicyFile(process.cwd());
  if (path === null) return null;
  noteInput(path);
  const file = config ?? relative(process.cwd(), path);
  const directory = relative(process.cwd(), dirname(resolve(path)));
  return { policy: await readPolicyFile(path, file), file, directory: directory === '' ? '.' : directory };
}

/** A path of a policy as the working directory sees it. */
export function resolveFromPolicy({ directory }: LoadedPolicy, path: string): string {
  return isAbsolute(path) || directory === '.' ? path : join(directory, path);
}
