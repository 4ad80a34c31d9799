import { CheckpointError, quote } from '../../errors.js';
import type { ByteSource } from '../../io/byte-source.js';
import { isInflated } from '../../io/inflated-source.js';
import { Keeper } from '../../io/keeper.js';
import type { Checkpoint, ModuleFacts, Tensor } from '../checkpoint.js';
import { isFloatingPoint } from '../dtype.js';
import {
  type EditPlan,
  placeEdits,
  planOneFile,
  planPlainEdits,
  refuseOtherSources,
  type TensorEdit,
} from '../edit-plan.js';
import type { TorchContainer } from './container.js';
import { findMarkedFramework } from './framework.js';
import { openLegacyContainer } from './legacy-container.js';
import { type NamedParts, type NamedTensor, nameTensors } from './named-tensors.js';
import { asContainer, childrenOf, Surveyor } from './object-tree.js';
import { findOptimizers } from './optimizers.js';
import type { PickleValue } from './pickle-values.js';
import { completeFacts } from './script-classes.js';
import { isMobile, isZip, looksLikeTar, TORCH_HEAD_BYTES } from './sniff.js';
import { chooseStateDict, isCopy } from './state-dict.js';
import { openTarContainer } from './tar-container.js';
import { buildTensor, readLayout, type TensorLayout } from './tensors.js';
import { readTrainingSettings } from './training-settings.js';
import { openZipContainer } from './zip-container.js';

const STATISTIC = /(^|\.)(running_mean|running_var|num_batches_tracked)$/;

/** Names of one kind of left-out tensor that a warning lists. */
const MAX_LISTED = 3;

/** How to open a PyTorch checkpoint. */
export interface OpenTorchOptions {
  /** How reports and messages name it. */
  readonly path: string;
  /** Which part of a nested checkpoint to audit: its keys, joined by dots or slashes. */
  readonly select?: string | undefined;
}

/**
 * Opens a PyTorch checkpoint of any age: zip, TorchScript, legacy, tar. Reads the directory, the pickles, and the
 * checksums of statistics; no other storage. Nothing that a pickle names is imported, called or opened.
 *
 * @throws CheckpointError `refused` when the pickle names a dangerous callable, `ambiguous` when several parts could be
 * meant, `unsupported` for other things that PyTorch writes, and as the readers of the containers do. The source stays
 * open then.
 */
export async function openTorch(source: ByteSource, options: OpenTorchOptions): Promise<Checkpoint> {
  const file = source.name;
  const container = await openContainer(source, file);
  const { root, format } = container;
  const surveyor = new Surveyor();
  const chosen = chooseStateDict(root, { select: options.select, surveyor, file, format });
  const named = nameTensors(chosen, surveyor, file);
  const { tensors, warnings } = await buildTensors(named, container, file);
  const optimizers = findOptimizers(root, file);
  return {
    path: options.path,
    format,
    tensors,
    inModuleOrder: true,
    graph: null,
    framework: findMarkedFramework(root),
    modules: await completeModules(named, container),
    declarations: [...optimizers, ...readTrainingSettings(root)],
    warnings: [
      ...chosen.warnings,
      ...warnings,
      ...describeScript(container, tensors),
      ...(optimizers.length === 0 ? [] : describeCopy(root, chosen.value)),
    ],
    unselected: chosen.unselected,
    planEdits: (edits) => planTorchEdits(edits, { source, tensors, container }),
    close: () => source.close(),
  };
}

/** Optimizers train the model; its averaged copy has the same names. Lightning keeps the average as `state_dict`. */
function describeCopy(root: PickleValue, chosen: PickleValue): readonly string[] {
  const node = asContainer(root);
  const children = node === null ? [] : childrenOf(node);
  const key = children.find(({ value }) => value === chosen)?.name ?? '';
  const isLightningAverage =
    key === 'state_dict' && children.some(({ name }) => name === 'current_model_state');
  if (!isCopy(key) && !isLightningAverage) return [];
  return [
    `${quote(key)} is an averaged copy: what the optimizer says is of the model that it trained, whose parameters have the same names`,
  ];
}

/** What {@link planTorchEdits} works on. */
interface EditedFile {
  readonly source: ByteSource;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly container: TorchContainer;
}

