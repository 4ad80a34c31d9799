// `bn-audit probe`.

import { Command, InvalidArgumentError, Option } from 'commander';
import type { PrefixEdit } from '../compare/pair-layers.js';
import type { InputShape } from '../probe/inputs.js';
import { probe } from '../probe/probe.js';
import { type ProbeFormat, renderProbe } from '../probe/render.js';
import { listFormats } from '../report/formats.js';
import { writeReport } from './guard-outputs.js';
import { collect, collectMap, parseFileName, parseNonNegative } from './options.js';
import type { Terminal } from './terminal.js';
import { guardReports } from './write-reports.js';

/** What commander gives for a probe. */
interface ProbeArguments {
  readonly input?: readonly string[];
  readonly samples?: number;
  readonly seed?: number;
  readonly shape?: readonly InputShape[];
  readonly batch?: number;
  readonly layer?: readonly string[];
  readonly layers?: number;
  /** False with `--no-ablation`. */
  readonly ablation: boolean;
  readonly map?: readonly PrefixEdit[];
  readonly epsilon?: number;
  readonly select?: string;
  readonly allowExternalSymlinks?: boolean;
  readonly format: ProbeFormat;
  readonly output?: string;
  readonly all?: boolean;
}

/** `bn-audit probe BEFORE AFTER`. It makes no verdict: the exit code is 0 when it could be done. */
export function createProbe(terminal: Terminal, onExitCode: (code: number) => void): Command {
  return new Command('probe')
    .description('Run after with the statistics of before put back: what does the drift do to real outputs?')
    .argument('<before>', 'checkpoint from before the freeze, of any format')
    .argument('<after>', 'ONNX model from after the fine-tune')
    .option(
      '-i, --input <file>',
      'input arrays: .npz by their names, .npy by NAME=FILE or in order (repeatable)',
      collect,
    )
    .option('--samples <n>', 'without --input, how many random samples to draw (8)', parseWhole)
    .option('--seed <n>', 'the seed that random samples follow from (0)', parseWhole)
    .option(
      '--shape <name=dims>',
      'shape of a random input, such as NAME=1,3,224,224, for dimensions that the model leaves open (repeatable)',
      collectShape,
    )
    .option('--batch <n>', 'samples that run at once, where the model leaves it open (4)', parseWhole)
    .option(
      '--layer <glob>',
      'put these layers back, instead of those that drifted or hold NaN (repeatable)',
      collect,
    )
    .option('--layers <n>', 'put only so many layers back alone, those with the largest shift', parseWhole)
    .option('--no-ablation', 'put no layer back alone: much quicker')
    .option(
      '--map <from=to>',
      'names of before that start with FROM start with TO in after (repeatable)',
      collectMap,
    )
    .option('--epsilon <e>', 'epsilon of every norm layer, where neither file tells', parseNonNegative)
    .option('--select <path>', 'the part of a nested PyTorch checkpoint to read, such as state_dict')
    .option('--allow-external-symlinks', "follow symbolic links out of a checkpoint's directory")
    .addOption(
      new Option('-f, --format <format>', 'how to print the report')
        .choices(listFormats('probe'))
        .default('text'),
    )
    .option('-o, --output <file>', 'write the report to a file instead of standard output', parseFileName)
    .option('--all', 'show every layer and note')
    .option('--debug', 'print stack traces of errors')
    .showHelpAfterError('  Run bn-audit probe --help for its options.')
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
    .action(async (before: string, after: string, options: ProbeArguments) => {
      await runProbeCommand(before, after, options, terminal);
      onExitCode(0);
    });
}

async function runProbeCommand(
  before: string,
  after: string,
  options: ProbeArguments,
  terminal: Terminal,
): Promise<void> {
  const { input, samples, seed, shape, batch, layer, ablation, layers, format, output, all } = options;
  const { map, epsilon, select, allowExternalSymlinks } = options;
  const guard = guardReports({ files: [], output, format }, [
    before,
    after,
    ...(input ?? []).flatMap(listPaths),
  ]);
  const report = await probe(before, after, {
    inputs: input,
    samples,
    seed,
    shapes: shape,
    batch,
    layers: layer,
    ablations: ablation ? layers : 0,
    map,
    epsilon,
    select,
    allowExternalSymlinks,
    onOpenFile: guard.onOpenFile,
    onProgress: terminal.showRuns,
  });
  terminal.finishProgress();
  guard.refuseHarm();
  if (output !== undefined)
    await writeReport({ file: output, format }, [renderProbe(report, { format, all })]);
  else terminal.write(renderProbe(report, { format, all, ...(await terminal.readLooks()) }));
}

/** The paths that an input may mean: `FILE` or `NAME=FILE`, where either may hold an equals sign. */
function listPaths(input: string): readonly string[] {
  const parts = input.split('=');
  return parts.map((_, index) => parts.slice(index).join('='));
}

function parseWhole(value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(value);
}

/** `NAME=1,3,224,224`, or the sizes alone where the model has one input. Names may hold an equals sign. */
function collectShape(value: string, previous: readonly InputShape[] = []): readonly InputShape[] {
  const [, name, sizes] = /^(?:(.+)=)?([\d,\s]*)$/s.exec(value) ?? [];
  const dims = sizes === undefined || sizes.trim() === '' ? [] : sizes.split(',').map((size) => size.trim());
  if (sizes === undefined || !dims.every((size) => /^[1-9]\d{0,8}$/.test(size))) {
    throw new InvalidArgumentError('It must be NAME=SIZES, such as input=1,3,224,224.');
  }
  return [...previous, { name: name ?? null, dims: dims.map(Number) }];
}
