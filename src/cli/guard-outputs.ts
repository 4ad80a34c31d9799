import { CheckpointError, quote, UsageError } from '../errors.js';
import { areSame, identifyFile } from '../io/same-file.js';
import { type Pieces, writeFile } from '../io/write-files.js';
import { checkTarget } from '../io/write-target.js';
import type { ReportTarget } from '../policy/policy.js';
import { isEarlierReport } from './earlier-report.js';
import { noteInput } from './job-summary.js';

/** Keeps a run from writing to what it reads. */
export interface InputGuard {
  /**
   * To be told of each file that the run opens, the shards and data files that a checkpoint names included.
   *
   * @throws CheckpointError `refused` where one of the outputs is that file.
   */
  readonly onOpenFile: (path: string) => void;
  /**
   * To be asked before anything is written: a run over several checkpoints survives what fails in one of them.
   *
   * @throws CheckpointError as {@link onOpenFile} did.
   */
  readonly refuseHarm: () => void;
}

/**
 * Compares what a run writes with what it reads, before it does either: by real path, and by device and inode. Devices
 * and pipes may be written to any number of times. A job's summary is not refused: it is left out.
 *
 * @param outputs as the user named them.
 * @param inputs those that are known already; the others are told to the guard as they are opened.
 * @throws UsageError when two outputs are one file.
 * @throws CheckpointError `refused` when an output is an input.
 */
export function guardInputs(outputs: readonly string[], inputs: readonly string[]): InputGuard {
  inputs.forEach(noteInput);
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
    noteInput(path);
    const identity = guarded.length === 0 ? null : identifyFile(path);
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

/** A report to write. */
export interface ReportFile extends ReportTarget {
  /**
   * Where a policy file asked for the report: that file's directory. The policy may come with a checkout that nobody has
   * read yet, so the report must lie there or below, and replace nothing but an earlier report.
   */
  readonly within?: string | undefined;
}

/**
 * Checks, before any work goes into it, that a report may be written.
 *
 * @returns whether there is a file that it may replace.
 * @throws CheckpointError `refused` for a policy's report that leads out of its directory, or would replace what is no
 *   earlier report; `unwritable` for what cannot be written.
 */
export function checkReport({ file, format, within }: ReportFile): boolean {
  const { path, found } = checkTarget(file, { ...toRules(within), mayReplace: true });
  if (found === 'nothing') return false;
  // What is there already is somebody's work, unless it is an earlier report.
  if (within === undefined || isEarlierReport(path, format)) return true;
  throw new CheckpointError(
    `expected an earlier ${format} report or no file, found something else: a report of a policy file replaces nothing else`,
    {
      code: 'refused',
      file,
      hint: `Move it away, or say so on the command line: --report ${format}=FILE`,
    },
  );
}

/**
 * Writes a report to a file, in directories that are made where they are missing. What was there is replaced as a whole.
 *
 * @throws CheckpointError as {@link checkReport}.
 */
export async function writeReport(report: ReportFile, pieces: Pieces): Promise<void> {
  const mayReplace = checkReport(report) || report.within === undefined;
  await writeFile(report.file, pieces, { ...toRules(report.within), mayReplace });
}

function toRules(within: string | undefined) {
  const what = within === undefined ? 'the report' : 'a report of a policy file';
  return { what, within, makesFolders: true };
}