async function planTorchEdits(
  edits: readonly TensorEdit[],
  { source, tensors, container }: EditedFile,
): Promise<EditPlan> {
  const { planSplices } = container;
  if (planSplices === undefined) return planPlainEdits(edits, tensors.values(), [source]);
  const pieces = await placeEdits(edits, tensors.values());
  refuseOtherSources(pieces, new Set([source, ...[...pieces.keys()].filter(isInflated)]), edits);
  return planOneFile(source, await planSplices(pieces));
}

async function openContainer(source: ByteSource, file: string): Promise<TorchContainer> {
  const head = new Uint8Array(Math.min(TORCH_HEAD_BYTES, source.byteLength));
  await source.readInto(head, 0);
  if (isZip(head)) return openZipContainer(source, file);
  if (isMobile(head)) {
    throw new CheckpointError(
      'expected a checkpoint of torch.save, found a flatbuffer of PyTorch mobile (.ptl)',
      {
        code: 'unsupported',
        file,
        hint: 'Audit the checkpoint that it was made from.',
      },
    );
  }
  return looksLikeTar(head) ? openTarContainer(source, file) : openLegacyContainer(source, file);
}

interface BuiltTensors {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly warnings: readonly string[];
}

/**
 * Builds every tensor that has plain elements. One without is left out with a warning, unless it belongs to a norm layer
 * or nothing else remains: then the audit cannot do without it.
 */
async function buildTensors(
  named: NamedParts,
  container: TorchContainer,
  file: string,
): Promise<BuiltTensors> {
  const keeper = new Keeper();
  const tensors = new Map<string, Tensor>();
  const leftOut = new Map<string, string[]>();
  for (const [name, namedTensor] of named.tensors) {
    const { call } = namedTensor;
    const layout = readLayout(call, name, file);
    if (layout.kind === 'unreadable') {
      if (isOfNormLayer(name, named)) throw refuseTensor(name, layout.why, file);
      leftOut.set(layout.why, [...(leftOut.get(layout.why) ?? []), name]);
      continue;
    }
    const bare = await buildTensor(name, layout, { file, storages: container.storages, call, keeper });
    tensors.set(name, { ...bare, ...describeRole(layout, namedTensor) });
    // Statistics are what the audit is about, and small: their checksums are worth reading.
    if (STATISTIC.test(name)) await container.storages.verify(layout.storage, name);
  }
  const [first] = leftOut;
  if (tensors.size === 0 && first !== undefined) throw refuseTensor(first[1][0] ?? '', first[0], file);
  return { tensors, warnings: [...leftOut].map(([why, names]) => describeLeftOut(why, names)) };
}

function refuseTensor(name: string, why: string, file: string): CheckpointError {
  return new CheckpointError(`expected a plain tensor at ${quote(name)}, found one that is ${why}`, {
    code: 'unsupported',
    file,
  });
}

/** Whether the tensor lies beside running statistics, or is one. */
function isOfNormLayer(name: string, { tensors }: NamedParts): boolean {
  const prefix = name.slice(0, name.lastIndexOf('.') + 1);
  return tensors.has(`${prefix}running_mean`) && tensors.has(`${prefix}running_var`);
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
  const listed = names.slice(0, MAX_LISTED).map(quote).join(', ');
  const more = names.length > MAX_LISTED ? ` and ${names.length - MAX_LISTED} more` : '';
  const verb = names.length === 1 ? 'is' : 'are';
  return `${listed}${more} ${verb} ${why}: not compared`;
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
    const source = await container.readClassSource(module);
    if (source !== null) modules.set(path, completeFacts(facts, source));
  }
  return modules;
}

/** Freezing and optimising fold norm layers into convolutions, and weights into constants of the code. */
function describeScript({ format }: TorchContainer, tensors: ReadonlyMap<string, Tensor>): readonly string[] {
  const hasStatistics = [...tensors.keys()].some((name) => /(^|\.)running_mean$/.test(name));
  if (format !== 'TorchScript' || hasStatistics) return [];
  return [
    'a TorchScript archive without running statistics: was it frozen or optimised, which folds norm layers away?',
  ];
}
