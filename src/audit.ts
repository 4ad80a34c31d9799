// The pipeline: two checkpoint files in, one audit report out. Read this file first.

import type { Checkpoint, OpenOptions, Tensor } from './checkpoint/checkpoint.js';
import { type LayerComparison, planLayerComparisons } from './compare/compare-layers.js';
import {
  type LearnedComparisons,
  type LearnedOptions,
  listTensorNames,
  pairFeeds,
  planLearnedComparisons,
} from './compare/compare-learned.js';
import {
  chooseDeclared,
  findChangedFrozenWeights,
  findDeclaredChanges,
  insistOnDeclared,
  readFrozen,
  refuseIdleAuto,
} from './compare/declared.js';
import {
  findIdleAllows,
  findIdleMaps,
  findLayerFindings,
  makeFindingPolicy,
  readMaps,
  refuseIdleFrozen,
} from './compare/findings.js';
import { type Pairing, type PrefixEdit, pairLayers, pairRepeated } from './compare/pair-layers.js';
import { findRegions } from './compare/regions.js';
import {
  describeWidths,
  findUnpairedFindings,
  questionPair,
  sortUnpaired,
  type UnpairedLayers,
} from './compare/unpaired-layers.js';
import { CheckpointError, quote, UsageError } from './errors.js';
import { compareFolded, type FoldedResults } from './folding/compare-folded.js';
import { mayBeFolded } from './folding/pair-linears.js';
import { openPath, refuseIdleSelect } from './formats/open.js';
import { type OnProgress, runInFileOrder } from './io/byte-source.js';
import { closeWindows } from './io/file-source.js';
import { refuseSameCheckpoint } from './io/write-target.js';
import { type DeclaredFreeze, findDeclaredFreeze } from './norm/declared-freeze.js';
import { findLayersAndLearned, mayHoldLayers } from './norm/find-layers.js';
import {
  chooseLayerName,
  findFreeLinears,
  listLayerNames,
  listOwnNames,
  type NormLayer,
} from './norm/norm-layer.js';
import { checkOptions } from './options.js';
import { type AuditReport, type AuditResults, buildReport } from './report/audit-report.js';
import { type AuditOutcome, describeFailure } from './report/audit-set.js';
import { formatPlural } from './report/format-numbers.js';

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

/** One checkpoint with what an audit looks at. */
interface AuditSide {
  readonly checkpoint: Checkpoint;
  readonly layers: readonly NormLayer[];
  readonly learned: ReadonlyMap<string, Tensor>;
  readonly declared: DeclaredFreeze;
}

/**
 * Audits two checkpoint files: opens them, audits, closes them.
 *
 * @throws CheckpointError when one cannot be read, both are one file, neither has a norm layer, or nothing pairs.
 * @throws UsageError when an option is not what it must be, or cannot apply to these checkpoints.
 */
export async function audit(
  beforePath: string,
  afterPath: string,
  options: AuditOptions = {},
): Promise<AuditReport> {
  checkOptions('audit', options);
  refuseSameCheckpoint(beforePath, afterPath);
  const before = await openPath(beforePath, options);
  try {
    const after = await openPath(afterPath, options);
    try {
      refuseIdleSelect(options.select, [before, after]);
      return buildReport(await compareCheckpoints(before, after, options));
    } finally {
      await after.close();
    }
  } finally {
    await before.close();
  }
}

/**
 * Audits two open checkpoints, which stay open.
 *
 * Every norm layer is found on both sides, paired, compared and judged; every learned tensor is compared; what the
 * two say together becomes regions and findings.
 *
 * @throws as {@link audit}.
 */
export async function auditCheckpoints(
  beforeCheckpoint: Checkpoint,
  afterCheckpoint: Checkpoint,
  options: AuditOptions = {},
): Promise<AuditReport> {
  checkOptions('audit', options);
  return buildReport(await compareCheckpoints(beforeCheckpoint, afterCheckpoint, options));
}

/**
 * Finds out everything that an audit reports, layers and tensors still at hand. Its callers have checked the options.
 *
 * @throws as {@link audit}.
 */
