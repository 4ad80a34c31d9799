// `bn-audit probe`.

import type { Command } from 'commander';
import { quote } from '../errors.js';
import { pickOptions } from '../options.js';
import { type ProbeOptions, probe } from '../probe/probe.js';
import { PROBE_FORMATS, type ProbeFormat, renderProbe } from '../probe/probe-report.js';
import { createCommand } from './options.js';
import type { Terminal } from './terminal.js';
import { planReports, writeReport } from './write-reports.js';

interface ProbeCommandOptions extends ProbeOptions {
  /** False with `--no-ablation`. */
  readonly ablation: boolean;
  readonly format: ProbeFormat;
  readonly output?: string;
  readonly all?: boolean;
}

/** `bn-audit probe BEFORE AFTER`. It makes no verdict: the exit code is 0 when it could be done. */
export function createProbe(terminal: Terminal): Command {
  return createCommand('probe', PROBE_FORMATS)
    .description('Run after with the statistics of before put back: what does the drift do to real outputs?')
    .argument('<before>', 'checkpoint from before the freeze, of any format')
    .argument('<after>', 'ONNX model from after the fine-tune')
    .addHelpText(
      'after',
      `
Needs onnxruntime-node beside bn-audit. Memory: one session of the model at a
time, and the outputs of its norm layers for the samples that run at once
(--batch), up to three times.

Examples:
  bn-audit probe base.safetensors tuned.onnx --input samples.npy
  bn-audit probe base.onnx tuned.onnx -i image=images.npy -i mask=masks.npy
  bn-audit probe base.pt tuned.onnx --samples 16 --shape input=1,3,224,224

Exit codes:
  0  done, whatever it found: a probe makes no verdict
  2  it could not be done: usage, an unreadable file, a model or inputs that do
     not run`,
    )
    .action(async (before: string, after: string, options: ProbeCommandOptions) => {
      const { inputs = [], ablation, format, output, all } = options;
      const { guard } = planReports(options, [], [before, after, ...inputs.flatMap(listPaths)]);
      const report = await probe(before, after, {
        ...pickOptions('probe', options),
        ablations: ablation ? options.ablations : 0,
        onOpenFile: guard.onOpenFile,
        onProgress: terminal.showRuns,
      });
      terminal.finishProgress();
      guard.refuseHarm();
      if (output !== undefined) {
        await writeReport({ file: output, format }, [renderProbe(report, { format, all })]);
        terminal.writeError(`bn-audit: wrote ${quote(output)} (${format})`);
      } else await terminal.write(renderProbe(report, { format, all, ...terminal.readLooks() }));
    });
}

/** The paths that an input may mean: `FILE` or `NAME=FILE`, where either may hold an equals sign. */
function listPaths(input: string): readonly string[] {
  const parts = input.split('=');
  return parts.map((_, index) => parts.slice(index).join('='));
}
