// `bn-audit baseline`.

import type { Command } from 'commander';
import type { OpenOptions } from '../checkpoint/checkpoint.js';
import { quote } from '../errors.js';
import { type Baseline, createBaseline } from '../formats/baseline/make-baseline.js';
import { withCheckpoint } from '../formats/with-checkpoint.js';
import { nameOf } from '../io/places.js';
import { writeFile } from '../io/write-files.js';
import { checkTarget } from '../io/write-target.js';
import { formatCount, formatPlural } from '../report/format-numbers.js';
import { defuseCommands } from '../report/text-layout.js';
import { createCommand } from './options.js';
import type { Terminal } from './terminal.js';
import { guardInputs } from './write-reports.js';

interface BaselineCommandOptions extends OpenOptions {
  readonly output: string;
  readonly force?: boolean;
  readonly quiet?: boolean;
}

/** `bn-audit baseline CHECKPOINT -o FILE`: writes a small file that stands for the checkpoint in later audits. */
export function createBaselineCommand(terminal: Terminal): Command {
  return createCommand('baseline')
    .description('Write a small file that stands in for a checkpoint: keep it, and the checkpoint can go.')
    .argument('<checkpoint>', 'a checkpoint of any format that is read from before the freeze')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit baseline backbone.pt -o backbone.bn.safetensors
  bn-audit diff backbone.bn.safetensors tuned.onnx

Exit codes:
  0  the baseline was written
  2  it was not: usage, an unreadable checkpoint, no norm layer, a file that must stay`,
    )
    .action(async (path: string, options: BaselineCommandOptions) => {
      const { output, force, quiet } = options;
      const guard = guardInputs([output], [path]);
      const rules = { mayReplace: force === true, isDurable: true };
      checkTarget(output, rules);
      await withCheckpoint(path, { ...options, onOpenFile: guard.onOpenFile }, async (checkpoint) => {
        const baseline = await createBaseline(checkpoint, {
          onProgress: quiet === true ? undefined : terminal.showProgress,
        });
        terminal.finishProgress();
        guard.refuseHarm();
        await writeFile(output, [baseline.bytes], rules);
        if (quiet !== true) terminal.writeError(defuseCommands(describe(baseline, path, output)));
      });
    });
}

function describe({ bytes, layers, learned, projected }: Baseline, source: string, output: string): string {
  return [
    `bn-audit: wrote ${quote(output)} (${formatCount(bytes.byteLength)} bytes)`,
    `  ${formatPlural(layers, 'norm layer')}, the hashes of ${formatPlural(learned, 'learned tensor')}, projections of ${formatPlural(projected, 'weight')}`,
    `  It stands in for ${quote(nameOf(source))}: bn-audit diff ${quote(output)} AFTER`,
  ].join('\n');
}
