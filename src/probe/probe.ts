// Runs before and after on the same inputs and compares the outputs: `bn-audit probe`.

import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Framework, OpenOptions } from '../checkpoint/checkpoint.js';
import { type LayerComparison, logStdRatioOf, measuresOf } from '../compare/compare-layers.js';
import { matchLayers } from '../compare/globs.js';
import { refuseWithoutPairs } from '../compare/unpaired-layers.js';
import { type AuditOptions, type AuditResults, compareCheckpoints } from '../compare-checkpoints.js';
import { fail, UsageError } from '../errors.js';
import { editModel, type GraphEdit, newGraphEdit } from '../formats/onnx/edit-graph.js';
import { isOnnxCheckpoint, type OnnxCheckpoint, openOnnx } from '../formats/onnx/onnx.js';
import { withCheckpoints } from '../formats/with-checkpoint.js';
import { fileNameOf } from '../io/byte-source.js';
import { openFileSource } from '../io/file-source.js';
import { stageFiles, temporaryName } from '../io/write-files.js';
import { findLayersAndLearned } from '../norm/find-layers.js';
import { findFramework } from '../norm/norm-layer.js';
import { checkOptions } from '../options.js';
import { buildReport } from '../report/audit-report.js';
import { countsSamplesFirst, drawInputs, InputFiles, type InputShape, listInputs } from './inputs.js';
import { buildProbeReport, type ProbeReport } from './probe-report.js';
import { type LayerPlan, type ProbePlan, planProbe } from './put-back.js';
import { runProbe } from './run.js';
import {
  findExternalTensors,
  type ImportRuntime,
  loadRuntime,
  type OnnxRuntime,
  openSession,
  type RuntimeSession,
  runSession,
  toFeeds,
} from './runtime.js';

/** What a probe is told beside the two checkpoints. */
export interface ProbeOptions extends OpenOptions, Pick<AuditOptions, 'map' | 'onProgress'> {
  /** .npy and .npz files, each as `FILE` or `NAME=FILE`; without any, random samples are drawn. */
  readonly inputs?: readonly string[] | undefined;
  /** How many random samples to draw; 8 unless given. */
  readonly samples?: number | undefined;
  /** A whole number that the random samples follow from; 0 unless given. */
  readonly seed?: number | undefined;
  /** Shapes of random inputs, for dimensions that the model leaves open. */
  readonly shapes?: readonly InputShape[] | undefined;
  /** Samples that run at once, where the model leaves it open. */
  readonly batch?: number | undefined;
  /** Globs over module paths: the layers to put back, instead of those that drifted or became invalid. */
  readonly layers?: readonly string[] | undefined;
  /** How many layers are put back alone as well, those with the largest predicted shift; all unless given. */
  readonly ablations?: number | undefined;
  /** Epsilon of every layer, where folding needs it and neither file tells. */
  readonly epsilon?: number | undefined;
  /** Imports onnxruntime-node; by default as bn-audit itself resolves it. */
  readonly importRuntime?: ImportRuntime | undefined;
}

const DEFAULT_SAMPLES = 8;

/** How models of PyTorch become ONNX, and whatever else a model may be. */
const EXPORT_TORCH = 'torch.onnx.export(model, sample, "after.onnx")';

/** How those of other frameworks do. */
const EXPORTS: ReadonlyMap<Framework | null, string> = new Map([
  ['keras', 'model.export("after.onnx", format="onnx") (Keras 3), or python -m tf2onnx.convert'],
  ['flax', 'jax2onnx, or jax2tf and tf2onnx'],
  ['paddle', 'paddle.onnx.export(model, "after", input_spec=[…])'],
  ['mxnet', 'mxnet.onnx.export_model(symbol, params, [shape], onnx_file_path="after.onnx")'],
  ['darknet', `build the network of the .cfg in PyTorch, and ${EXPORT_TORCH}`],
]);

/**
 * Runs after, and after with before's statistics put back in memory, on the same inputs through onnxruntime-node, and
 * measures what the drift of the statistics does to the outputs.
 *
 * @param beforePath any checkpoint that an audit takes.
 * @param afterPath an ONNX model.
 * @throws CheckpointError when a file cannot be read or the model cannot be run.
 * @throws UsageError when onnxruntime-node is missing, or inputs and model do not fit.
 */
export async function probe(
  beforePath: string,
  afterPath: string,
  options: ProbeOptions = {},
): Promise<ProbeReport> {
  checkOptions('probe', options);
  refuseBothInputs(options);
  return withCheckpoints([beforePath, afterPath], options, async (before, after) => {
    if (!isOnnxCheckpoint(after))
      fail(after.path, `expected an ONNX model to run, found a ${after.format} checkpoint`, 'unsupported', {
        hint: `Export after to ONNX: ${EXPORTS.get(findFramework(after, findLayersAndLearned(after).layers)) ?? EXPORT_TORCH}. Before may stay what it is.`,
      });
    // Only now: whoever lacks both needs a model first, and the runtime is large.
    const runtime = await loadRuntime(options.importRuntime);
    const { epsilon, map } = options;
    return withLocal(after, options, async (model) => {
      const compared = await compareCheckpoints(before, model, { epsilon, map, channels: true });
      refuseWithoutPairs(compared.layers, after);
      return await probeComparison(runtime, model, compared, options);
    });
  });
}

