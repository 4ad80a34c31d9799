// `bn-audit restore`.

import type { Command } from 'commander';
import { pickOptions } from '../options.js';
import { toJson } from '../report/json.js';
import { type RestoreOptions, restore } from '../restore/restore.js';
import { renderRestoreText } from '../restore/restore-report.js';
import { createCommand } from './options.js';
import type { Terminal } from './terminal.js';
import { guardInputs } from './write-reports.js';

interface RestoreCommandOptions extends RestoreOptions {
  readonly output?: string;
  readonly format: (typeof RESTORE_FORMATS)[number];
  readonly all?: boolean;
  readonly quiet?: boolean;
}

const RESTORE_FORMATS = ['text', 'json'] as const;

/** `bn-audit restore BEFORE AFTER -o FIXED`. */
export function createRestore(terminal: Terminal): Command {
  return createCommand('restore', RESTORE_FORMATS)
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
    .action(async (before: string, after: string, options: RestoreCommandOptions) => {
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
      const looks = terminal.readLooks();
      await terminal.write(format === 'json' ? toJson(report) : renderRestoreText(report, { ...looks, all }));
    });
}
