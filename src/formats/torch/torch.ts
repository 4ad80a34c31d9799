// Reads PyTorch checkpoints of every container: which object in them is the state dict, and its tensors.

import type {
  Checkpoint,
  EditPlan,
  Framework,
  ModuleFacts,
  ReadOptions,
  Tensor,
  TensorEdit,
} from '../../checkpoint/checkpoint.js';
import { isFloatingPoint } from '../../checkpoint/dtype.js';
import {
  placeEdits,
  planOneFile,
  planPlainEdits,
  refuseEdits,
  refuseOtherSources,
} from '../../checkpoint/edit-plan.js';
import { findProgress } from '../../checkpoint/training-progress.js';
import { CheckpointError, fail, quote } from '../../errors.js';
import { type ByteSource, enclosingRange } from '../../io/byte-source.js';
import { Keeper } from '../../io/views.js';
import { isInflated } from '../../io/zip.js';
import { addTo, listFirst } from '../../norm/naming.js';
import { asContainer, asModule, childrenOf, SAVE_LISTS, Surveyor } from './objects.js';
import { openLegacyContainer, openTarContainer } from './older-containers.js';
import { type Entries, entriesOf, type ObjectNode, type PickleValue } from './pickle-values.js';
import { isZip, JOIN_ZERO, looksLikeTar, TORCH_HEAD_BYTES } from './sniff.js';
import {
  type ChosenParts,
  chooseStateDict,
  isCopy,
  type NamedParts,
  type NamedTensor,
  nameTensors,
} from './state-dict.js';
import { asTensorCall, buildTensor, readLayout, type TensorLayout, type TorchContainer } from './tensors.js';
import { findOptimizers, readTrainingSettings } from './training-settings.js';
import { openZipContainer } from './zip-container.js';

const STATISTIC = /(^|\.)(running_mean|running_var|num_batches_tracked)$/;

/** Names of one kind of left-out tensor that a warning lists. */
const MAX_LISTED = 3;

/**
 * Opens a PyTorch checkpoint of any age: zip, TorchScript, legacy, tar. Reads the directory, the pickles, and the
 * checksums of statistics; no other storage. Nothing that a pickle names is imported, called or opened.
 *
 * @throws CheckpointError `refused` when the pickle names a dangerous callable, `unsupported` for other things that
 * PyTorch writes, and as {@link chooseStateDict} and the readers of the containers do. The source stays open then.
 */
export async function openTorch(source: ByteSource, options: ReadOptions): Promise<Checkpoint> {
  return readContainer(await openContainer(source), source, options);
}

/**
 * Reads what a container holds: the state dict in it, and its tensors.
 *
 * @param source the container's own file.
 * @throws CheckpointError as {@link openTorch}.
 */
export async function readContainer(
  container: TorchContainer,
  source: ByteSource,
  { path, select }: ReadOptions,
): Promise<Checkpoint> {
  const file = source.name;
  const { root, format } = container;
  refusePartitions(root, file);
  const surveyor = new Surveyor();
  const isCopyLoaded = loadsCopy(root);
  const chosen = chooseStateDict(root, { select, isCopyLoaded, surveyor, file, format });
  const read = (parts: ChosenParts) => readParts(parts, { path, source, container, surveyor });
  const copies = chosen.copies.map(({ path: copy, of, parts }) => ({
    path: copy,
    of,
    open: () => read({ ...chosen, parts, copies: [], warnings: [] }),
  }));
  return { ...(await read(chosen)), ...(copies.length === 0 ? {} : { copies }) };
}

/**
 * ZeRO-3 keeps the parameters in files for each rank, and leaves empty tensors in the file of the model
 * (deepspeed/runtime/engine.py, `_save_zero_checkpoint`).
 *
 * @throws CheckpointError `unsupported` for such a file.
 */
function refusePartitions(root: PickleValue, file: string): void {
  const keys = entriesOf(root);
  const parameters = [...(entriesOf(keys?.get('module'))?.values() ?? [])].flatMap(
    (value) => asTensorCall(value) ?? [],
  );
  if (keys?.has('ds_version') !== true && keys?.has('param_shapes') !== true) return;
  const isEmpty = (call: ObjectNode) => {
    const layout = readLayout(call, 'module', file);
    return layout.kind === 'layout' && layout.shape.includes(0);
  };
  if (!parameters.some(isEmpty)) return;
  fail(
    file,
    'expected whole parameters, found those that ZeRO-3 of DeepSpeed has partitioned',
    'unsupported',
    { hint: `Where it lies beside zero_to_fp32.py, ${JOIN_ZERO}` },
  );
}

