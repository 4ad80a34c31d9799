// From two open checkpoints to what an audit found: read it from top to bottom.

import type { Checkpoint, CheckpointCopy, OpenOptions } from './checkpoint/checkpoint.js';
import { type LayerComparison, planLayerComparisons } from './compare/compare-layers.js';
import {
  type LearnedComparisons,
  type LearnedOptions,
  listTensorNames,
  pairFeeds,
  planLearnedComparisons,
} from './compare/compare-learned.js';
import { describeComputedWeights, relateComputedWeights } from './compare/computed-weights.js';
import {
  chooseDeclared,
  type Declared,
  findChangedFrozenWeights,
  findDeclaredChanges,
  insistOnDeclared,
  readFrozen,
  refuseIdleAuto,
} from './compare/declared.js';
import {
  type Finding,
  findIdleAllows,
  findIdleMaps,
  findLayerFindings,
  makeFindingPolicy,
  readMaps,
  refuseIdleFrozen,
} from './compare/findings.js';
import type { NameMatcher } from './compare/globs.js';
import { pairParts, type ValuedPairing } from './compare/pair-by-values.js';
import { inOrderOf, type PrefixEdit } from './compare/pair-layers.js';
import { findRegions, type Region } from './compare/regions.js';
import {
  describeWidths,
  findUnpairedFindings,
  questionPair,
  sortUnpaired,
  type UnpairedLayers,
} from './compare/unpaired-layers.js';
import { CheckpointError, quote, toShellWord, UsageError } from './errors.js';
import { compareFolded, describeMergedBranches, mayBeFused } from './folding/compare-folded.js';
import { type OnProgress, runInFileOrder } from './io/byte-source.js';
import { putOnBase } from './norm/adapters.js';
import { type DeclaredFreeze, findDeclaredFreeze } from './norm/declared-freeze.js';
import { findLayersAndLearned, mayHoldLayers } from './norm/find-layers.js';
import { refuseWithoutLayers } from './norm/missing-layers.js';
import { dottedTensorsOf, isUnder, listFirst, withoutWrappers } from './norm/naming.js';
import {
  chooseLayerName,
  type ExaminedCheckpoint,
  findFramework,
  listFreeLinears,
  listLayerNames,
  listOwnNames,
} from './norm/norm-layer.js';

/** What an audit is told beside the two checkpoints. */
export interface AuditOptions extends OpenOptions {
  /** Globs over module paths: what must be frozen, statistics and learned tensors; `auto` is what after declares. */
  readonly frozen?: readonly string[] | undefined;
  /** Globs over module paths: layers whose drift is accepted, and shown as allowed. */
  readonly allow?: readonly string[] | undefined;
  /** Ignore drift whose outputShift is under this. */
  readonly minShift?: number | undefined;
  /** Epsilon of every layer, instead of the graph's or the framework's default. */
  readonly epsilon?: number | undefined;
  /** How names of before read in after, before any prefix is looked for. */
  readonly map?: readonly PrefixEdit[] | undefined;
  /** Count every difference of learned tensors and statistics as a change, also what averaging and rounding leave. */
  readonly exact?: boolean | undefined;
  /** Keep each layer's statistics per channel in the report. */
  readonly channels?: boolean | undefined;
  readonly onProgress?: OnProgress | undefined;
}

/** How one comparison is done, and what it can take over from others, so that no byte is read twice. */
export interface CompareOptions extends AuditOptions, Pick<LearnedOptions, 'known' | 'digests'> {}

/** One checkpoint with what an audit looks at. */
export interface AuditSide extends ExaminedCheckpoint {
  readonly declared: DeclaredFreeze;
}

