import { Command, InvalidArgumentError, Option } from 'commander';
import { audit } from '../audit.js';
import type { FindingLevel } from '../compare/findings.js';
import type { PrefixEdit } from '../compare/pair-layers.js';
import { UsageError } from '../errors.js';
import { inspect } from '../inspect.js';
import { REPORT_FORMATS, type ReportFormat, render } from '../report/render.js';
import { VERSION } from '../version.js';
import { type FailOn, getExitCode } from './exit-code.js';
import { writeReportFile } from './output-file.js';
import type { Terminal } from './terminal.js';

/** Options that every command has. */
interface CommonOptions {
  readonly format: ReportFormat;
  readonly output?: string;
  readonly all?: boolean;
  readonly channels?: boolean;
  readonly epsilon?: number;
  readonly select?: string;
  readonly allowExternalSymlinks?: boolean;
  readonly failOn: FailOn;
  readonly quiet?: boolean;
}

interface DiffOptions extends CommonOptions {
  readonly frozen: readonly string[];
  readonly allow: readonly string[];
  readonly minShift?: number;
  readonly map: readonly PrefixEdit[];
  readonly layer?: string;
}

const EXIT_CODE_HELP = `
Exit codes:
  0  nothing found
  1  a finding at or above --fail-on
  2  the audit could not be done: usage, an unreadable file, no norm layer, nothing paired`;

/**
 * The command line. `onExitCode` is told the exit code of the command that ran.
 *
 * @throws CommanderError for help, version and usage errors, after commander has printed them.
 */
export function createProgram(terminal: Terminal, onExitCode: (code: number) => void): Command {
  const program = new Command('bn-audit')
    .description('Finds frozen backbones whose BatchNorm running statistics drifted.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .option('--debug', 'print stack traces of errors')
    .exitOverride()
    .configureOutput({
      writeOut: terminal.write,
      writeErr: (text) => terminal.writeError(text.trimEnd().replace(/^error: /, 'bn-audit: ')),
    })
    .showHelpAfterError('  Run bn-audit --help for the commands and their options.')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit diff before.safetensors after.safetensors
  bn-audit diff before.pt exported.onnx --frozen backbone
  bn-audit inspect model.onnx
${EXIT_CODE_HELP}`,
    );
  program.addCommand(createDiff(terminal, onExitCode));
  program.addCommand(createInspect(terminal, onExitCode));
  for (const command of program.commands) command.copyInheritedSettings(program).exitOverride();
  return program;
}

function createDiff(terminal: Terminal, onExitCode: (code: number) => void): Command {
  return addCommonOptions(new Command('diff'))
    .description('Audit: did the statistics of frozen norm layers move between two checkpoints?')
    .argument('<before>', 'checkpoint from before the freeze')
    .argument('<after>', 'checkpoint from after the fine-tune')
    .option(
      '--frozen <glob>',
      'modules that must be frozen, statistics and weights (repeatable)',
      collect,
      [],
    )
    .option(
      '--allow <glob>',
      'accept drift in these layers; it is shown as allowed (repeatable)',
      collect,
      [],
    )
    .option('--min-shift <x>', 'ignore drift whose output shift is under x', parseNonNegative)
    .option(
      '--map <from=to>',
      'names of before that start with FROM start with TO in after (repeatable)',
      collectMap,
      [],
    )
    .option('--layer <name>', 'show one layer, channel by channel')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit diff before.safetensors after.safetensors
  bn-audit diff base.onnx tuned.onnx --frozen 'backbone' --allow 'backbone.layer4.**'
  bn-audit diff base.pt tuned.pt --layer backbone.layer4.2.bn3
  bn-audit diff base.safetensors tuned.safetensors --format json --output audit.json
${EXIT_CODE_HELP}`,
    )
    .action(async (before: string, after: string, options: DiffOptions) => {
      onExitCode(await runDiff(before, after, options, terminal));
    });
}