async function readParts(
  chosen: ChosenParts,
  opened: { path: string; source: ByteSource; container: TorchContainer; surveyor: Surveyor },
): Promise<Checkpoint> {
  const { path, source, container, surveyor } = opened;
  const file = source.name;
  const { root, format } = container;
  const named = nameTensors(chosen, surveyor, file);
  const { tensors, warnings } = await buildTensors(named, container, file);
  const optimizers = findOptimizers(root, file);
  return {
    path,
    format,
    tensors,
    inModuleOrder: named.inModuleOrder,
    graph: null,
    framework: findMarkedFramework(root),
    modules: await completeModules(named, container),
    progress: findProgress(listPlaces(root)),
    declarations: [...optimizers, ...readTrainingSettings(root)],
    warnings: [
      ...chosen.warnings,
      ...warnings,
      ...describeScript(container, tensors),
      ...describeLists(named.lists),
      ...(optimizers.length === 0 ? [] : describeCopy(root, chosen)),
    ],
    ...(chosen.parts.length > 1 ? { parts: chosen.parts.map(({ prefix }) => prefix) } : {}),
    unselected: chosen.unselected,
    planEdits: (edits) => planTorchEdits(edits, tensors, source, container),
    close: () => source.close(),
  };
}

/** Where frameworks keep the epoch and the step: at the root, mmengine in `meta`. */
function listPlaces(root: PickleValue): readonly Entries[] {
  const top = entriesOf(root);
  const nests = ['meta', 'trainer_state', 'train_state', 'trainer', 'progress', 'info'];
  return top === null ? [] : [top, ...nests.flatMap((key) => entriesOf(top.get(key)) ?? [])];
}

/** Optimizers train the model; its averaged copy has the same names. Lightning keeps the average as `state_dict`. */
function describeCopy(root: PickleValue, { parts: [first] }: ChosenParts): readonly string[] {
  const node = asContainer(root);
  const children = node === null ? [] : childrenOf(node);
  const key = children.find(({ value }) => value === first?.value)?.name ?? '';
  const isLightningAverage =
    key === 'state_dict' && children.some(({ name }) => name === 'current_model_state');
  if (!isCopy(key) && !isLightningAverage) return [];
  return [
    `${quote(key)} is an averaged copy: what the optimizer says is of the model that it trained, whose parameters have the same names`,
  ];
}

async function planTorchEdits(
  edits: readonly TensorEdit[],
  tensors: ReadonlyMap<string, Tensor>,
  source: ByteSource,
  container: TorchContainer,
): Promise<EditPlan> {
  const { planSplices } = container;
  if (container.isWithin === true) return refuseEdits(source.name, 'one within an archive');
  const isInFile = (holder: ByteSource) => holder === source || isInflated(holder);
  const text = edits.find(({ tensor }) => !isInFile(enclosingRange(tensor.range).source));
  if (text !== undefined) {
    const why =
      'cannot be restored: its array is written as text, which other values would make longer or shorter';
    fail(source.name, `tensor ${quote(text.tensor.name)} ${why}`, 'unsupported', {
      hint: 'If you trust the file, load it and save it again with pickle_protocol=4 (torch.save) or protocol=4 (pickle.dump).',
    });
  }
  if (planSplices === undefined) return planPlainEdits(edits, tensors.values(), [source]);
  const pieces = await placeEdits(edits, tensors.values());
  refuseOtherSources(pieces, new Set([source, ...[...pieces.keys()].filter(isInflated)]), edits);
  return planOneFile(source, await planSplices(pieces));
}

async function openContainer(source: ByteSource): Promise<TorchContainer> {
  const head = new Uint8Array(Math.min(TORCH_HEAD_BYTES, source.byteLength));
  await source.readInto(head, 0);
  if (isZip(head)) return openZipContainer(source);
  return looksLikeTar(head) ? openTarContainer(source) : openLegacyContainer(source);
}

/**
 * Builds every tensor that has plain elements. One without is left out with a warning, unless it belongs to a norm layer
 * or nothing else remains: then the audit cannot do without it.
 */
