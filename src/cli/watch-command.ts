// `bn-audit watch`: what is printed of each checkpoint that lands, and what becomes of drift.

import type { Command } from 'commander';
import { fail, quote, toShellWord } from '../errors.js';
import { nameOf } from '../io/places.js';
import { listFirst } from '../norm/naming.js';
import { type FailOn, pickOptions } from '../options.js';
import type { PolicyRules } from '../policy.js';
import { formatCount, formatPlural } from '../report/format-numbers.js';
import { defuseCommands } from '../report/text-layout.js';
import { type WatchEnd, type WatchEvent, watch } from '../watch/watch.js';
import { type CheckpointEvent, writeEvent, writeEventAsJson } from '../watch/write-event.js';
import { listMatching } from './diff-command.js';
import { loadPolicy, type PolicyOptions } from './load-policy.js';
import { type CommonOptions, createCommand } from './options.js';
import { readCommand, runCommand } from './run-command.js';
import { catchSignals, endBySignal } from './signals.js';
import type { Terminal } from './terminal.js';
import { announceReport, getExitCode, noteInput } from './write-reports.js';

interface WatchCommandOptions extends CommonOptions, PolicyOptions, PolicyRules {
  readonly match?: readonly string[];
  /** Seconds. */
  readonly interval?: number;
  readonly timeout?: number;
  readonly idle?: number;
  readonly exec?: string;
  readonly keepGoing?: boolean;
}

/** `bn-audit watch BEFORE DIRECTORY`: audits each checkpoint of a run as it lands. */
export function createWatch(terminal: Terminal): Command {
  return createCommand('watch', ['text', 'json'])
    .description('Audit each checkpoint of a training run as it lands, and end at the first drift.')
    .argument('<before>', 'checkpoint from before the freeze')
    .argument('<directory>', 'where the run writes its checkpoints, or a directory above')
    .addHelpText('after', EXAMPLES)
    .action(async (before: string, directory: string, options: WatchCommandOptions) => {
      process.exitCode = await runWatch({ before, directory }, options, terminal);
    });
}

const EXAMPLES = `
Examples:
  bn-audit watch base.pt runs/ --frozen backbone
  bn-audit watch base.pt runs/ --exec 'kill 4711'
  bn-audit watch base.pt runs/ --exec 'mv {} suspect/' --keep-going
  bn-audit watch base.pt runs/ --keep-going --idle 3600 --format json

Exit codes:
  0  nothing found, when it ends by --timeout or --idle
  1  a finding at or above --fail-on
  2  a checkpoint could not be audited, or none landed; usage`;

/** Seconds; network file systems may tell for three what a file was before. */
const USUAL_INTERVAL = 5;

interface Targets {
  readonly before: string;
  readonly directory: string;
}

async function runWatch(targets: Targets, options: WatchCommandOptions, terminal: Terminal): Promise<number> {
  const { exec, interval = USUAL_INTERVAL, timeout, idle, match, quiet, keepGoing } = options;
  const command = exec === undefined ? null : readCommand(exec);
  noteInput(targets.before);
  const loaded = await loadPolicy(options, terminal);
  const shared: PolicyRules = pickOptions('policy', loaded?.policy ?? {});
  const { failOn = 'error', ...rules } = { ...shared, ...pickOptions('policy', options) };
  const onProgress = quiet === true ? undefined : terminal.showProgress;
  const audit = { ...rules, ...pickOptions('openCheckpoint', options), onOpenFile: noteInput, onProgress };
  const caught = catchSignals();
  const printer = new Printer(targets, { ...options, failOn, matching: listMatching(audit) }, terminal);
  const onEvent = async (event: WatchEvent): Promise<boolean> => {
    const drifted = await printer.print(event);
    if (drifted === null) return true;
    const problem = command === null ? null : await runCommand(command, drifted, caught.signal);
    if (problem !== null) printer.say(`--exec: the command ${problem}`);
    return keepGoing === true;
  };
  try {
    printer.say(
      `watching ${quote(targets.directory)} every ${interval} s, against ${quote(nameOf(targets.before))}`,
    );
    const { signal } = caught;
    const end = await watch(targets, { audit, interval, timeout, idle, match, signal }, onEvent);
    const by = caught.readCaught();
    const exitCode = printer.conclude(end, by !== null);
    caught.release();
    if (by !== null && exitCode === 0) endBySignal(by);
    return exitCode;
  } finally {
    caught.release();
  }
}

