// Puts the running statistics of before into after: `bn-audit restore`.

import { readdirSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { Checkpoint, EditOptions, EditPlan, OpenOptions } from '../checkpoint/checkpoint.js';
import { isUnmarked, type LayerComparison } from '../compare/compare-layers.js';
import type { LearnedComparisons } from '../compare/compare-learned.js';
import { describeUnpaired } from '../compare/findings.js';
import { matchLayers } from '../compare/globs.js';
import type { LayerStatus } from '../compare/status.js';
import { refuseWithoutPairs } from '../compare/unpaired-layers.js';
import { type AuditOptions, type AuditResults, compareCheckpoints } from '../compare-checkpoints.js';
import { CheckpointError, quote, UsageError } from '../errors.js';
import { openPath, openSource } from '../formats/open.js';
import { withCheckpoints } from '../formats/with-checkpoint.js';
import { orClose } from '../io/byte-source.js';
import { explainAs, openFileSource } from '../io/file-source.js';
import { findOnMachine, isPlace, nameOf, openWithin } from '../io/places.js';
import {
  type FileCopy,
  findLeftovers,
  type StagedFiles,
  stageFiles,
  type WriteOrder,
} from '../io/write-files.js';
import { examineTarget, isDirectory, isSameFile } from '../io/write-target.js';
import { listFirst } from '../norm/naming.js';
import type { LinearLayer } from '../norm/norm-layer.js';
import { checkOptions } from '../options.js';
import { addAliases, type LayerPlan, planLayer } from './plan-layers.js';
import { buildRestoreReport, type RestoreReport } from './restore-report.js';

/** Statuses that a user should hear about where the layer is left as it is. */
const NOTEWORTHY: ReadonlySet<LayerStatus> = new Set([
  'drifted',
  'affine-frozen',
  'invalid',
  'unresolved',
  'ambiguous',
]);

/**
 * Chooses the layers to restore: those that drifted, or those that globs over module paths name, whatever their status.
 *
 * @throws UsageError for a glob that matches no norm layer of both checkpoints.
 */
export function chooseLayers(layers: readonly LayerComparison[], globs: readonly string[]) {
  const isNamed = matchLayers(
    layers,
    globs,
    'Globs match module paths with "." as the separator: backbone, backbone.layer1, **.bn1',
  );
  const isChosen = (layer: LayerComparison) =>
    globs.length === 0 ? layer.status === 'drifted' : isNamed(layer);
  return {
    chosen: layers.filter(isChosen),
    left: layers.filter((layer) => !isChosen(layer) && NOTEWORTHY.has(layer.status)),
  };
}

/** What a restoration is told beside the three checkpoints. */
export interface RestoreOptions extends OpenOptions, Pick<AuditOptions, 'map' | 'epsilon' | 'onProgress'> {
  /** Globs over module paths: the layers to restore, instead of those that drifted. */
  readonly layers?: readonly string[] | undefined;
  /** Leave the batch counts of after as they are. */
  readonly keepBatches?: boolean | undefined;
  /** Find out what would change, and write nothing. */
  readonly dryRun?: boolean | undefined;
  /** The file name of the restored model's external data. */
  readonly dataName?: string | undefined;
  /** Replace files that exist. */
  readonly force?: boolean | undefined;
}

/** Bytes that a dry run reads at a time. */
const READ_BYTES = 1024 * 1024;

/**
 * Writes a checkpoint that is after with the statistics of before, in every layer that drifted or that
 * `options.layers` names; every other byte is after's. Where nothing has to change, nothing is written.
 *
 * The file is written beside its place, audited against before, synced, and only then moved there. On any error the
 * target is as it was.
 *
 * @param fixedPath the file to write, or a directory where after is one; null in a dry run that is not told.
 * @throws CheckpointError when a checkpoint cannot be read, a layer cannot be restored, or the target not be written.
 * @throws UsageError when an option cannot apply to these checkpoints.
 */
export async function restore(
  beforePath: string,
  afterPath: string,
  fixedPath: string | null,
  options: RestoreOptions = {},
): Promise<RestoreReport> {
  checkOptions('restore', options);
  if (fixedPath === null && options.dryRun !== true)
    throw new UsageError('a path for the restored checkpoint is needed', 'Name it: -o FIXED');
  const afterFile = findOnMachine(afterPath);
  const known = fixedPath === null || isPlace(afterFile) ? null : chooseTarget(fixedPath, afterFile);
  if (fixedPath !== null) refuseSameFile(fixedPath, beforePath, afterPath);
  return withCheckpoints([beforePath, afterPath], options, async (before, after) => {
    // Which file of a model on the network it is shows only once it is open.
    const target = known ?? (fixedPath === null ? null : chooseTarget(fixedPath, await nameMainFile(after)));
    return restoreOpened({ before, after, options }, target);
  });
}

async function nameMainFile({ planEdits, path }: Checkpoint): Promise<string> {
  return (await planEdits?.([]))?.files.at(-1)?.name ?? path;
}

async function restoreOpened(sides: Sides, target: Target | null): Promise<RestoreReport> {
  const { before, after, options } = sides;
  const audit = await compareCheckpoints(before, after, options);
  refuseWithoutPairs(audit.layers, after);
  const { chosen, left } = chooseLayers(audit.layers, options.layers ?? []);
  const plans = await planLayers(chosen, audit, options);
  const edits = await planFiles(plans, sides, target);
  // With what goes along with the weights, loaders find a model in the directory.
  const isSet = edits !== null && target?.mainName === null;
  const weights = edits?.files ?? [];
  const companions = isSet
    ? await openCompanions(
        findOnMachine(after.path),
        weights.map(({ name }) => name),
        options,
      )
    : NO_COMPANIONS;
  try {
    if (target !== null && edits !== null) refuseWithoutCfg(after, target);
    const files = [...companions.copies, ...weights];
    const order = edits === null || target === null ? null : await orderFiles(files, target, sides);
    if (options.dryRun === true) await readContents(plans);
    else if (order !== null) await write(order, { ...sides, audit, plans });
    const leftovers =
      target === null
        ? []
        : findLeftovers(target.isNewDirectory ? dirname(target.directory) : target.directory, target.label);
    return buildRestoreReport({
      outcome: edits === null ? 'nothing' : options.dryRun === true ? 'planned' : 'restored',
      before,
      after,
      files: order === null ? [] : order.files.map(({ name }) => join(order.directory, name)),
      plans,
      left,
      warnings: [
        ...describeUnpaired(audit.findings, 'not restored'),
        ...describeLeftOut(companions.leftOut),
        ...(isSet && isPlace(findOnMachine(after.path))
          ? ['nothing but the weights was fetched: copy the configuration that belongs to them yourself']
          : []),
        ...leftovers.map(
          (path) =>
            `${quote(path)} was left behind by a run that was interrupted. Delete it, unless that run still goes on.`,
        ),
      ],
    });
  } finally {
    await closeAll(companions.copies);
  }
}

/** Darknet's weights are read by the .cfg beside them, which stays where it is. */
function refuseWithoutCfg({ format, path }: Checkpoint, { directory, label }: Target): void {
  if (format !== 'Darknet' || isSameFile(directory, dirname(findOnMachine(path)))) return;
  const names = isDirectory(directory) ? explainAs(directory, () => readdirSync(directory)) : [];
  if (names.some((name) => name.endsWith('.cfg'))) return;
  throw new CheckpointError(
    'expected the .cfg in the directory of the restored weights, found none there: it lies beside after, and what was written could not be read without it',
    {
      code: 'unsupported',
      file: label,
      hint: 'Copy the .cfg of after there first, or write the file beside after: -o DIRECTORY_OF_AFTER/NAME.weights',
    },
  );
}

async function planLayers(
  chosen: readonly LayerComparison[],
  audit: AuditResults,
  { keepBatches = false }: RestoreOptions,
): Promise<readonly LayerPlan[]> {
  const [before, after] = [audit.before.checkpoint, audit.after.checkpoint];
  const plans: LayerPlan[] = [];
  for (const comparison of chosen) plans.push(await planLayer(comparison, { before, after, keepBatches }));
  return addAliases(plans, audit);
}

/** Reads what would be written, since a computed value that does not fit its type shows only then. */
async function readContents(plans: readonly LayerPlan[]): Promise<void> {
  const buffer = new Uint8Array(READ_BYTES);
  for (const { source, offset, byteLength } of plans.flatMap((plan) =>
    plan.edits.map((edit) => edit.content),
  ))
    for (let done = 0; done < byteLength; done += READ_BYTES)
      await source.readInto(buffer.subarray(0, Math.min(READ_BYTES, byteLength - done)), offset + done);
}

/** How after's files change; null where they do not. */
async function planFiles(
  plans: readonly LayerPlan[],
  sides: Sides,
  target: Target | null,
): Promise<EditPlan | null> {
  const { after, options } = sides;
  const edits = plans.flatMap((plan) => plan.edits);
  if (edits.length === 0) return null;
  if (after.planEdits === undefined) {
    const message = `expected a checkpoint to restore, found a ${after.format}, which holds no model`;
    throw new CheckpointError(message, { code: 'unsupported', file: after.path });
  }
  const names = target === null ? {} : chooseDataNames(target, sides);
  const plan = await after.planEdits(edits, names);
  const { dataName } = options;
  if (dataName !== undefined && (after.format !== 'ONNX' || plan.files.length === 1))
    throw new UsageError(`--data-name ${quote(dataName)}: after has no external data`);
  return plan;
}

interface Expectation extends Sides {
  readonly audit: AuditResults;
  readonly plans: readonly LayerPlan[];
}

/** Writes the files beside their places, audits them while they are synced, and moves them there. */
async function write(order: WriteOrder, expected: Expectation): Promise<void> {
  const staged = await stageFiles(order);
  try {
    // What was compared is what was copied.
    for (const { source } of order.files) source.refuseChanged?.();
    const outcomes = await Promise.allSettled([staged.sync(), verify(order, staged, expected)]);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    await staged.commit();
  } catch (error) {
    staged.discard();
    throw error;
  }
}

/** Statuses of a restored layer: its statistics are those of before, whatever else was trained. */
const RESTORED: ReadonlySet<LayerStatus> = new Set(['locked', 'held']);

/** Whether a convolution has the weight and the bias of before again. */
function isBack({ weightName, biasName }: LinearLayer, { byAfter }: LearnedComparisons): boolean {
  return [weightName, biasName].every((name) => name === '' || byAfter.get(name)?.equality === 'exact');
}

async function verify(order: WriteOrder, staged: StagedFiles, expected: Expectation): Promise<void> {
  const { before, after: original, options, audit, plans } = expected;
  const path = join(order.directory, order.files.at(-1)?.name ?? '');
  // What is opened by its directory, such as a folder of arrays, is so again.
  const isOpenedAsFolder = staged.mainPath !== staged.temporary && isDirectory(original.path);
  const fixed = isOpenedAsFolder
    ? await openPath(dirname(staged.mainPath), options)
    : await openStaged(path, staged, options);
  try {
    // A copy that keeps its layout holds every learned tensor where after does: their comparison stands.
    const keepsLayout = order.files.every(({ splices }) =>
      splices.every(({ deleted, content }) => deleted === content.byteLength),
    );
    const known = keepsLayout && !audit.layers.some(isUnmarked) ? audit.learned : undefined;
    const { layers, learned } = await compareCheckpoints(before, fixed, { ...options, known });
    const restored = new Set(plans.map(({ comparison }) => comparison.after));
    // One layer of before may go with several of after, whose names may come of constants that were split meanwhile.
    const found = new Map(layers.map((layer) => [layer.after.name, layer.status]));
    const foundByBefore = new Map(layers.map((layer) => [layer.before.name, layer.status]));
    for (const comparison of audit.layers) {
      const { name, before: origin, after: layer, status } = comparison;
      const now = found.get(layer.name) ?? foundByBefore.get(origin.name);
      const isRestored = restored.has(layer);
      // What no file calls a norm layer is a layer of an audit only as long as something has moved.
      if (now === undefined && isUnmarked(comparison)) {
        if (!isRestored || isBack(comparison.afterLinear, learned)) continue;
      } else if (isRestored ? now !== undefined && RESTORED.has(now) : now === status) continue;
      const wanted = isRestored ? 'locked' : status;
      throw new CheckpointError(
        `the restored checkpoint was audited before it was put in place: expected the layer ${quote(name)} to be ${wanted}, found ${now ?? 'none'}`,
        { code: 'unsupported', file: path, hint: 'Nothing was written. Please report this.' },
      );
    }
  } finally {
    await fixed.close();
  }
}

/** A single file answers to the name that it will have. */
async function openStaged(
  path: string,
  { mainPath, temporary }: StagedFiles,
  options: OpenOptions,
): Promise<Checkpoint> {
  if (mainPath !== temporary) return openPath(mainPath, options);
  const source = openFileSource(path, mainPath);
  return orClose(source, () => openSource(source, path, options));
}

/** Where the restored checkpoint goes. */
interface Target extends Pick<WriteOrder, 'directory' | 'isNewDirectory' | 'label'> {
  /** What the main file is called; null where it keeps its name in a directory. */
  readonly mainName: string | null;
}

/** The two checkpoints, open, and what the restoration is told. */
interface Sides {
  readonly before: Checkpoint;
  readonly after: Checkpoint;
  readonly options: RestoreOptions;
}

/** What an index of shards is called, so that loaders find it. */
const INDEX_NAME = /\.index\.json$/;

/** Names that mean a file even where after is a directory; others may have dots as well. */
const FILE_NAME = /\.(json|safetensors|onnx|bin|pt|pth|ckpt)$/i;

/**
 * Finds out where FIXED is: a file, or a directory where after is a directory or an index of shards.
 *
 * @throws CheckpointError `refused` where something else is in the way.
 */
function chooseTarget(fixedPath: string, afterPath: string): Target {
  const { path, found } = examineTarget(fixedPath);
  const isSet = isDirectory(afterPath) || INDEX_NAME.test(afterPath);
  if (found === 'other') throw refuse(fixedPath, 'expected a file, found a device, pipe or socket');
  if (found === 'dangling link')
    throw refuse(fixedPath, 'expected a file, found a symbolic link that leads nowhere');
  if ((found === 'directory' || fixedPath.endsWith('/')) && !isSet)
    throw refuse(
      fixedPath,
      'expected a file to write, found a directory',
      'Name the file: -o DIRECTORY/NAME',
    );
  if (isSet && (found === 'directory' || (found === 'nothing' && !FILE_NAME.test(path)))) {
    const label = basename(resolve(path));
    return { directory: path, isNewDirectory: found === 'nothing', label, mainName: null };
  }
  return { directory: dirname(path), isNewDirectory: false, label: basename(path), mainName: basename(path) };
}

/**
 * Refuses a target that is one of the two checkpoints, before they are read; {@link orderFiles} looks at all files.
 *
 * @throws CheckpointError `refused`.
 */
function refuseSameFile(fixedPath: string, beforePath: string, afterPath: string): void {
  for (const source of [beforePath, afterPath])
    if (isSameFile(fixedPath, findOnMachine(source))) throw refuseSource(fixedPath, source);
}

function refuseSource(path: string, source: string): CheckpointError {
  return refuse(
    path,
    `expected a new file, found ${quote(nameOf(source))} itself: before and after are never written to`,
    'Give another name: -o FIXED',
  );
}

/**
 * How data files are called: as before, or as the user says; after the new model where they would lie beside after, or after
 * is read over the network.
 *
 * @throws UsageError for a name that is none, or one name for several files.
 */
function chooseDataNames(
  { directory, mainName }: Target,
  { after, options: { dataName } }: Sides,
): Required<EditOptions> {
  if (
    dataName !== undefined &&
    (basename(dataName) !== dataName || /[\\/\0]|^\.{0,2}$|^[A-Za-z]:/.test(dataName))
  )
    throw new UsageError(`--data-name must be a file name without a directory, found ${quote(dataName)}`);
  if (dataName !== undefined && dataName === mainName)
    throw new UsageError(`--data-name ${quote(dataName)} is the name of the model itself`);
  const isBesideAfter = isSameFile(dirname(findOnMachine(after.path)), directory || '.');
  const isRemote = isPlace(findOnMachine(after.path));
  let renamed = 0;
  return {
    renameData(name, count) {
      // A server's names could be those of files that programs here load, such as `conftest.py`.
      if (isRemote && count > 1 && dataName === undefined) return `${mainName ?? name}.${++renamed}.data`;
      if (dataName === undefined && !isBesideAfter && !isRemote) return name;
      if (count === 1) return dataName ?? `${mainName ?? name}.data`;
      if (dataName !== undefined)
        throw new UsageError(`--data-name names one file, but the model has ${count} data files`);
      throw new CheckpointError(
        `the model has ${count} data files, whose names are taken in its own directory`,
        { code: 'refused', file: after.path, hint: 'Write the restored model to another directory.' },
      );
    },
  };
}

/**
 * Puts a plan and a target together.
 *
 * @throws CheckpointError `refused` where a file is before's or after's, exists and must not be replaced, or has a name
 *   that an index cannot have.
 */
async function orderFiles(copies: readonly FileCopy[], target: Target, sides: Sides): Promise<WriteOrder> {
  const last = copies.length - 1;
  if (INDEX_NAME.test(copies[last]?.name ?? '') && !INDEX_NAME.test(target.mainName ?? '.index.json'))
    throw refuse(
      join(target.directory, target.mainName ?? ''),
      'expected a directory or the name of an index, since after is a set of shards',
      'Give a name without an ending, or one that ends in .index.json',
    );
  const files = copies.map((file, index) =>
    index === last && target.mainName !== null ? { ...file, name: target.mainName } : file,
  );
  if (new Set(files.map(({ name }) => name.toLowerCase())).size < files.length)
    throw refuse(
      join(target.directory, target.mainName ?? ''),
      'expected a name that no other of its files has',
    );
  const mayReplace = sides.options.force === true;
  for (const { name } of files) {
    const path = join(target.directory, name);
    const { found, path: real } = examineTarget(path);
    if (found === 'nothing') continue;
    const source = (await listSources(copies, sides)).find((file) => isSameFile(real, file));
    if (source !== undefined) throw refuseSource(path, source);
    if (found !== 'file') throw refuse(path, `expected a file to write, found a ${found}`);
    if (!mayReplace) throw refuse(path, 'the file exists already', 'Replace it with --force.');
  }
  return { ...target, files, mayReplace };
}

async function listSources(
  copies: readonly FileCopy[],
  { before, after }: Sides,
): Promise<readonly string[]> {
  // What is read over the network is no file that could be written to.
  const ofBefore = isPlace(findOnMachine(before.path)) ? [] : ((await before.planEdits?.([]))?.files ?? []);
  return [before.path, after.path, ...[...copies, ...ofBefore].flatMap(({ source }) => source.path ?? [])];
}

function refuse(file: string, message: string, hint?: string): CheckpointError {
  return new CheckpointError(message, { code: 'refused', file, hint });
}

/** What a model's directory holds beside its weights, open until it is closed. */
interface Companions {
  /** Copied as they are: configuration, tokenizer, code. */
  readonly copies: readonly FileCopy[];
  /** Names of what stays behind, such as weights of another format: they would bring the old statistics along. */
  readonly leftOut: readonly string[];
}

/** Nothing. */
const NO_COMPANIONS: Companions = { copies: [], leftOut: [] };

const CONFIG_NAME = 'config.json';

/** A model's directory holds some twenty files; all are open at a time. */
const MAX_COMPANIONS = 250;

/** Files of weights and of a trainer's state by their endings, and indexes of such files. */
const WEIGHTS_NAME =
  /\.(safetensors|bin|pt|pth|ckpt|h5|keras|msgpack|onnx|onnx[._]data|gguf|tflite|npz|ot)$|\.index\.json$/i;

/**
 * Opens what lies beside the weights of a model in the directory that the Hugging Face libraries save and load: a
 * `config.json` is what tells it. Hidden files and directories are no part of it.
 *
 * @param path the directory, or an index of shards in it.
 * @param weights names of the files that are written anyway.
 * @throws CheckpointError `refused` for a symbolic link out of the directory (those of the Hugging Face cache are none),
 *   `limit-exceeded` for too many files, and where one cannot be opened.
 */
async function openCompanions(
  path: string,
  weights: readonly string[],
  { allowExternalSymlinks, onOpenFile }: OpenOptions,
): Promise<Companions> {
  const directory = isDirectory(path) ? path : dirname(path);
  if (isPlace(path) || !isRegularFile(join(directory, CONFIG_NAME))) return NO_COMPANIONS;
  const copies: FileCopy[] = [];
  const { copied, leftOut } = listCompanions(directory, new Set(weights));
  try {
    for (const name of copied) {
      const file = join(directory, name);
      const message = 'expected a file of the model’s own directory, found a symbolic link out of it';
      const source = openWithin(directory, file, {
        allowExternalSymlinks,
        onOpenFile,
        refusal: { file, message },
      });
      copies.push({ source, name, splices: [] });
    }
  } catch (error) {
    await closeAll(copies);
    throw error;
  }
  return { copies, leftOut };
}

async function closeAll(copies: readonly FileCopy[]): Promise<void> {
  for (const { source } of copies) await source.close();
}

function listCompanions(
  directory: string,
  weights: ReadonlySet<string>,
): { readonly copied: readonly string[]; readonly leftOut: readonly string[] } {
  const others = explainAs(directory, () => readdirSync(directory))
    .filter((name) => !name.startsWith('.') && !weights.has(name))
    .sort();
  const isCopied = (name: string) => !WEIGHTS_NAME.test(name) && isRegularFile(join(directory, name));
  const copied = others.filter(isCopied);
  if (copied.length > MAX_COMPANIONS)
    throw new CheckpointError(
      `expected at most ${MAX_COMPANIONS} files beside the weights of a model, found ${copied.length}`,
      { code: 'limit-exceeded', file: directory, hint: 'Name the file of weights in it instead.' },
    );
  return { copied, leftOut: others.filter((name) => !isCopied(name)) };
}

/** Through symbolic links; false also where the path leads nowhere. */
function isRegularFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** So many names make a sentence. */
const SHOWN_NAMES = 5;

/** One sentence about what stays behind; none where nothing does. */
function describeLeftOut(leftOut: readonly string[]): readonly string[] {
  if (leftOut.length === 0) return [];
  const shown = listFirst(leftOut.map(quote), SHOWN_NAMES);
  return [`not copied, since other weights and directories may hold the statistics of after: ${shown}`];
}