async function buildTensors(
  named: NamedParts,
  container: TorchContainer,
  file: string,
): Promise<Pick<Checkpoint, 'tensors' | 'warnings'>> {
  const keeper = new Keeper();
  const tensors = new Map<string, Tensor>();
  const leftOut = new Map<string, string[]>();
  for (const [name, namedTensor] of named.tensors) {
    const { call } = namedTensor;
    const read = readLayout(call, name, file);
    // NumPy has no bfloat16: PaddlePaddle writes its bits as uint16, a type that it has no tensors of.
    const isHalf = namedTensor.isPaddle === true && read.kind !== 'unreadable' && read.dtype === 'U16';
    const layout = isHalf ? { ...read, dtype: 'BF16' as const } : read;
    if (layout.kind === 'unreadable') {
      const prefix = name.slice(0, name.lastIndexOf('.') + 1);
      const isOfNormLayer = ['running_mean', 'running_var'].every((leaf) => named.tensors.has(prefix + leaf));
      if (isOfNormLayer) throw refuseTensor(name, layout.why, file);
      addTo(leftOut, layout.why, name);
      continue;
    }
    const bare = await buildTensor(name, layout, { file, storages: container.storages, call, keeper });
    tensors.set(name, { ...bare, ...describeRole(layout, namedTensor) });
    // Statistics are what the audit is about, and small: their checksums are worth reading.
    const { storage } = layout;
    if (STATISTIC.test(name) && !('range' in storage)) await container.storages.verify?.(storage, name);
  }
  const [first] = leftOut;
  if (tensors.size === 0 && first !== undefined) throw refuseTensor(first[1][0] ?? '', first[0], file);
  const warnings = [...leftOut].map(([why, names]) => describeLeftOut(why, names));
  return { tensors: isConverted(tensors) ? withoutFlags(tensors) : tensors, warnings };
}

function isConverted(tensors: ReadonlyMap<string, Tensor>): boolean {
  return [...tensors.values()].some(({ quantised }) => quantised !== undefined);
}

/** Tensors without `requires_grad`, which is false in a quantised model for whatever was trained before. */
function withoutFlags(tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  return new Map([...tensors].map(([name, { requiresGrad, ...tensor }]) => [name, tensor]));
}

function refuseTensor(name: string, why: string, file: string): CheckpointError {
  const message = `expected a plain tensor at ${quote(name)}, found one that is ${why}`;
  return new CheckpointError(message, { code: 'unsupported', file });
}

/** What a state dict cannot tell: whether the tensor is a buffer, and whether training could change it. */
function describeRole(
  layout: TensorLayout,
  { isBuffer, isScript }: NamedTensor,
): Pick<Tensor, 'isBuffer' | 'requiresGrad'> {
  if (isBuffer === true) return { isBuffer };
  const isStated = isScript && isFloatingPoint(layout.dtype);
  const requiresGrad =
    layout.parameterRequiresGrad ?? (isStated || layout.requiresGrad ? layout.requiresGrad : undefined);
  return {
    ...(isBuffer === null ? {} : { isBuffer }),
    ...(requiresGrad === undefined ? {} : { requiresGrad }),
  };
}

function describeLeftOut(why: string, names: readonly string[]): string {
  const verb = names.length === 1 ? 'is' : 'are';
  return `${listFirst(names.map(quote), MAX_LISTED)} ${verb} ${why}: not compared`;
}

/** Adds what only the class sources of a TorchScript archive tell of norm layers. */
async function completeModules(
  named: NamedParts,
  container: TorchContainer,
): Promise<ReadonlyMap<string, ModuleFacts>> {
  const modules = new Map(named.modules);
  for (const [path, module] of named.scriptClasses) {
    const facts = modules.get(path);
    const isNormLayer = named.tensors.has(path === '' ? 'running_mean' : `${path}.running_mean`);
    if (facts === undefined || !isNormLayer) continue;
    const source = await container.readClassSource?.(module);
    if (source != null) modules.set(path, completeFacts(facts, source));
  }
  return modules;
}

/** Statistics that are not read must not be passed over: their layers would be missing without a word. */
function describeLists(names: readonly string[]): readonly string[] {
  if (names.length === 0) return [];
  return [`${describeLeftOut('plain Python lists of numbers', names)}. ${SAVE_LISTS}`];
}

/** Freezing and optimising fold norm layers into convolutions, and weights into constants of the code. */
function describeScript({ format }: TorchContainer, tensors: ReadonlyMap<string, Tensor>): readonly string[] {
  const hasStatistics = [...tensors.keys()].some((name) => /(^|\.)running_mean$/.test(name));
  if (format !== 'TorchScript' || hasStatistics) return [];
  return [
    'a TorchScript archive without running statistics: was it frozen or optimised, which folds norm layers away?',
  ];
}

