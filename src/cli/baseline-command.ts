import { Command } from 'commander';
import { type OpenOptions, openCheckpoint } from '../checkpoint/open.js';
import { escapeControls } from '../errors.js';
import { formatCount, formatPlural } from '../report/format-numbers.js';
import { chooseBaselineTarget, writeBaselineFile } from './baseline-file.js';
import type { Terminal } from './terminal.js';

interface BaselineCommandOptions extends OpenOptions {
  readonly output: string;
  readonly force?: boolean;
  readonly quiet?: boolean;
}

/** `bn-audit baseline CHECKPOINT -o FILE`: writes a small file that stands for the checkpoint in later audits. */
export function createBaselineCommand(terminal: Terminal): Command {
  return new Command('baseline')
    .description('Write a small file that stands in for a checkpoint: keep it, and the checkpoint can go.')
    .argument('<checkpoint>', 'ONNX, safetensors or PyTorch checkpoint from before the freeze')
    .requiredOption('-o, --output <file>', 'where to write the baseline')
    .option('--force', 'replace the file if there is one')
    .option('--select <path>', 'the part of a nested PyTorch checkpoint to read, such as state_dict')
    .option('--allow-external-symlinks', "follow symbolic links out of a checkpoint's directory")
    .option('-q, --quiet', 'print nothing; the exit code tells')
    .option('--debug', 'print stack traces of errors')
    .showHelpAfterError('  Run bn-audit baseline --help for its options.')
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
    .action((path: string, options: BaselineCommandOptions) => runBaseline(path, options, terminal));
}

async function runBaseline(path: string, options: BaselineCommandOptions, terminal: Terminal): Promise<void> {
  const { output, force, quiet } = options;
  const target = await chooseBaselineTarget(output, { source: path, mayReplace: force === true });
  const checkpoint = await openCheckpoint(path, options);
  try {
    const { createBaseline } = await import('../baseline.js');
    const baseline = await createBaseline(checkpoint, {
      onProgress: quiet === true ? undefined : terminal.showProgress,
    });
    terminal.finishProgress();
    writeBaselineFile(target, baseline.bytes);
    if (quiet === true) return;
    const found = [
      formatPlural(baseline.layers, 'norm layer'),
      `the hashes of ${formatPlural(baseline.learned, 'learned tensor')}`,
      `projections of ${formatPlural(baseline.projected, 'weight')}`,
    ].join(', ');
    terminal.writeError(
      escapeControls(`${output}: ${found} in ${formatCount(baseline.bytes.byteLength)} bytes`),
    );
  } finally {
    await checkpoint.close();
  }
}
