// The policy that holds for a run of a command, and what its paths mean there.

import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { quote } from '../errors.js';
import { isPlace } from '../io/places.js';
import { findPolicyFile, type Policy, readPolicyFile } from '../policy.js';
import type { Terminal } from './terminal.js';
import { noteInput } from './write-reports.js';

/** What of a command's options decides which policy holds. */
export interface PolicyOptions {
  /** The file that `--config` names; false with `--no-config`; undefined to look for one. */
  readonly config?: string | false;
  readonly quiet?: boolean;
}

/** A policy and where it was found. */
export interface LoadedPolicy {
  readonly policy: Policy;
  /** As messages name it. */
  readonly file: string;
  /** What the paths in the policy start from, as the working directory sees it; `.` where it is that. */
  readonly directory: string;
}

/**
 * Reads the policy that holds for a run, and says which it is where it was found, not named.
 *
 * @throws as readPolicyFile.
 */
export async function loadPolicy(
  { config, quiet }: PolicyOptions,
  terminal: Terminal,
): Promise<LoadedPolicy | null> {
  if (config === false) return null;
  const path = config ?? findPolicyFile(process.cwd());
  if (path === null) return null;
  noteInput(path);
  const file = config ?? relative(process.cwd(), path);
  const directory = relative(process.cwd(), dirname(resolve(path)));
  const policy = await readPolicyFile(path, file);
  if (config === undefined && quiet !== true)
    terminal.writeError(`bn-audit: using the policy ${quote(file)}`);
  return { policy, file, directory: directory === '' ? '.' : directory };
}

/** A path of a policy as the working directory sees it. */
export function resolveFromPolicy({ directory }: LoadedPolicy, path: string): string {
  return isPlace(path) || isAbsolute(path) || directory === '.' ? path : join(directory, path);
}
