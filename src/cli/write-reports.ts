// Writes a run's reports, to standard output, to files and to the CI that runs it, and never over what the run reads.

import { closeSync, constants, fstatSync, openSync, readSync, writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { FindingLevel } from '../compare/findings.js';
import { CheckpointError, fail, quote, UsageError } from '../errors.js';
import { describeFailure, explainAs } from '../io/file-source.js';
import { writeFile } from '../io/write-files.js';
import { areSame, checkTarget, identifyFile } from '../io/write-target.js';
import type { FailOn } from '../options.js';
import type { ReportTarget } from '../policy.js';
import type { AnyReport } from '../report/any-report.js';
import type { ReportSet } from '../report/audit-set.js';
import { findFormat, type ReportFormat } from '../report/formats.js';
import type { Pieces, PrintingOptions } from '../report/text-layout.js';
import type { CommonOptions } from './options.js';
import type { Terminal } from './terminal.js';

/** 1 when a finding is at or above the level, else 0. */
export function getExitCode(findings: readonly { readonly level: FindingLevel }[], failOn: FailOn): 0 | 1 {
  return findings.some(({ level }) => level === 'error' || (level === 'warning' && failOn === 'warning'))
    ? 1
    : 0;
}

type AnnounceOptions = Pick<CommonOptions, 'ci' | 'all' | 'format' | 'output' | 'quiet'>;

/**
 * Where a GitHub Actions runner looks on: annotations of the findings, unless the run is quiet, and the report in the
 * job's summary.
 *
 * Annotations go to standard error, which the runner reads as well: standard output may be JSON, or a file.
 */
export async function announceReport(
  report: PrintedReport,
  { ci, all, format, output, quiet }: AnnounceOptions,
  terminal: Terminal,
): Promise<void> {
  if (!ci || !isGithubActions()) return;
  const arePrinted = format === 'github' && output === undefined;
  if (quiet !== true && !arePrinted) {
    const annotations = [...(await renderInRepository(report, 'github'))].join('');
    if (annotations !== '') terminal.writeError(annotations.trimEnd());
  }
  const writeMarkdown = async (options: PrintingOptions) =>
    [...(await renderInRepository(report, 'markdown', options))].join('');
  appendJobSummary([await writeMarkdown({ all }), await writeMarkdown({})], terminal);
}

/** The same where there is no report, because the work could not be done. */
export async function announceFailure(
  message: string,
  { isQuiet }: { readonly isQuiet: boolean },
  terminal: Terminal,
): Promise<void> {
  if (!isGithubActions()) return;
  const [{ writeCommand }, { showCode }] = await Promise.all([
    import('../report/github.js'),
    import('../report/markdown.js'),
  ]);
  if (!isQuiet)
    terminal.writeError(writeCommand('error', { title: 'bn-audit could not do its work', message }));
  appendJobSummary([`### ❌ Failed\n\n${showCode(message, MAX_SHOWN_MESSAGE)}\n`], terminal);
}

const MAX_SHOWN_MESSAGE = 1000;

/** GitHub documents that its runners set the variable to `true`, and to nothing else. */
function isGithubActions(): boolean {
  return process.env['GITHUB_ACTIONS'] === 'true';
}

type PrintedReport = AnyReport | ReportSet;

type PrintOptions = Pick<CommonOptions, 'format' | 'output' | 'all' | 'channels' | 'quiet'> & {
  readonly layer?: string;
  readonly matching?: readonly string[];
};

/** What to print, which files to write, and what keeps the run from writing to what it reads. */
export interface ReportPlan extends PrintOptions {
  readonly files: readonly ReportFile[];
  readonly guard: InputGuard;
}

/**
 * Makes sure, before any work goes into them, that the reports may be written: none replaces what the run reads, no two
 * are one file, and those of a policy stay within their bounds.
 *
 * @param files what to write besides the output.
 * @param inputs what the run is known to read; the plan's guard is to be told of the other files that it opens.
 * @throws UsageError and CheckpointError as guardInputs and checkReport.
 */
export function planReports(
  options: PrintOptions,
  files: readonly ReportFile[],
  inputs: readonly string[],
): ReportPlan {
  const { output, format } = options;
  const all = output === undefined ? files : [...files, { file: output, format }];
  const guard = guardInputs(
    all.map(({ file }) => file),
    inputs,
  );
  for (const report of all) checkReport(report);
  return { ...options, files: all, guard };
}

/** Whether an audit must keep the values of every channel for the reports that are asked for. */
export function needsChannels({ channels, layer, format, files }: ReportPlan): boolean {
  const formats = [format, ...files.map((file) => file.format)];
  return channels === true || layer !== undefined || formats.some((one) => findFormat(one).hasChannels);
}

/**
 * Renders a report in every form that was asked for: colour and width only for the terminal.
 *
 * @throws CheckpointError `refused` where the guard was told of a file that a report would replace; nothing is written
 *   then.
 */
export async function writeReports(
  report: PrintedReport,
  plan: ReportPlan,
  terminal: Terminal,
): Promise<void> {
  plan.guard.refuseHarm();
  const { all, layer, matching } = plan;
  const options = { all, layer, matching, omitsChannels: plan.channels !== true && layer === undefined };
  for (const one of plan.files) {
    await writeReport(one, gather(await renderInRepository(report, one.format, options)));
    if (plan.quiet !== true) terminal.writeError(`bn-audit: wrote ${quote(one.file)} (${one.format})`);
  }
  if (plan.output !== undefined || plan.quiet === true) return;
  const looks = { ...options, ...terminal.readLooks() };
  for (const piece of gather(await renderInRepository(report, plan.format, looks)))
    await terminal.write(piece);
}

/** Characters that are written at a time: fewer would spend more on each write than on what is written. */
const WRITTEN_LENGTH = 64 * 1024;

function* gather(pieces: Pieces): Pieces {
  let text = '';
  for (const piece of pieces) {
    text += piece;
    if (text.length < WRITTEN_LENGTH) continue;
    yield text;
    text = '';
  }
  if (text !== '') yield text;
}

/** Renders a report; where its format names files, as paths from the root of the CI system's checkout. */
async function renderInRepository(
  report: PrintedReport,
  format: ReportFormat,
  options: PrintingOptions = {},
): Promise<Pieces> {
  const { isLocated, load } = findFormat(format);
  const render = await load();
  if (!isLocated) return render(report, options);
  const root = process.env['GITHUB_WORKSPACE'] || process.env['CI_PROJECT_DIR'] || process.cwd();
  const prefix = relative(root, process.cwd());
  return render(report, { ...options, root, directory: prefix.startsWith('..') ? '' : prefix });
}

/** Every pattern below fits into the start of a file. */
const HEAD_BYTES = 4096;

/**
 * Whether a file that exists may give way to a report: it is empty, or looks like an earlier report of that format.
 *
 * @throws CheckpointError where it cannot be read.
 */
function isEarlierReport(path: string, format: ReportFormat): boolean {
  return explainAs(path, () => {
    const head = Buffer.alloc(HEAD_BYTES);
    const { O_RDONLY, O_NONBLOCK, O_NOFOLLOW } = constants;
    // It was a regular file a moment ago; what took its place is neither waited for nor followed.
    const descriptor = openSync(path, O_RDONLY | (O_NONBLOCK ?? 0) | (O_NOFOLLOW ?? 0));
    try {
      const byteLength = readSync(descriptor, head, 0, HEAD_BYTES, 0);
      return byteLength === 0 || findFormat(format).signature.test(head.toString('utf8', 0, byteLength));
    } finally {
      closeSync(descriptor);
    }
  });
}

/** GitHub refuses the whole summary of a step that is longer. */
export const MAX_SUMMARY_BYTES = 1024 * 1024;

/** Whether the summary's file is one that the process reads: nothing is ever written there then. */
let isInput = false;

/** To be told of each file that a run reads, before anything can fail that the summary would tell of. */
export function noteInput(path: string): void {
  const summary = findSummary();
  if (isInput || summary === '') return;
  const [one, other] = [identifyFile(summary), identifyFile(path)];
  isInput = one !== null && other !== null && areSame(one, other);
}

/**
 * Appends Markdown to the file that GITHUB_STEP_SUMMARY names, where there is one: the first of the versions that fits
 * beside what the step has written already. A summary that cannot be written fails no audit.
 */
function appendJobSummary(versions: readonly string[], terminal: Terminal): void {
  const path = findSummary();
  if (path === '') return;
  const problem = isInput ? 'could not be written: it is a file that this run reads' : append(versions, path);
  if (problem !== null) terminal.writeError(`bn-audit: the job summary ${problem}`);
}

/** Null where it is done, or what kept it from being done. */
function append(versions: readonly string[], path: string): string | null {
  const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK } = constants;
  let descriptor: number | null = null;
  try {
    // A pipe that nobody reads would keep a blocking open waiting for ever.
    descriptor = openSync(path, O_WRONLY | O_APPEND | O_CREAT | (O_NONBLOCK ?? 0));
    const facts = fstatSync(descriptor);
    if (!facts.isFile()) return 'could not be written: it is no regular file';
    const fitting = versions.find((text) => facts.size + Buffer.byteLength(text) + 1 <= MAX_SUMMARY_BYTES);
    if (fitting === undefined) return 'is full: no report was added';
    writeFileSync(descriptor, facts.size === 0 ? fitting : `\n${fitting}`);
    return null;
  } catch (error) {
    return `could not be written: ${describeFailure(error).writing}`;
  } finally {
    if (descriptor !== null) closeSync(descriptor);
  }
}

function findSummary(): string {
  return process.env['GITHUB_STEP_SUMMARY'] ?? '';
}

/** Keeps a run from writing to what it reads. */
interface InputGuard {
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
function checkReport({ file, format, within }: ReportFile): boolean {
  const { path, found } = checkTarget(file, { ...toRules(within), mayReplace: true });
  if (found === 'nothing') return false;
  // What is there already is somebody's work, unless it is an earlier report.
  if (within === undefined || isEarlierReport(path, format)) return true;
  fail(
    file,
    `expected an earlier ${format} report or no file, found something else: a report of a policy file replaces nothing else`,
    'refused',
    { hint: `Move it away, or say so on the command line: --report ${format}=FILE` },
  );
}

/**
 * Writes a report to a file. What was there is replaced as a whole.
 *
 * @throws CheckpointError as {@link checkReport}.
 */
export async function writeReport(report: ReportFile, pieces: Pieces): Promise<void> {
  const mayReplace = checkReport(report) || report.within === undefined;
  await writeFile(report.file, pieces, { ...toRules(report.within), mayReplace });
}

function toRules(within: string | undefined) {
  const what = within === undefined ? 'the report' : 'a report of a policy file';
  return { what, within };
}