/**
 * Has a model of the network on this machine while some work goes on: it is read several times, and ONNX Runtime takes
 * what lies beside a model from files only.
 */
async function withLocal<Result>(
  model: OnnxCheckpoint,
  options: OpenOptions,
  work: (local: OnnxCheckpoint) => Promise<Result>,
): Promise<Result> {
  const { file, path, warnings } = model;
  if (file.remotePath === undefined) return work(model);
  const copies = new Map(model.externalFiles());
  // Where its data lie in the model itself, it keeps its name; else an address need not end in what could be one.
  const mainName = copies.delete(fileNameOf(file)) ? fileNameOf(file) : temporaryName('model');
  const order = {
    directory: join(tmpdir(), 'bn-audit'),
    isNewDirectory: true,
    label: 'probe',
    files: [...copies, [mainName, file] as const].map(([name, source]) => ({ name, source, splices: [] })),
    mayReplace: false,
    isPrivate: true,
  };
  const staged = await stageFiles(order, { what: 'a copy of the model among the temporary files (TMPDIR)' });
  try {
    const local = await openOnnx(openFileSource(file.name, staged.mainPath), { ...options, path });
    try {
      return await work({ ...local, warnings });
    } finally {
      await local.close();
    }
  } finally {
    staged.discard();
  }
}

async function probeComparison(
  runtime: OnnxRuntime,
  after: OnnxCheckpoint,
  compared: AuditResults,
  options: ProbeOptions,
): Promise<ProbeReport> {
  const { layers: globs = [] } = options;
  const isPutBack =
    globs.length > 0
      ? matchLayers(compared.layers, globs)
      : ({ status }: LayerComparison) => status === 'drifted' || status === 'invalid';
  const plan = await planProbe(after, compared, isPutBack);
  const bench: Bench = { runtime, after, external: await findExternalTensors(after) };
  const files = new InputFiles();
  try {
    const { inputs, outputs, unfetched, plain } = await runPlain(bench, plan, files, options);
    const results = await withSession(bench, plan.edit, (session) =>
      runProbe({
        runtime,
        session,
        file: after.path,
        inputs,
        layers: plan.layers,
        outputs,
        ablated: chooseAblated(plan, options.ablations),
        plain,
        onProgress: options.onProgress,
      }),
    );
    return buildProbeReport({
      audit: buildReport(compared),
      runtimeVersion: runtime.env.versions.node ?? 'unknown',
      inputs,
      ...results,
      unfetched,
    });
  } finally {
    await files.close();
  }
}

interface Bench {
  readonly runtime: OnnxRuntime;
  readonly after: OnnxCheckpoint;
  readonly external: object;
}

/** Loads after with an edit, and releases it when the work is done: one session exists at a time. */
async function withSession<Result>(
  { runtime, after, external }: Bench,
  edit: GraphEdit,
  work: (session: RuntimeSession) => Promise<Result>,
): Promise<Result> {
  const model = await editModel(after.file, edit);
  const session = await openSession(runtime, after.path, model, external);
  try {
    return await work(session);
  } finally {
    await session.release();
  }
}

/** After as it stands: what it takes, what it gives, and its outputs for the first run. */
async function runPlain(bench: Bench, plan: ProbePlan, files: InputFiles, options: ProbeOptions) {
  const { runtime, after } = bench;
  return await withSession(bench, newGraphEdit(plan.edit.graph), async (session) => {
    const wanted = listInputs(session);
    const { batch, inputs: paths = [], samples = DEFAULT_SAMPLES, seed = 0, shapes = [] } = options;
    const inputs =
      paths.length > 0
        ? await files.open(paths, wanted, { batch, isBatched: countsSamplesFirst(wanted, session) })
        : drawInputs(wanted, { samples, seed, shapes, batch });
    const namesOf = (isTensor: boolean) =>
      session.outputMetadata.filter((output) => output.isTensor === isTensor).map(({ name }) => name);
    const [outputs, unfetched] = [namesOf(true), namesOf(false)];
    const feeds = toFeeds(runtime, await inputs.read(0));
    return { inputs, outputs, unfetched, plain: await runSession(session, after.path, feeds, outputs) };
  });
}

/** Layers that are put back alone as well: those whose statistics predict the largest shift. */
function chooseAblated({ layers }: ProbePlan, limit: number | undefined): ReadonlySet<LayerPlan> {
  const putBack = layers.filter(({ fed }) => fed !== null);
  if (limit === undefined || limit >= putBack.length) return new Set(putBack);
  const shiftOf = ({ comparison }: LayerPlan) =>
    measuresOf(comparison)?.outputShift ?? logStdRatioOf(comparison)?.rms ?? 0;
  const chosen = new Set([...putBack].sort((x, y) => shiftOf(y) - shiftOf(x)).slice(0, limit));
  return new Set(putBack.filter((layer) => chosen.has(layer)));
}

function refuseBothInputs({ inputs, samples, seed, shapes }: ProbeOptions): void {
  const isDrawn = samples !== undefined || seed !== undefined || (shapes ?? []).length > 0;
  if (isDrawn && (inputs ?? []).length > 0)
    throw new UsageError(
      'input files leave nothing to draw',
      'Take either --input, or --samples, --seed and --shape.',
    );
}