export async function compareCheckpoints(
  beforeCheckpoint: Checkpoint,
  afterCheckpoint: Checkpoint,
  options: AuditOptions & Pick<LearnedOptions, 'known'> = {},
): Promise<AuditResults> {
  closeWindows();
  if (![beforeCheckpoint, afterCheckpoint].some(mayHoldLayers)) refuseWithoutAny(afterCheckpoint);
  const [before, after] = [examine(beforeCheckpoint), examine(afterCheckpoint)];
  const declared = chooseDeclared(before, after);
  const { globs, isAuto } = readFrozen(options.frozen);
  if (isAuto) refuseIdleAuto(declared);
  const maps = readMaps(options.map ?? [], beforeCheckpoint, afterCheckpoint);
  const pairing = await pairRepeated(pairSides(before, after, maps));
  const folded = await compareFoldedLayers({ before, after }, pairing, { ...options, map: maps });
  const unpaired = sortUnpaired(folded, after);
  if (pairing.pairs.length + folded.layers.length + unpaired.withoutStatistics.length === 0)
    refuseUnpaired(before, after, unpaired);
  const { epsilon, channels, exact, onProgress, known } = options;
  const feeds = pairFeeds(pairing.pairs, before, after);
  const learning = planLearnedComparisons(before.learned, after.learned, {
    folded,
    feeds,
    onProgress,
    known,
    exact,
  });
  const live = planLayerComparisons(pairing.pairs, { epsilon, keepChannels: channels === true });
  await runInFileOrder([...learning.works, ...live.works]);
  const learned = learning.conclude();
  const layers = inOrderOf(before, [...live.conclude(learned), ...folded.layers]);
  const names = listNames(layers, unpaired, learned);
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
    notAudited: countUnaudited(unpaired),
    isAllowed: policy.isAllowed,
    doubts: questionPair({ layers, learned, unpaired }),
    unusedOptions: [
      ...findIdleAllows(options.allow ?? [], [...names.paired, ...names.unpaired]),
      ...findIdleMaps(options.map ?? [], maps, { before, after }),
    ],
  };
}

/** Norm layers of before that were compared with none of after. */
function countUnaudited({ otherWidth, withoutStatistics, onlyBefore }: UnpairedLayers): number {
  return otherWidth.length + withoutStatistics.length + onlyBefore.length;
}

/** All names of what globs may mean. */
function listNames(
  layers: readonly LayerComparison[],
  { withoutStatistics, otherWidth, onlyBefore, onlyAfter }: UnpairedLayers,
  { compared }: LearnedComparisons,
): Readonly<Record<'paired' | 'unpaired' | 'learned', readonly (readonly string[])[]>> {
  return {
    paired: layers.map(listLayerNames),
    unpaired: [
      ...withoutStatistics.map(({ layer, path }) => [path, ...listOwnNames(layer)]),
      ...otherWidth.map((pair) => listLayerNames({ ...pair, name: chooseLayerName(pair) })),
      ...[...onlyBefore, ...onlyAfter].map(listOwnNames),
    ],
    learned: compared.map(listTensorNames),
  };
}

function examine(checkpoint: Checkpoint): AuditSide {
  const found = findLayersAndLearned(checkpoint);
  return { checkpoint, ...found, declared: findDeclaredFreeze(checkpoint, found) };
}

function pairSides(before: AuditSide, after: AuditSide, maps: readonly PrefixEdit[]): Pairing {
  const toSide = ({ checkpoint, layers }: AuditSide) => ({
    path: checkpoint.path,
    layers,
    isOrdered: checkpoint.inModuleOrder,
  });
  return pairLayers(toSide(before), toSide(after), maps);
}

/** A side without norm layers can be audited only where they may have been folded into its convolutions. */
function refuseWithoutLayers(before: AuditSide, after: AuditSide): void {
  for (const { checkpoint, layers } of [after, before]) {
    if (layers.length === 0 && findFreeLinears(checkpoint).length === 0) refuseWithoutAny(checkpoint);
  }
}

function refuseWithoutAny(checkpoint: Checkpoint): never {
  throw new CheckpointError(
    'expected norm layers with running statistics, found no BatchNorm layer: nothing to audit',
    {
      code: 'no-norm-layers',
      file: checkpoint.path,
      hint: isAdapter(checkpoint) ? MERGE_ADAPTER_HINT : undefined,
    },
  );
}

