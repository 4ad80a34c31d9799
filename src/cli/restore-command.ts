// `bn-audit restore`.

import type { Command } from 'commander';
import { pickOptions } from '../options.js';
import { listFormats, type ReportFormat } from '../report/formats.js';
import { toJson } from '../report/json.js';
import { type RestoreOptions, restore } from '../restore/restore.js';
import { renderRestoreText } from '../restore/restore-report.js';
import { guardInputs } from './guard-outputs.js';
import { createCommand } from './options.js';
import type { Terminal } from './terminal.js';

interface RestoreCommandOptions extends RestoreOptions {
  readonly output?: string;
  readonly format: ReportFormat<'restore'>;
  readonly all?: boolean;
  readonly quiet?: boolean;
}

/** `bn-audit restore BEFORE AFTER -o FIXED`. */
export function createRestore(terminal: Terminal): Command {
  return createCommand('restore', listFormats('restore'))
    .description('Write after with the statistics of before in every norm layer that drifted.')
    .argument('<before>', 'checkpoint or baseline from before the freeze')
    .argument('<after>', 'checkpoint from after the fine-tune, which is left as it is')
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
    .action((before: string, after: string, options: RestoreCommandOptions) =>
      runRestore(before, after, options, terminal),
    );
}

async function runRestore(
  before: string,
  after: string,
  options: RestoreCommandOptions,
  terminal: Terminal,
): Promise<void> {
  const { output = null, format, all, quiet } = options;
  // What it writes it guards itself; this is for the job's summary.
  const { onOpenFile } = guardInputs([], [before, after]);
  const report = await restore(before, after, output, {
    ...pickOptions('restore', options),
    onOpenFile,
    onProgress: quiet === true ? undefined : terminal.showProgress,
  });
  terminal.finishProgress();
  if (quiet === true) return;
  await terminal.write(
    format === 'json' ? toJson(report) : renderRestoreText(report, { ...terminal.readLooks(), all }),
  );
}