/** Everything that an audit found out, before it is put in the report's form. */
export interface AuditResults {
  readonly before: AuditSide;
  readonly after: AuditSide;
  readonly layers: readonly LayerComparison[];
  readonly learned: LearnedComparisons;
  readonly regions: readonly Region[];
  readonly findings: readonly Finding[];
  readonly declared: Declared;
  /** Norm layers of before that go with none of after. */
  readonly notAudited: number;
  readonly isAllowed: NameMatcher;
  /** How layers were paired where names did not, and whether the two checkpoints are the right ones, as sentences. */
  readonly doubts: readonly string[];
  /** Options that meant nothing in these checkpoints, as sentences. */
  readonly unusedOptions: readonly string[];
}

/**
 * Finds out everything that an audit reports, layers and tensors still at hand. Its callers have checked the options.
 *
 * @throws as {@link audit}.
 */
export async function compareCheckpoints(
  beforeCheckpoint: Checkpoint,
  afterCheckpoint: Checkpoint,
  options: CompareOptions = {},
): Promise<AuditResults> {
  const checkpoints = [beforeCheckpoint, afterCheckpoint];
  if (!checkpoints.some(mayHoldLayers) && !checkpoints.every(mayBeFused))
    refuseWithoutLayers(afterCheckpoint, NOTHING_TO_AUDIT);
  const [before, after] = [examine(beforeCheckpoint), examine(putOnBase(afterCheckpoint, beforeCheckpoint))];
  const declared = chooseDeclared(before, after);
  const { globs, isAuto } = readFrozen(options.frozen);
  if (isAuto) refuseIdleAuto(declared);
  const maps = readMaps(options.map ?? [], beforeCheckpoint, afterCheckpoint);
  const pairing = await pairSides(before, after, maps);
  const { epsilon, exact, onProgress, known, digests } = options;
  const keepChannels = options.channels === true;
  const folded = await compareFolded(before, after, { pairing, maps, epsilon, keepChannels, exact });
  const unpaired = sortUnpaired({ ...folded, explain: pairing.explain }, after);
  if (pairing.pairs.length + folded.layers.length + unpaired.withoutStatistics.length === 0)
    refuseUnpaired(before, after, unpaired);
  const weights = relateComputedWeights(before, after, folded);
  const learning = planLearnedComparisons(before.learned, after.learned, {
    folded: weights.judged,
    feeds: pairFeeds(pairing.pairs, before, after),
    byValue: [...pairing.tensors, ...weights.byPart],
    onProgress,
    known,
    digests,
    exact,
    areTurned: isOfPaddle(before) !== isOfPaddle(after),
  });
  const live = planLayerComparisons(pairing.pairs, { epsilon, keepChannels });
  await runInFileOrder([...learning.works, ...live.works]);
  const learned = learning.conclude();
  const layers = inOrderOf(before.layers, [...live.conclude(learned), ...folded.layers]);
  const names = listNames(layers, unpaired, learned);
  const notAudited = unpaired.unlike.length + unpaired.withoutStatistics.length + unpaired.onlyBefore.length;
  refuseIdleFrozen(globs, [...names.paired, ...names.learned]);
  const stated = makeFindingPolicy({ ...options, frozen: globs }, Object.values(names).flat());
  const policy = isAuto ? insistOnDeclared(stated, layers, declared) : stated;
  return {
    before,
    after,
    layers,
    learned,
    regions: findRegions(learned.compared, layers, [
      ...learned.onlyAfter,
      ...unpaired.onlyAfter.map(({ name }) => name),
    ]),
    findings: [
      ...layers.flatMap((layer) => findLayerFindings(layer, policy)),
      ...(await findUnpairedFindings(unpaired, policy)),
      ...findChangedFrozenWeights(learned, policy),
      ...findDeclaredChanges(learned, declared, { ...policy, isAuto }),
    ],
    declared,
    notAudited,
    isAllowed: policy.isAllowed,
    doubts: [
      ...pairing.remarks,
      ...folded.remarks,
      ...(weights.isOpen || notAudited > 0 ? [describeComputedWeights(before, after) ?? []].flat() : []),
      ...(notAudited > 0 ? [describeMergedBranches(before, after) ?? []].flat() : []),
      ...questionPair({ layers, learned, unpaired }),
    ],
    unusedOptions: [
      ...findIdleAllows(options.allow ?? [], [...names.paired, ...names.unpaired]),
      ...findIdleMaps(options.map ?? [], maps, { before, after }),
    ],
  };
}

