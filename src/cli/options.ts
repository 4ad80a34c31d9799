// Options that several commands share.

import { type Command, InvalidArgumentError, Option } from 'commander';
import type { PrefixEdit } from '../compare/pair-layers.js';
import { FAIL_ON_LEVELS, type FailOn, type ReportTarget, trimDot } from '../policy.js';
import { REPORT_FORMATS, type ReportFormat } from '../report/formats.js';

/** Options of every command that prints a report. */
export interface CommonOptions {
  readonly format: ReportFormat;
  readonly output?: string;
  readonly report?: readonly ReportTarget[];
  readonly all?: boolean;
  readonly channels?: boolean;
  readonly epsilon?: number;
  readonly select?: string;
  readonly allowExternalSymlinks?: boolean;
  readonly failOn?: FailOn;
  /** False with `--no-ci`. */
  readonly ci: boolean;
  readonly quiet?: boolean;
}

/** What every command's help ends with. */
export const EXIT_CODE_HELP = `
Exit codes:
  0  nothing found
  1  a finding at or above --fail-on
  2  the audit could not be done: usage, an unreadable file, no norm layer,
     nothing paired`;

/** Adds {@link CommonOptions} to a command. */
export function addCommonOptions(command: Command): Command {
  return command
    .addOption(
      new Option('-f, --format <format>', 'how to print the report').choices(REPORT_FORMATS).default('text'),
    )
    .option('-o, --output <file>', 'write the report to a file instead of standard output', parseFileName)
    .option(
      '--report <format=file>',
      'write another report to a file, any number at once (repeatable)',
      collectReport,
    )
    .option('--all', 'show every layer, not the worst alone')
    .option('--channels', 'add the statistics of every channel to the JSON')
    .option('--epsilon <e>', "epsilon of every norm layer, instead of the graph's or 1e-5", parseNonNegative)
    .addOption(
      new Option(
        '--fail-on <level>',
        'the lowest level of finding that exits with 1; error unless given',
      ).choices(FAIL_ON_LEVELS),
    )
    .option('--select <path>', 'the part of a nested PyTorch checkpoint to read, such as state_dict')
    .option('--allow-external-symlinks', "follow symbolic links out of a checkpoint's directory")
    .option('--no-ci', 'no annotations and no job summary when GITHUB_ACTIONS is "true"')
    .option('-q, --quiet', 'print no report and no annotations; the exit code tells')
    .option('--debug', 'print stack traces of errors')
    .showHelpAfterError(`  Run bn-audit ${command.name()} --help for its options.`);
}

/** Collects a repeatable option. */
export function collect(value: string, previous: readonly string[] = []): readonly string[] {
  return [...previous, value];
}

/** Collects a repeatable `FROM=TO`. */
export function collectMap(value: string, previous: readonly PrefixEdit[] = []): readonly PrefixEdit[] {
  const [from, to, ...rest] = value.split('=');
  if (from === undefined || to === undefined || rest.length > 0)
    throw new InvalidArgumentError('It must be FROM=TO.');
  return [...previous, { from: trimDot(from), to: trimDot(to) }];
}

/** Collects a repeatable `FORMAT=FILE`. */
function collectReport(value: string, previous: readonly ReportTarget[] = []): readonly ReportTarget[] {
  const separator = value.indexOf('=');
  const name = separator < 0 ? value : value.slice(0, separator);
  const file = separator < 0 ? '' : value.slice(separator + 1);
  const format = REPORT_FORMATS.find((one) => one === name);
  if (format === undefined || file === '') {
    throw new InvalidArgumentError(
      `It must be FORMAT=FILE, with a format of ${REPORT_FORMATS.join(', ')}: html=report.html`,
    );
  }
  return [...previous, { format, file: parseFileName(file) }];
}

/** A file to write. Elsewhere `-` means standard output: what is written to a file of that name would be missed. */
export function parseFileName(value: string): string {
  if (value === '') throw new InvalidArgumentError('It must name a file.');
  if (value === '-') throw new InvalidArgumentError('It must name a file: one that is called - is ./-');
  return value;
}

/** A number from the command line, zero or larger. */
export function parseNonNegative(value: string): number {
  const number = Number(value);
  if (value.trim() === '' || !Number.isFinite(number) || number < 0) {
    throw new InvalidArgumentError('It must be a number, zero or larger.');
  }
  return number;
}
