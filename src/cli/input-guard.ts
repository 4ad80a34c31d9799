import { CheckpointError, quote, UsageError } from '../errors.js';
import { areSame, identifyFile } from '../io/same-file.js';
import type { InputGuard } from './write-reports.js';

/**
 * Compares what a run writes with what it reads, before it does either: by real path, and by device and inode. Devices
 * and pipes may be written to any number of times.
 *
 * @param outputs as the user named them.
 * @param inputs those that are known already; the others are told to the guard as they are opened.
 * @throws UsageError when two outputs are one file.
 * @throws CheckpointError `refused` when an output is an input.
 */
export function guardInputs(outputs: readonly string[], inputs: readonly string[]): InputGuard {
  const guarded = outputs.flatMap((name) => {
    const identity = identifyFile(name);
    return identity === null ? [] : [{ name, identity }];
  });
  guarded.forEach(({ name, identity }, index) => {
    const twin = guarded.slice(0, index).find((other) => areSame(other.identity, identity));
    if (twin !== undefined)
      throw new UsageError(`${quote(twin.name)} and ${quote(name)} are one file: it cannot be written twice`);
  });
  let harm: CheckpointError | null = null;
  const refuseHarm = () => {
    if (harm !== null) throw harm;
  };
  const onOpenFile = (path: string) => {
    const identity = identifyFile(path);
    const output = identity === null ? undefined : guarded.find((one) => areSame(one.identity, identity));
    if (output === undefined) return;
    harm ??= new CheckpointError(
      `expected a file to write, found ${quote(path)}, which is read: what is audited is never written to`,
      { code: 'refused', file: output.name },
    );
    refuseHarm();
  };
  inputs.forEach(onOpenFile);
  return { onOpenFile, refuseHarm };
}