/** All names of what globs may mean. */
function listNames(
  layers: readonly LayerComparison[],
  { withoutStatistics, unlike, onlyBefore, onlyAfter }: UnpairedLayers,
  { compared }: LearnedComparisons,
): Readonly<Record<'paired' | 'unpaired' | 'learned', readonly (readonly string[])[]>> {
  return {
    paired: layers.map(listLayerNames),
    unpaired: [
      ...withoutStatistics.map(({ layer, path }) => [path, ...listOwnNames(layer)]),
      ...unlike.map((pair) => listLayerNames({ ...pair, name: chooseLayerName(pair) })),
      ...[...onlyBefore, ...onlyAfter].map(listOwnNames),
    ],
    learned: compared.map(listTensorNames),
  };
}

function examine(checkpoint: Checkpoint): AuditSide {
  const found = findLayersAndLearned(checkpoint);
  return { checkpoint, ...found, declared: findDeclaredFreeze(checkpoint, found) };
}

function isOfPaddle({ checkpoint, layers }: AuditSide): boolean {
  return findFramework(checkpoint, layers) === 'paddle';
}

function pairSides(before: AuditSide, after: AuditSide, maps: readonly PrefixEdit[]): Promise<ValuedPairing> {
  const toSide = ({ checkpoint, layers, learned }: AuditSide) => ({
    path: checkpoint.path,
    layers,
    isOrdered: checkpoint.inModuleOrder,
    tensors: dottedTensorsOf(checkpoint),
    learned,
  });
  const isOne = before.checkpoint.parts === undefined;
  const parts = isOne ? (after.checkpoint.parts ?? []).map((part) => withoutWrappers(part)) : [];
  return pairParts(toSide(before), toSide(after), { maps, parts });
}

const NOTHING_TO_AUDIT = 'no BatchNorm layer: nothing to audit';

function refuseUnpaired(before: AuditSide, after: AuditSide, unpaired: UnpairedLayers): never {
  // A side without norm layers can be audited only where they may have been folded into its convolutions.
  for (const side of [after, before])
    if (side.layers.length === 0 && listFreeLinears(side).length === 0)
      refuseWithoutLayers(side.checkpoint, NOTHING_TO_AUDIT);
  const file = after.checkpoint.path;
  if (before.layers.length + after.layers.length === 0) {
    refuseQuantisedBesideBaseline(before, after);
    const hint = after.checkpoint.graph === null ? BEFORE_FUSING_HINT : EXPORT_LIVE_HINT;
    throw new CheckpointError(
      'found no BatchNorm layer, and no convolution that shows a folded one: nothing to audit',
      { code: 'no-norm-layers', file, hint },
    );
  }
  const widths = describeWidths(unpaired);
  // Of the first layer that stays alone, what it is nearest to and why that is not it.
  const [first] = unpaired.onlyBefore;
  const clause = first && unpaired.nearest.get(first);
  const nearest = first && clause ? `for ${quote(first.name)} of before, ${clause}` : '';
  throw new CheckpointError(
    `none of its norm layers (${nameLayers(after)}) goes with one in ${quote(before.checkpoint.path)} (${nameLayers(before)}): nothing was paired${[widths, nearest].map((clause) => (clause === '' ? '' : `; ${clause}`)).join('')}`,
    {
      code: 'nothing-paired',
      file,
      hint:
        describeComputedWeights(before, after) ??
        describeMergedBranches(before, after) ??
        (widths === ''
          ? 'Are these checkpoints of the same model? If only the names differ, say how: --map FROM=TO'
          : 'These are models of two widths: compare checkpoints of the same one. Where channels were pruned away, before is the pruned model as it was before its fine-tuning.'),
    },
  );
}