interface PrinterOptions extends WatchCommandOptions {
  readonly failOn: FailOn;
  /** What an audit of the same two must be told. */
  readonly matching: readonly string[];
}

/** Prints what happens, a line each, and counts it. */
class Printer {
  readonly #targets: Targets;
  readonly #options: PrinterOptions;
  readonly #terminal: Terminal;
  #audited = 0;
  #drifted = 0;
  #gone = 0;
  /** The first that drifted. */
  #first: string | null = null;

  constructor(targets: Targets, options: PrinterOptions, terminal: Terminal) {
    this.#targets = targets;
    this.#options = options;
    this.#terminal = terminal;
  }

  /** @returns the checkpoint where it has a finding at or above --fail-on; of the first such, CI is told. */
  async print(event: WatchEvent): Promise<string | null> {
    this.#terminal.finishProgress();
    if (event.kind === 'note') this.say(event.message);
    else await this.#write(event);
    if (event.kind === 'gone') this.#gone++;
    if (event.kind !== 'audited') return null;
    this.#audited++;
    if (getExitCode(event.report.findings, this.#options.failOn) === 0) return null;
    this.#drifted++;
    this.#first ??= event.path;
    if (this.#drifted === 1) await announceReport(event.report, this.#options, this.#terminal);
    return event.path;
  }

  /** Says something on standard error. */
  say(message: string): void {
    if (this.#options.quiet !== true) this.#terminal.writeError(defuseCommands(`bn-audit: ${message}`));
  }

  /**
   * Says what the watch came to.
   *
   * @returns the exit code.
   * @throws CheckpointError where it ended by itself and there was nothing to audit.
   */
  conclude({ failed, changing, passed }: WatchEnd, isStopped: boolean): number {
    this.#terminal.finishProgress();
    const counts = [
      `${formatPlural(this.#audited, 'checkpoint')} audited`,
      ...(this.#drifted > 0 ? [`${formatCount(this.#drifted)} drifted`] : []),
      ...(this.#gone > 0 ? [`${formatCount(this.#gone)} deleted before they could be read`] : []),
      ...(failed > 0 ? [`${formatCount(failed)} could not be read`] : []),
      ...(changing.length > 0 ? [`not audited yet: ${listFirst(changing.map(quote), 3)}`] : []),
    ];
    const { before, directory } = this.#targets;
    const { matching } = this.#options;
    const words = this.#first === null ? [] : [nameOf(before), this.#first, ...matching].map(toShellWord);
    this.say(
      [counts.join(', '), ...(words.length > 0 ? [`  In full: bn-audit diff ${words.join(' ')}`] : [])].join(
        '\n',
      ),
    );
    if (this.#drifted > 0) return 1;
    if (isStopped) return failed > 0 ? 2 : 0;
    if (this.#audited + this.#gone + failed + changing.length === 0) refuseNothing(directory, passed);
    return failed + changing.length > 0 ? 2 : 0;
  }

  async #write(event: CheckpointEvent): Promise<void> {
    const { quiet, format } = this.#options;
    if (quiet === true) return;
    const line = format === 'json' ? writeEventAsJson(event) : writeEvent(event, this.#terminal.readLooks());
    await this.#terminal.write(`${line}\n`);
  }
}

function refuseNothing(directory: string, { count, example }: WatchEnd['passed']): never {
  fail(directory, 'expected checkpoints to audit, found none', 'not-found', {
    hint:
      example === null
        ? 'Is it the directory that the run writes to?'
        : `${formatPlural(count, 'file')} there bear no name of a checkpoint, such as ${quote(example)}: say which are some with --match GLOB`,
  });
}