/** How PEFT names what its methods add: LoRA, LoHa, LoKr, IA³, OFT, BOFT, VeRA. */
const ADAPTER_NAME = /(?:^|\.)(?:lora|hada|lokr|ia3|oft|boft|vera)_\w+(?:\.|$)/;

const MERGE_ADAPTER_HINT =
  'It is an adapter (LoRA or its like) without the model, and without statistics that moved in training. Audit the merged model: model.merge_and_unload(), then save its state_dict.';

function isAdapter({ tensors }: Checkpoint): boolean {
  for (const name of tensors.keys()) if (ADAPTER_NAME.test(name)) return true;
  return false;
}

function refuseUnpaired(before: AuditSide, after: AuditSide, unpaired: UnpairedLayers): never {
  refuseWithoutLayers(before, after);
  const file = after.checkpoint.path;
  if (before.layers.length + after.layers.length === 0) {
    throw new CheckpointError(
      'found no BatchNorm layer, and no convolution that shows a folded one: nothing to audit',
      {
        code: 'no-norm-layers',
        file,
        hint: EXPORT_LIVE_HINT,
      },
    );
  }
  const widths = describeWidths(unpaired);
  throw new CheckpointError(
    `none of its norm layers (${listFirst(after)}) goes with one in ${quote(before.checkpoint.path)} (${listFirst(before)}): nothing was paired${widths === '' ? '' : `; ${widths}`}`,
    {
      code: 'nothing-paired',
      file,
      hint:
        widths === ''
          ? 'Are these checkpoints of the same model? If only the names differ, say how: --map FROM=TO'
          : 'These are models of two widths: compare checkpoints of the same one.',
    },
  );
}

const EXPORT_LIVE_HINT =
  'To be sure, export with live BatchNorm: torch.onnx.export(…, dynamo=False, do_constant_folding=False), or dynamo=True with optimize=False.';

function listFirst({ layers, checkpoint }: AuditSide): string {
  if (layers.length === 0)
    return `folded ones may be in ${formatPlural(findFreeLinears(checkpoint).length, 'convolution')}`;
  const names = layers.slice(0, 2).map(({ name }) => quote(name));
  return layers.length > 2 ? `${names.join(', ')} and ${layers.length - 2} more` : names.join(', ');
}

/** Layers in the order of before; those whose norm layer before has folded away come where their convolution stood. */
function inOrderOf(before: AuditSide, layers: readonly LayerComparison[]): readonly LayerComparison[] {
  const order = new Map(before.layers.map((layer, index) => [layer, index]));
  return [...layers].sort(
    (x, y) =>
      (order.get(x.before) ?? Number.MAX_SAFE_INTEGER) - (order.get(y.before) ?? Number.MAX_SAFE_INTEGER),
  );
}

async function compareFoldedLayers(
  { before, after }: { readonly before: AuditSide; readonly after: AuditSide },
  pairing: Pairing,
  { map, epsilon, channels, exact }: AuditOptions,
): Promise<FoldedResults> {
  const { onlyBefore, onlyAfter, edits } = pairing;
  if (!mayBeFolded(before, after, pairing)) {
    const none = { layers: [], learned: [], judgedBefore: new Set<string>(), judgedAfter: new Set<string>() };
    return { ...none, onlyBefore, onlyAfter, edits };
  }
  return compareFolded(before, after, {
    pairing,
    maps: map ?? [],
    epsilon,
    keepChannels: channels === true,
    exact,
  });
}

/** One of several audits. */
export interface AuditRequest {
  readonly before: string;
  readonly after: string;
  readonly options?: AuditOptions | undefined;
}

/**
 * Does several audits, one after the other: one pair of checkpoints is open at a time, so that memory does not grow
 * with their number. An audit that cannot be done is an outcome like any other, and the rest goes on.
 *
 * @see buildAuditSet for one report of them all.
 */
export async function* auditEach<Request extends AuditRequest>(
  requests: Iterable<Request>,
): AsyncGenerator<{ readonly request: Request; readonly outcome: AuditOutcome }> {
  for (const request of requests) yield { request, outcome: await auditOrExplain(request) };
}

async function auditOrExplain(request: AuditRequest): Promise<AuditOutcome> {
  try {
    return await audit(request.before, request.after, request.options);
  } catch (error) {
    if (error instanceof CheckpointError || error instanceof UsageError)
      return describeFailure(request, error);
    throw error;
  }
}
