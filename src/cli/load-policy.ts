// The policy that holds for a run of a command, and what its paths mean there.

import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { quote, UsageError } from '../errors.js';
import { isPlace } from '../io/places.js';
import { suggestName } from '../options.js';
import { findPolicyFile, type Policy, readPolicyFile } from '../policy.js';
import type { CommonOptions } from './options.js';
import type { Terminal } from './terminal.js';
import { noteInput, type ReportFile } from './write-reports.js';

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

/** The reports of the command line, and those of the policy, which must lie in its directory. */
export function listReportFiles(
  { report = [] }: Pick<CommonOptions, 'report'>,
  loaded: LoadedPolicy | null,
): readonly ReportFile[] {
  if (loaded === null) return report;
  const ofPolicy = loaded.policy.reports.map(({ format, file }) => ({
    format,
    file: resolveFromPolicy(loaded, file),
    within: loaded.directory,
  }));
  return [...ofPolicy, ...report];
}

/**
 * What the policy calls by a name.
 *
 * @param what a `pair` of checkpoints or a `run`: the option that names it, and, with an s, where the policy has it.
 * @throws UsageError where it calls nothing so.
 */
export function findNamed<Named>(
  named: ReadonlyMap<string, Named>,
  name: string,
  { what, file }: { readonly what: 'pair' | 'run'; readonly file: string },
): Named {
  const found = named.get(name);
  if (found !== undefined) return found;
  const names = [...named.keys()];
  if (names.length === 0)
    throw new UsageError(`${file}: ${what}s: expected at least one ${what}, found none`);
  throw new UsageError(
    `--${what} ${quote(name)}: ${file} has no such ${what}${suggestName(name, names)}`,
    `${what.charAt(0).toUpperCase()}${what.slice(1)}s there: ${names.slice(0, 20).map(quote).join(', ')}`,
  );
}