/** The keys of a saved dict by which a framework is told, most certain first. */
const MARKS: readonly (readonly [Framework, isMarked: (keys: Entries) => boolean])[] = [
  // lightning/pytorch/trainer/connectors/checkpoint_connector.py, dump_checkpoint
  ['lightning', (keys) => keys.has('pytorch-lightning_version')],
  ['lightning', (keys) => keys.has('optimizer_states') && (keys.has('callbacks') || keys.has('loops'))],
  // ultralytics/engine/trainer.py, save_model
  ['ultralytics', (keys) => keys.has('train_args') && keys.has('ema')],
  ['ultralytics', (keys) => [...keys.values()].some(isUltralyticsModule)],
  // mmengine/runner/runner.py, save_checkpoint
  [
    'mmengine',
    (keys) => keys.has('message_hub') || entriesOf(keys.get('meta'))?.has('mmengine_version') === true,
  ],
  // timm/utils/checkpoint_saver.py, _save; the ImageNet example of PyTorch writes `arch` alone
  [
    'timm',
    (keys) =>
      typeof keys.get('arch') === 'string' && (keys.has('state_dict_ema') || keys.get('version') === 2),
  ],
];

/** The framework whose marks a checkpoint of torch.save bears; undefined for a state dict or module of anyone's. */
function findMarkedFramework(root: PickleValue): Framework | undefined {
  if (isUltralyticsModule(root)) return 'ultralytics';
  const keys = entriesOf(root);
  return keys === null ? undefined : MARKS.find(([, isMarked]) => isMarked(keys))?.[0];
}

/**
 * Whether whoever loads the checkpoint takes the running average before the model: YOLOv5 and what came of it pickle both
 * and do `ckpt['ema'] or ckpt['model']` (ultralytics/nn/tasks.py; models/experimental.py of YOLOv5 and YOLOv7).
 */
function loadsCopy(root: PickleValue): boolean {
  const keys = entriesOf(root);
  const average = keys?.get('ema');
  if (keys === null || average === undefined || asModule(average) === null) return false;
  return keys.has('updates') || keys.has('train_args') || isUltralyticsModule(average);
}

function isUltralyticsModule(value: PickleValue): boolean {
  return asModule(value)?.classModule.startsWith('ultralytics.') === true;
}

/**
 * Completes a norm layer's facts from the source of its TorchScript class, which is searched as text
 * (torch/csrc/jit/serialization/python_print.cpp). Scripting keeps constants there that the pickled object lacks;
 * tracing leaves them in the call of its one method:
 *
 *     class BatchNorm2d(Module):
 *       eps : Final[float] = 1.0000000000000001e-05
 *       momentum : Final[float] = 0.10000000000000001
 *       track_running_stats : Final[bool] = True
 *       …
 *         _0 = torch.batch_norm(input, weight, bias, running_mean, running_var, False, 0.1, 1e-05, True)
 */
export function completeFacts(facts: ModuleFacts, source: string): ModuleFacts {
  const body = findClassBody(source, facts.className ?? '');
  if (body === null) return facts;
  const traced = TRACED_CALL.exec(body);
  const momentum = readConstant(body, 'momentum') ?? traced?.[1] ?? null;
  const tracks = readConstant(body, 'track_running_stats');
  return {
    ...facts,
    epsilon: facts.epsilon ?? toNumber(readConstant(body, 'eps') ?? traced?.[2] ?? null),
    momentum: facts.momentum ?? (momentum === 'None' ? 'cumulative' : toNumber(momentum)),
    trackRunningStats: facts.trackRunningStats ?? (tracks === null ? null : tracks === 'True'),
  };
}

/** The last arguments of torch.batch_norm: training, momentum, eps, cudnn_enabled. */
const TRACED_CALL = /torch\.batch_norm\([^()]*, (?:True|False), ([\d.e+-]+), ([\d.e+-]+), (?:True|False)\)/;

/** The lines of the class: those up to the next one that is not indented. */
function findClassBody(source: string, className: string): string | null {
  const lines = source.split('\n');
  const start = lines.findIndex(
    (line) => line.startsWith(`class ${className}(`) || line === `class ${className}:`,
  );
  if (start < 0) return null;
  const rest = lines.slice(start + 1);
  const end = rest.findIndex((line) => /^\S/.test(line));
  return rest.slice(0, end < 0 ? rest.length : end).join('\n');
}

/** A constant of the class itself, which is indented by two; locals of methods are indented deeper. */
function readConstant(body: string, name: string): string | null {
  const match = new RegExp(`^  ${name} : (?:Final\\[)?[^=\\n]+ = (\\S+)\\s*$`, 'm').exec(body);
  return match?.[1] ?? null;
}

function toNumber(text: string | null): number | null {
  const value = text === null ? Number.NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}
