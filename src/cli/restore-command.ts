// `bn-audit restore`.

import { Command, Option } from 'commander';
import type { PrefixEdit } from '../compare/pair-layers.js';
import { listFormats, type ReportFormat } from '../report/formats.js';
import { toJson } from '../report/json.js';
import { restore } from '../restore/restore.js';
import { renderRestoreText } from '../restore/restore-report.js';
import { guardInputs } from './guard-outputs.js';
import { collect, collectMap, parseFileName, parseNonNegative } from './options.js';
import type { Terminal } from './terminal.js';

/** The exit code of every run that did what it was asked. */
const RESTORED = 0;

interface RestoreCommandOptions {
  readonly output?: string;
  readonly layer?: readonly string[];
  readonly keepBatches?: boolean;
  readonly dataName?: string;
  readonly force?: boolean;
  readonly dryRun?: boolean;
  readonly map?: readonly PrefixEdit[];
  readonly epsilon?: number;
  readonly select?: string;
  readonly allowExternalSymlinks?: boolean;
  readonly format: ReportFormat<'restore'>;
  readonly all?: boolean;
  readonly quiet?: boolean;
}

/** `bn-audit restore BEFORE AFTER -o FIXED`. `onExitCode` is told the exit code. */
export function createRestore(terminal: Terminal, onExitCode: (code: number) => void): Command {
  return new Command('restore')
    .description('Write after with the statistics of before in every norm layer that drifted.')
    .argument('<before>', 'checkpoint or baseline from before the freeze')
    .argument('<after>', 'checkpoint from after the fine-tune, which is left as it is')
    .option('-o, --output <fixed>', 'the checkpoint to write', parseFileName)
    .option('--layer <glob>', 'restore these layers instead of those that drifted (repeatable)', collect)
    .option('--keep-batches', 'leave the batch counts (num_batches_tracked) of after')
    .option('--data-name <name>', 'file name of the external data of the restored ONNX model')
    .option('--force', 'replace files that exist')
    .option('--dry-run', 'say what would change, layer by layer, and write nothing')
    .option(
      '--map <from=to>',
      'names of before that start with FROM start with TO in after (repeatable)',
      collectMap,
    )
    .option('--epsilon <e>', "epsilon of every norm layer, instead of the graph's or 1e-5", parseNonNegative)
    .option('--select <path>', 'the part of a nested PyTorch checkpoint, such as state_dict')
    .option('--allow-external-symlinks', "follow symbolic links out of a checkpoint's directory")
    .addOption(
      new Option('-f, --format <format>', 'how to print what was done')
        .choices(listFormats('restore'))
        .default('text'),
    )
    .option('--all', 'show every layer')
    .option('-q, --quiet', 'print nothing; the exit code tells')
    .option('--debug', 'print stack traces of errors')
    .showHelpAfterError('  Run bn-audit restore --help for its options.')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit restore base.pt tuned.pt -o fixed.pt
  bn-audit restore base.safetensors tuned.onnx -o fixed.onnx --dry-run
  bn-audit restore base.pt tuned.pt -o fixed.pt --layer 'backbone.layer4'

Exit codes:
  0  restored, or nothing had to be (then no file is written), or a dry run
  2  it could not be done; no file was changed`,
    )
    .action(async (before: string, after: string, options: RestoreCommandOptions) => {
      await runRestore(before, after, options, terminal);
      onExitCode(RESTORED);
    });
}

async function runRestore(
  before: string,
  after: string,
  options: RestoreCommandOptions,
  terminal: Terminal,
): Promise<void> {
  const { output = null, layer: layers, format, all, quiet } = options;
  const { keepBatches, dataName, force, dryRun, map, epsilon, select, allowExternalSymlinks } = options;
  // What it writes it guards itself; this is for the job's summary.
  const { onOpenFile } = guardInputs([], [before, after]);
  const report = await restore(before, after, output, {
    layers,
    keepBatches,
    dataName,
    force,
    dryRun,
    map,
    epsilon,
    select,
    allowExternalSymlinks,
    onOpenFile,
    onProgress: quiet === true ? undefined : terminal.showProgress,
  });
  terminal.finishProgress();
  if (quiet === true) return;
  terminal.write(
    format === 'json' ? toJson(report) : renderRestoreText(report, { ...(await terminal.readLooks()), all }),
  );
}