/** Of quantised weights alone nothing can be told beside a baseline: it keeps no values to hold their codes against. */
function refuseQuantisedBesideBaseline(before: AuditSide, after: AuditSide): void {
  const baseline = [before, after].find(({ checkpoint }) => checkpoint.format === 'baseline');
  const quantised = [before, after].find(({ learned }) =>
    [...learned.values()].some((tensor) => tensor.quantised !== undefined),
  );
  if (baseline === undefined || quantised === undefined) return;
  throw new CheckpointError(
    `its weights are quantised, which are compared code by code, and the baseline ${quote(baseline.checkpoint.path)} keeps no more than hashes and sums of its own: nothing can be audited`,
    {
      code: 'unsupported',
      file: quantised.checkpoint.path,
      hint: 'In place of the baseline, name the checkpoint that it was made from.',
    },
  );
}

const BEFORE_FUSING_HINT =
  'If BatchNorm was fused into the convolutions, audit the checkpoints from before that: they have running_mean and running_var.';

const EXPORT_LIVE_HINT =
  'To be sure, export with live BatchNorm: torch.onnx.export(…, dynamo=False, do_constant_folding=False), or dynamo=True with optimize=False.';

function nameLayers(side: AuditSide): string {
  const { layers } = side;
  if (layers.length === 0) {
    const { length } = listFreeLinears(side);
    return `folded ones may be in ${length.toLocaleString('en-US')} convolution${length === 1 ? '' : 's'}`;
  }
  return listFirst(
    layers.map(({ name }) => quote(name)),
    2,
  );
}

/** Copies that are compared, each of which takes as long as the audit itself; files hold one or two. */
const MAX_COPIES = 4;

/**
 * Compares two checkpoints as {@link compareCheckpoints} does, and every copy that after holds of what it audits: weights
 * that were averaged beside the raw ones. Where errors are found in one and not in the other, a doubt says so.
 *
 * @throws as {@link compareCheckpoints}; not where only a copy cannot be compared.
 */
export async function compareWithCopies(
  before: Checkpoint,
  after: Checkpoint,
  options: CompareOptions,
): Promise<AuditResults> {
  const results = await compareCheckpoints(before, after, options);
  const copies = after.copies ?? [];
  const doubts: string[] = [];
  for (const copy of copies.slice(0, MAX_COPIES)) {
    const doubt = await compareCopy(copy, results, options);
    if (doubt !== null) doubts.push(doubt);
  }
  if (copies.length > MAX_COPIES)
    doubts.push(
      `after holds ${copies.length} copies of what was audited: ${MAX_COPIES} of them were compared`,
    );
  return { ...results, doubts: [...results.doubts, ...doubts] };
}

/** @returns what the user should know; null where the copy tells the same. */
async function compareCopy(
  copy: CheckpointCopy,
  { before, after, findings }: AuditResults,
  options: CompareOptions,
): Promise<string | null> {
  const select = `--select ${toShellWord(copy.path)}`;
  const part = after.checkpoint.parts === undefined ? '' : copy.of;
  const hasErrors = (found: AuditResults['findings']) =>
    found.some(({ level, layer }) => level === 'error' && isUnder(layer, part));
  try {
    // A copy goes with the same copy of before, where that holds one.
    const counterpart = before.checkpoint.copies?.find(({ path }) => path === copy.path);
    const { findings: others } = await compareCheckpoints(
      (await counterpart?.open()) ?? before.checkpoint,
      await copy.open(),
      { ...options, channels: false },
    );
    if (hasErrors(others) === hasErrors(findings)) return null;
    const [drifted, clean] = hasErrors(others) ? [copy.path, copy.of] : [copy.of, copy.path];
    return `the copies of one network in after disagree: ${quote(drifted)} has errors, ${quote(clean)} has none; ${quote(copy.of)} was audited, ${select} audits the other`;
  } catch (error) {
    if (!(error instanceof CheckpointError || error instanceof UsageError)) throw error;
    return `${quote(copy.path)}, a copy of ${quote(copy.of)} in after, could not be compared (${select} tries): ${error.message}`;
  }
}
