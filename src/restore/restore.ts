// Puts the running statistics of before into after: `bn-audit restore`.

import { dirname, join } from 'node:path';
import type { Checkpoint, EditPlan, OpenOptions } from '../checkpoint/checkpoint.js';
import type { LayerComparison } from '../compare/compare-layers.js';
import { describeUnpaired } from '../compare/findings.js';
import { matchLayers } from '../compare/globs.js';
import type { PrefixEdit } from '../compare/pair-layers.js';
import type { LayerStatus } from '../compare/status.js';
import { refuseWithoutPairs } from '../compare/unpaired-layers.js';
import { type AuditResults, compareCheckpoints } from '../compare-checkpoints.js';
import { CheckpointError, quote, UsageError } from '../errors.js';
import { openPath, openSource, refuseIdleSelect } from '../formats/open.js';
import type { OnProgress } from '../io/byte-source.js';
import { openFileSource } from '../io/file-source.js';
import { findLeftovers, type StagedFiles, stageFiles, type WriteOrder } from '../io/write-files.js';
import { refuseSameCheckpoint } from '../io/write-target.js';
import { checkOptions } from '../options.js';
import {
  chooseDataNames,
  chooseTarget,
  describeLeftOut,
  NO_COMPANIONS,
  openCompanions,
  orderFiles,
  refuseSameFile,
  type Sides,
  type Target,
} from './choose-target.js';
import { addAliases, type LayerPlan, planLayer } from './plan-layers.js';
import {
  buildRestoreReport,
  type LayerChoice,
  type RestoreReport,
  type TargetOptions,
} from './restore-report.js';

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
export function chooseLayers(layers: readonly LayerComparison[], globs: readonly string[]): LayerChoice {
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
export interface RestoreOptions extends TargetOptions {
  /** Globs over module paths: the layers to restore, instead of those that drifted. */
  readonly layers?: readonly string[] | undefined;
  /** Leave the batch counts of after as they are. */
  readonly keepBatches?: boolean | undefined;
  /** Find out what would change, and write nothing. */
  readonly dryRun?: boolean | undefined;
  /** How names of before read in after, before any prefix is looked for. */
  readonly map?: readonly PrefixEdit[] | undefined;
  /** Epsilon of every layer, instead of the graph's or the framework's default. */
  readonly epsilon?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
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
  const target = fixedPath === null ? null : chooseTarget(fixedPath, afterPath);
  refuseSameCheckpoint(beforePath, afterPath);
  if (fixedPath !== null) refuseSameFile(fixedPath, beforePath, afterPath);
  const before = await openPath(beforePath, options);
  try {
    const after = await openPath(afterPath, options);
    try {
      refuseIdleSelect(options.select, [before, after]);
      return await restoreOpened({ before, after, options }, target);
    } finally {
      await after.close();
    }
  } finally {
    await before.close();
  }
}

async function restoreOpened(sides: Sides<RestoreOptions>, target: Target | null): Promise<RestoreReport> {
  const { before, after, options } = sides;
  const audit = await compareCheckpoints(before, after, options);
  refuseWithoutPairs(audit.layers, after.path);
  const { chosen, left } = chooseLayers(audit.layers, options.layers ?? []);
  const plans = await planLayers(chosen, audit, options);
  const edits = await planFiles(plans, sides, target);
  // With what goes along with the weights, loaders find a model in the directory.
  const isSet = edits !== null && target?.mainName === null;
  const weights = edits?.files ?? [];
  const companions = isSet
    ? await openCompanions(
        after.path,
        weights.map(({ name }) => name),
        options,
      )
    : NO_COMPANIONS;
  try {
    const files = [...companions.copies, ...weights];
    const order = edits === null || target === null ? null : await orderFiles(files, target, sides);
    if (options.dryRun === true) await readContents(plans);
    else if (order !== null) await write(order, { ...sides, audit, plans });
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
        ...(target === null ? [] : describeLeftovers(target)),
      ],
    });
  } finally {
    await companions.close();
  }
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

/** What a written file is checked against. */
interface Expectation extends Sides<RestoreOptions> {
  readonly audit: AuditResults;
  readonly plans: readonly LayerPlan[];
}

/** Writes the files beside their places, audits them while they are synced, and moves them there. */
async function write(order: WriteOrder, expected: Expectation): Promise<void> {
  const staged = await stageFiles(order);
  try {
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

async function verify(order: WriteOrder, staged: StagedFiles, expected: Expectation): Promise<void> {
  const { before, options, audit, plans } = expected;
  const path = join(order.directory, order.files.at(-1)?.name ?? '');
  const fixed = await openStaged(path, staged, options);
  try {
    // A copy that keeps its layout holds every learned tensor where after does: their comparison stands.
    const keepsLayout = order.files.every(({ splices }) =>
      splices.every(({ deleted, content }) => deleted === content.byteLength),
    );
    const known = keepsLayout ? audit.learned : undefined;
    const { layers } = await compareCheckpoints(before, fixed, { ...options, known });
    const restored = new Set(plans.map(({ comparison }) => comparison.after));
    // One layer of before may go with several of after, whose names may come of constants that were split meanwhile.
    const found = new Map(layers.map((layer) => [layer.after.name, layer.status]));
    const foundByBefore = new Map(layers.map((layer) => [layer.before.name, layer.status]));
    for (const { name, before: origin, after: layer, status } of audit.layers) {
      const now = found.get(layer.name) ?? foundByBefore.get(origin.name);
      const isFine = restored.has(layer) ? now !== undefined && RESTORED.has(now) : now === status;
      if (isFine) continue;
      const wanted = restored.has(layer) ? 'locked' : status;
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
  try {
    return await openSource(source, path, options);
  } catch (error) {
    await source.close();
    throw error;
  }
}

function describeLeftovers({ directory, isNewDirectory, label }: Target): readonly string[] {
  const leftovers = findLeftovers(isNewDirectory ? dirname(directory) : directory, label);
  return leftovers.map(
    (path) =>
      `${quote(path)} was left behind by a run that was interrupted. Delete it, unless that run still goes on.`,
  );
}