function createInspect(terminal: Terminal, onExitCode: (code: number) => void): Command {
  return addCommonOptions(new Command('inspect'))
    .description('List every norm layer of one checkpoint, and what is wrong with its statistics.')
    .argument('<checkpoint>', 'ONNX, safetensors or PyTorch checkpoint')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit inspect model.onnx
  bn-audit inspect model.safetensors --format json --channels
${EXIT_CODE_HELP}`,
    )
    .action(async (path: string, options: CommonOptions) => {
      onExitCode(await runInspect(path, options, terminal));
    });
}

function addCommonOptions(command: Command): Command {
  return command
    .addOption(
      new Option('-f, --format <format>', 'how to print the report').choices(REPORT_FORMATS).default('text'),
    )
    .option('-o, --output <file>', 'write the report to a file instead of standard output')
    .option('--all', 'show every layer, not the worst alone')
    .option('--channels', 'add the statistics of every channel to the JSON')
    .option('--epsilon <e>', "epsilon of every norm layer, instead of the graph's or 1e-5", parseNonNegative)
    .addOption(
      new Option('--fail-on <level>', 'the lowest level of finding that exits with 1')
        .choices(['error', 'warning'])
        .default('error'),
    )
    .option('--select <path>', 'the part of a nested PyTorch checkpoint to read, such as state_dict')
    .option('--allow-external-symlinks', "follow symbolic links out of a checkpoint's directory")
    .option('-q, --quiet', 'print no report; the exit code tells')
    .option('--debug', 'print stack traces of errors')
    .showHelpAfterError(`  Run bn-audit ${command.name()} --help for its options.`);
}

async function runDiff(
  before: string,
  after: string,
  options: DiffOptions,
  terminal: Terminal,
): Promise<number> {
  const report = await audit(before, after, {
    ...options,
    channels: options.channels === true || options.layer !== undefined,
    onProgress: options.quiet === true ? undefined : terminal.showProgress,
  });
  terminal.finishProgress();
  if (options.layer !== undefined && !report.layers.some(({ name }) => name === options.layer)) {
    throw new UsageError(
      `--layer ${JSON.stringify(options.layer)}: no such norm layer in both checkpoints`,
      'Names are those of before; bn-audit diff … --all lists them.',
    );
  }
  if (options.quiet !== true || options.output !== undefined) emit(report, options, terminal);
  return getExitCode(report.findings, options.failOn);
}

async function runInspect(path: string, options: CommonOptions, terminal: Terminal): Promise<number> {
  const report = await inspect(path, options);
  if (options.quiet !== true || options.output !== undefined) emit(report, options, terminal);
  return getExitCode(report.findings, options.failOn);
}

type Report = Parameters<typeof render>[0] & {
  readonly findings: readonly { readonly level: FindingLevel }[];
};

/** Renders a report and writes it where the user wants it: colour and width only for the terminal. */
function emit(
  report: Report,
  options: CommonOptions & { readonly layer?: string },
  terminal: Terminal,
): void {
  const { format, output, all, layer } = options;
  if (output === undefined) {
    terminal.write(render(report, { format, all, layer, width: terminal.width, paint: terminal.paint }));
    return;
  }
  writeReportFile(output, render(report, { format, all, layer }));
}

function collect(value: string, previous: readonly string[]): readonly string[] {
  return [...previous, value];
}

function collectMap(value: string, previous: readonly PrefixEdit[]): readonly PrefixEdit[] {
  const [from, to, ...rest] = value.split('=');
  if (from === undefined || to === undefined || rest.length > 0)
    throw new InvalidArgumentError('It must be FROM=TO.');
  const trim = (prefix: string) => prefix.replace(/\.$/, '');
  return [...previous, { from: trim(from), to: trim(to) }];
}

function parseNonNegative(value: string): number {
  const number = Number(value);
  if (value.trim() === '' || !Number.isFinite(number) || number < 0) {
    throw new InvalidArgumentError('It must be a number, zero or larger.');
  }
  return number;
}
