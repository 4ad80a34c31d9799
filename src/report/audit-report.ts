// The audit report: what JSON holds and every format renders.

import type { CheckpointFormat, Framework } from '../checkpoint/checkpoint.js';
import {
  type Bounds,
  type ChannelStatistics,
  type DriftCause,
  type EpsilonFrom,
  type LayerComparison,
  logStdRatioOf,
  type MeasureBounds,
  type MergedInto,
  measuresOf,
  type NeighboursFrom,
  UNMARKED_KIND,
  viaOf,
} from '../compare/compare-layers.js';
import type { LearnedComparisons } from '../compare/compare-learned.js';
import { type Declared, describeDeclared, layerDeclarationOf, trainingModeOf } from '../compare/declared.js';
import { type Finding, isLeadingDrift, verdictOf } from '../compare/findings.js';
import type { PairedBy } from '../compare/pair-layers.js';
import type { Region } from '../compare/regions.js';
import type { RoundingCause } from '../compare/rounding.js';
import type { RmsAndMax } from '../compare/statistics.js';
import { countNone, type LayerStatus, type Relation } from '../compare/status.js';
import type { AuditResults, AuditSide } from '../compare-checkpoints.js';
import { shorten, TOOL_NAME, VERSION } from '../errors.js';
import type { DeclaredBy } from '../norm/declared-freeze.js';
import { addTo, listFirst } from '../norm/naming.js';
import {
  findFramework,
  type LayerVector,
  listLayerNames,
  type NormLayer,
  nameInFile,
} from '../norm/norm-layer.js';
import { type Count, formatPlural } from './format-numbers.js';
import { formatLayers } from './layer-nouns.js';

/** What moved some of the layers whose drift stands, in words. */
export interface CauseSummary {
  readonly kind: DriftCause['kind'];
  /** How many layers it moved. */
  readonly layers: number;
  /** One sentence: what the batch counts tell. */
  readonly sentence: string;
  /** One to three sentences: what to do about it. */
  readonly remedy: string;
}

/** What moved the layers whose drift stands, the cause of most of them first. All of it is our own text. */
export function summarizeCauses(
  layers: readonly { readonly name: string; readonly cause: DriftCause | null }[],
  findings: readonly Finding[],
): readonly CauseSummary[] {
  const standing = new Set(findings.filter(isLeadingDrift).map(({ layer }) => layer));
  const byKind = new Map<DriftCause['kind'], DriftCause[]>();
  for (const { name, cause } of layers)
    if (cause !== null && standing.has(name)) addTo(byKind, cause.kind, cause);
  return [...byKind]
    .map(([kind, causes]) => ({
      kind,
      layers: causes.length,
      ...CAUSE_WORDS[kind],
      ...(kind === 'training-mode' && { sentence: describeOldShares(causes) }),
    }))
    .sort((x, y) => y.layers - x.layers);
}

/** All that does not depend on the layers: what training-mode batches left of the old statistics is said of each audit. */
const CAUSE_WORDS: Readonly<Record<DriftCause['kind'], Pick<CauseSummary, 'sentence' | 'remedy'>>> = {
  'training-mode': {
    sentence: '',
    remedy: 'Put the frozen part back in evaluation mode after every model.train().',
  },
  uncounted: {
    sentence:
      'No training-mode batch was counted meanwhile: the statistics were copied, averaged or recomputed without the count (an EMA as Ultralytics keeps it, another rank, federated averaging over parameters), not moved by training that the count saw.',
    remedy:
      'Find out where the file’s statistics come from; eval() in this run does not change them. An EMA or another copy follows a model whose own norm layers ran in training mode: keep those in evaluation mode. Between ranks, save from one of them or broadcast the buffers; in federated averaging, send the buffers along with the parameters. bn-audit restore puts the statistics of before back.',
  },
  ema: {
    sentence:
      'The learned tensors are averages, and no training-mode batch was counted meanwhile: the file holds a model’s moving average without its count (EMA, as Ultralytics keeps it), and that model’s norm layers ran in training mode.',
    remedy:
      'Put the frozen part back in evaluation mode after every model.train(): the average follows the model that trains.',
  },
  're-estimated': {
    sentence:
      'Their batch counts went back: the statistics were reset and estimated again (update_bn of torch.optim.swa_utils, Lightning’s StochasticWeightAveraging, a precise-BN pass).',
    remedy:
      'eval() is not the cure: the reset reaches layers in evaluation mode too. Run update_bn over the trained part alone, fed by the frozen part; under Lightning, freeze with layers that are no BatchNorm (FrozenBatchNorm2d). bn-audit restore puts the statistics of before back; where re-estimating was meant, accept it with --allow. If before is the later file, swap the two.',
  },
  reset: {
    sentence:
      'The statistics are back at mean 0 and variance 1: they were reset and not estimated again, as Lightning’s StochasticWeightAveraging leaves a backbone in eval(), or reset_running_stats().',
    remedy:
      'eval() is not the cure: it is why the reset layers were not estimated again. Reset the trained part alone (update_bn over it, fed by the frozen part); under Lightning, freeze with layers that are no BatchNorm (FrozenBatchNorm2d). bn-audit restore puts the statistics of before back.',
  },
  averaged: {
    sentence:
      'Their batch counts are averages: the file holds a mean of checkpoints, or of a model over time (EMA, SWA).',
    remedy:
      'Audit the checkpoints that were averaged: where they drifted, their norm layers ran in training mode, and the average follows them.',
  },
  'batch-statistics': { sentence: '', remedy: '' },
  recounted: { sentence: '', remedy: '' },
};

/** How much of the old statistics the passes left: of the layer with the most passes, and of that with the fewest. */
function describeOldShares(causes: readonly DriftCause[]): string {
  const shares = causes.flatMap((cause) => (cause.kind === 'training-mode' ? (cause.old ?? []) : []));
  const [first, ...others] = shares;
  if (first === undefined) return 'The batch counts rose: the layers ran in training mode.';
  const values = shares.map(({ share }) => share);
  const [least, most] = [formatShare(Math.min(...values)), formatShare(Math.max(...values))];
  const isShared = others.every(({ momentum }) => momentum === first.momentum);
  const momentum =
    first.momentumFrom === 'default'
      ? ', at PyTorch’s default momentum of 0.1'
      : !isShared
        ? ''
        : first.momentum === 'cumulative'
          ? ', which weigh all batches alike'
          : `, at their momentum of ${first.momentum}`;
  return `The training-mode batches leave ${least === most ? least : `${least} to ${most}`} of the old statistics${momentum}.`;
}

/** A share as a per cent with two digits: `28 %`, `3.0 %`. */
function formatShare(share: number): string {
  const percent = share * 100;
  if (percent < 0.1) return 'less than 0.1 %';
  return `${percent >= 9.95 ? percent.toFixed(0) : percent.toPrecision(2)} %`;
}

/** One checkpoint in a report. */
export interface CheckpointSummary {
  /** As the user named it. */
  readonly path: string;
  readonly format: CheckpointFormat;
  /** Whether the file keeps the order of the network's layers. */
  readonly inModuleOrder: boolean;
  /** What the model was trained with, as far as the file tells. */
  readonly framework: Framework | null;
  /** Norm layers in the file, those left out that were folded away. */
  readonly layers: number;
  /** Norm layers of the audit that were folded into a convolution of this file. */
  readonly folded: number;
  /** Of these, convolutions with a bias of which no file tells whether a norm layer was folded in; absent without any. */
  readonly unmarked?: number;
  /** Learned tensors in the file. */
  readonly learned: number;
  /** As {@link Checkpoint.parts}. */
  readonly parts?: readonly string[];
}

/** Where one side of a layer comes from: the tensors, or how the graph supplies them; null where it cannot be read. */
export interface LayerSide {
  readonly name: string;
  /** The graph's node; null without a graph. */
  readonly node: string | null;
  readonly mean: string | null;
  readonly variance: string | null;
}

/** Statistics per channel of both sides; null where folding hides them. */
export interface PerChannel {
  readonly before: ChannelStatistics | null;
  readonly after: ChannelStatistics | null;
  /** σB / σA. */
  readonly stdRatio: readonly number[];
  /** What {@link stdRatio} may be where weights are quantised; absent elsewhere. */
  readonly stdRatioBounds?: Bounds<readonly number[]>;
}

/** A norm layer of an audit, as the JSON contract has it. */
export interface AuditLayer {
  readonly name: string;
  /** Whether {@link name} is a module path; a graph may name the layer by its node alone. */
  readonly named: boolean;
  readonly kind: string;
  readonly status: LayerStatus;
  readonly allowed: boolean;
  readonly channels: number;
  readonly channelsMoved: number | null;
  /** Channels whose statistics folding hides, so that they were not audited; absent where all were. */
  readonly channelsHidden?: number;
  readonly affine: Relation;
  readonly neighbours: Relation;
  /** How near what stayed is: to the last bit, or up to rounding; null where a learned tensor of the layer changed. */
  readonly equality: 'exact' | 'rounded' | null;
  /** The largest abs(after − before) / abs(before) that counted as rounding; 0 where none did. */
  readonly relativeDifference: number;
  /** What told of the neighbours; `unknown` where names leave open what feeds the layer. */
  readonly neighboursFrom: NeighboursFrom;
  readonly epsilon: number;
  readonly epsilonFrom: EpsilonFrom;
  /** After's own epsilon, where both files tell theirs and the two differ; absent otherwise. */
  readonly epsilonAfter?: number;
  readonly batches: Count | null;
  /** What statistics and counts together tell of the layer's past; null where they tell nothing. */
  readonly cause: DriftCause | null;
  readonly meanShift: RmsAndMax | null;
  readonly logStdRatio: RmsAndMax | null;
  /** What {@link logStdRatio} may be where weights are quantised; absent elsewhere. */
  readonly logStdRatioBounds?: MeasureBounds['logStdRatio'];
  /** What the layer's block was merged into on the side that has no branches any more; absent elsewhere. */
  readonly block?: MergedInto;
  readonly divergence: number | null;
  readonly outputShift: number | null;
  readonly pairedBy: PairedBy;
  readonly via: 'live' | 'folded';
  readonly before: LayerSide;
  readonly after: LayerSide;
  /** What a checkpoint says itself of the freeze; absent where it says nothing of the layer. */
  readonly declared?: LayerDeclaration;
  readonly perChannel?: PerChannel;
}

/** What a checkpoint says itself of a norm layer. */
export interface LayerDeclaration {
  /** Whose word it is: before's where after has none. */
  readonly side: 'before' | 'after';
  /** Whether γ and β (without affine, what feeds the layer) were frozen; null where it does not tell. */
  readonly frozen: boolean | null;
  /** What tells, and where in the file or beside it; null where nothing does. */
  readonly by: DeclaredBy | null;
  readonly where: string | null;
  /** The mode in which the module was saved; null where the file does not tell. */
  readonly training: boolean | null;
  /** Where settings put the layer in eval() for training; null where none do. */
  readonly evalBy: string | null;
}

/** The result of an audit: exactly what `--format json` prints, and all that a renderer needs. */
export interface AuditReport {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  /** "drifted" exactly when a finding of level error stands. */
  readonly verdict: 'clean' | 'drifted';
  readonly before: CheckpointSummary;
  readonly after: CheckpointSummary;
  readonly summary: {
    readonly layers: number;
    readonly byStatus: Readonly<Record<LayerStatus, number>>;
    /** Norm layers of before that go with none of after, so that they were not audited. */
    readonly notAudited: number;
    /** Smallest and largest move of the batch count, over the drifted layers, or over all where none drifted. */
    readonly batches: { readonly min: Count; readonly max: Count } | null;
    /** The drifted layer whose output moves most. */
    readonly worst: { readonly layer: string; readonly outputShift: number } | null;
    /** What moved the layers whose drift stands, the cause of most of them first; empty where counts tell nothing. */
    readonly causes: readonly CauseSummary[];
    /** Learned tensors of both checkpoints, and those that only one has or whose types cannot be compared. */
    readonly learned: {
      readonly compared: number;
      readonly equal: number;
      /** Of the equal ones, those that are so up to rounding. */
      readonly rounded: number;
      readonly changed: number;
      readonly incomparable: number;
      readonly onlyBefore: number;
      readonly onlyAfter: number;
    };
  };
  readonly regions: readonly Region[];
  readonly layers: readonly AuditLayer[];
  readonly findings: readonly Finding[];
  /** What the user should know beyond the findings; plain sentences. */
  readonly warnings: readonly string[];
}

/** Worst first; layers without a measure come last, in the order of the model. */
export function sortByShift(layers: readonly AuditLayer[]): readonly AuditLayer[] {
  const shiftOf = ({ outputShift }: AuditLayer) =>
    outputShift === null || Number.isNaN(outputShift) ? -1 : outputShift;
  return [...layers].sort((x, y) => shiftOf(y) - shiftOf(x));
}

/** Puts an audit's results in the report's form. */
export function buildReport(results: AuditResults): AuditReport {
  const { before, after, layers, findings } = results;
  const reported = layers.map((layer) => toAuditLayer(layer, results));
  return {
    schemaVersion: 1,
    tool: { name: TOOL_NAME, version: VERSION },
    verdict: verdictOf(findings),
    before: summarizeSide(before, listFolded(layers, 'before')),
    after: summarizeSide(after, listFolded(layers, 'after')),
    summary: {
      layers: layers.length,
      byStatus: countByStatus(layers),
      notAudited: results.notAudited,
      batches: findBatchRange(layers),
      worst: findWorst(layers),
      causes: summarizeCauses(reported, findings),
      learned: summarizeLearned(results.learned),
    },
    regions: results.regions,
    layers: reported,
    findings,
    warnings: listWarnings(results),
  };
}

function summarizeSide(
  { checkpoint, layers, learned }: AuditSide,
  folded: readonly LayerComparison[],
): CheckpointSummary {
  const unmarked = folded.filter(({ after: { kind } }) => kind === UNMARKED_KIND).length;
  return {
    path: checkpoint.path,
    format: checkpoint.format,
    inModuleOrder: checkpoint.inModuleOrder,
    framework: findFramework(checkpoint, layers),
    layers: layers.length,
    folded: folded.length,
    ...(unmarked === 0 ? {} : { unmarked }),
    learned: learned.size,
    ...(checkpoint.parts === undefined ? {} : { parts: checkpoint.parts }),
  };
}

function listFolded(
  layers: readonly LayerComparison[],
  side: 'before' | 'after',
): readonly LayerComparison[] {
  return layers.filter((layer) => layer.kind !== 'live' && layer[side].mean.kind === 'unresolved');
}

function countByStatus(layers: readonly LayerComparison[]): Readonly<Record<LayerStatus, number>> {
  const counts = countNone();
  for (const { status } of layers) counts[status]++;
  return counts;
}

function findBatchRange(layers: readonly LayerComparison[]): { min: Count; max: Count } | null {
  const drifted = layers.filter(({ status }) => status === 'drifted');
  const counts = (drifted.length > 0 ? drifted : layers).flatMap((layer) =>
    layer.kind === 'live' ? (layer.batches ?? []) : [],
  );
  const [first, ...others] = counts;
  if (first === undefined) return null;
  const min = others.reduce((least, count) => (count < least ? count : least), first);
  const max = others.reduce((most, count) => (count > most ? count : most), first);
  return { min: toCount(min), max: toCount(max) };
}

function findWorst(layers: readonly LayerComparison[]): { layer: string; outputShift: number } | null {
  let worst: { layer: string; outputShift: number } | null = null;
  for (const layer of layers) {
    const outputShift = measuresOf(layer)?.outputShift;
    if (layer.status !== 'drifted' || outputShift === undefined) continue;
    if (worst === null || outputShift > worst.outputShift) worst = { layer: layer.name, outputShift };
  }
  return worst;
}

function summarizeLearned({
  compared,
  onlyBefore,
  onlyAfter,
}: LearnedComparisons): AuditReport['summary']['learned'] {
  const count = (wanted: string) => compared.filter(({ equality }) => equality === wanted).length;
  return {
    compared: compared.length,
    equal: count('exact') + count('rounded'),
    rounded: count('rounded'),
    changed: count('changed'),
    incomparable: count('incomparable'),
    onlyBefore: onlyBefore.length,
    onlyAfter: onlyAfter.length,
  };
}

function toAuditLayer(
  layer: LayerComparison,
  { isAllowed, declared }: Pick<AuditResults, 'isAllowed' | 'declared'>,
): AuditLayer {
  const { before, after, drift } = layer;
  const live = layer.kind === 'live' ? layer : null;
  const hidden = layer.kind === 'live' ? 0 : layer.channelsHidden;
  const measures = measuresOf(layer);
  const perChannel = perChannelOf(layer);
  const bounds = layer.kind === 'live' ? undefined : layer.bounds;
  return {
    name: layer.name,
    named: before.isNamed || after.isNamed,
    kind: before.isFromGraph ? after.kind : before.kind,
    status: layer.status,
    allowed: isAllowed(listLayerNames(layer)),
    channels: layer.channels,
    channelsMoved: drift?.channelsMoved ?? null,
    ...(hidden === 0 ? {} : { channelsHidden: hidden }),
    affine: layer.affine,
    neighbours: layer.neighbours,
    equality: layer.equality,
    relativeDifference: layer.relativeDifference,
    neighboursFrom: live?.neighboursFrom ?? 'graph',
    epsilon: layer.epsilon,
    epsilonFrom: layer.epsilonFrom,
    ...(live?.epsilonAfter === undefined ? {} : { epsilonAfter: live.epsilonAfter }),
    batches: live === null || live.batches === null ? null : toCount(live.batches),
    cause: live?.cause ?? null,
    meanShift: measures?.meanShift ?? null,
    logStdRatio: logStdRatioOf(layer),
    ...(bounds === undefined ? {} : { logStdRatioBounds: bounds.logStdRatio }),
    ...(layer.kind === 'merged' ? { block: layer.block } : {}),
    divergence: measures?.divergence ?? null,
    outputShift: measures?.outputShift ?? null,
    pairedBy: layer.pairedBy,
    via: viaOf(layer),
    before: toLayerSide(before),
    after: toLayerSide(after),
    ...describeLayerDeclaration(layer, declared),
    ...(perChannel === null ? {} : { perChannel }),
  };
}

function perChannelOf(layer: LayerComparison): PerChannel | null {
  const { drift } = layer;
  if (drift === null) return null;
  const found =
    'measures' in drift
      ? drift.perChannel
      : drift.stdRatio && { before: null, after: null, stdRatio: drift.stdRatio };
  const bounds = layer.kind === 'live' ? undefined : layer.bounds;
  if (found === null || bounds === undefined) return found;
  const { low, high } = bounds.stdRatio;
  return { ...found, stdRatioBounds: { low: [...low], high: [...high] } };
}

function describeLayerDeclaration(layer: LayerComparison, declared: Declared): Pick<AuditLayer, 'declared'> {
  const { affine, evalBy } = layerDeclarationOf(layer, declared);
  const training = trainingModeOf(layer);
  if (affine === null && evalBy === null && training === null) return {};
  return {
    declared: {
      side: declared.side,
      frozen: affine?.frozen ?? null,
      by: affine?.by ?? null,
      where: affine?.where ?? null,
      training,
      evalBy,
    },
  };
}

function toLayerSide(layer: NormLayer): LayerSide {
  const { nodeName, mean, variance } = layer;
  return {
    name: nameInFile(layer),
    node: nodeName,
    mean: describeStatistic(mean),
    variance: describeStatistic(variance),
  };
}

/** The name of a statistic's tensor, and how the graph supplies it where it is no plain tensor; null if unresolved. */
export function describeStatistic(statistic: LayerVector): string | null {
  if (statistic.kind === 'unresolved') return null;
  const { tensor, source } = statistic;
  return source === 'tensor' || source === 'initializer' ? tensor.name : `${tensor.name} (${source})`;
}

/** A count as JSON may hold it: a number up to 2^53, a string of digits beyond. */
export function toCount(count: bigint): Count {
  const number = Number(count);
  return Number.isSafeInteger(number) ? number : count.toString();
}

function listWarnings({
  before,
  after,
  learned,
  layers,
  declared,
  doubts,
  unusedOptions,
}: AuditResults): readonly string[] {
  const incomparable = learned.compared.filter(({ equality }) => equality === 'incomparable').length;
  return [
    ...doubts,
    ...unusedOptions,
    ...describeDeclared(declared, layers, learned),
    ...describeRounded(learned.compared),
    ...describeQuantised({ before, after, layers }),
    ...before.checkpoint.warnings.map((warning) => `before: ${warning}`),
    ...after.checkpoint.warnings.map((warning) => `after: ${warning}`),
    ...(incomparable > 0
      ? [
          `${formatPlural(incomparable, 'learned tensor')} cannot be compared: computed of others on one side alone, of a type that is not decoded, or known from a baseline that holds no sample of it`,
        ]
      : []),
    ...describeReshaped(learned.compared),
    ...groupNotes(
      layers.map((layer) => ({
        name: layer.name,
        notes: [
          ...layer.before.notes,
          ...layer.after.notes,
          ...(layer.kind === 'live' && layer.cause?.kind === 'recounted' ? [RECOUNTED_NOTE] : []),
        ],
      })),
    ),
  ];
}

/** How each kind of rounding comes about, as the end of a sentence. */
const ROUNDING_CAUSES: Readonly<Record<RoundingCause, string>> = {
  narrowed: 'stored in a narrower type on the way',
  averaged: 'averaged with themselves (EMA, SWA or a mean of checkpoints)',
  merged: 'something was added to them and taken out again (a merged adapter, for example)',
  quantised: 'each is stored as integers, which stand for intervals that meet',
};

/** A count that went back proves no training: nothing about it is a finding. */
const RECOUNTED_NOTE =
  'the batch count went back or is an average, while the statistics stood still: an average of counts (AveragedModel with use_buffers=True), or a layer made anew around the same statistics (timm’s unfreeze)';

/** Which learned tensors are equal up to rounding alone, by what rounded them. */
function describeRounded(compared: LearnedComparisons['compared']): readonly string[] {
  return (['averaged', 'narrowed', 'merged', 'quantised'] as const).flatMap((cause) => {
    const differences = compared.flatMap(({ rounding }) =>
      rounding?.cause === cause ? [rounding.relativeDifference] : [],
    );
    if (differences.length === 0) return [];
    const largest = Math.max(...differences).toExponential(1);
    const how =
      cause === 'quantised' ? 'within a quantisation step' : `up to rounding (≤ ${largest} of each value)`;
    return [
      `${formatPlural(differences.length, 'learned tensor')} ${differences.length === 1 ? 'is' : 'are'} equal ${how}, and count as unchanged: ${ROUNDING_CAUSES[cause]}`,
    ];
  });
}

/** Which side's weights are quantised, and what that leaves open of layers that are told from them. */
function describeQuantised({
  before,
  after,
  layers,
}: Pick<AuditResults, 'before' | 'after' | 'layers'>): readonly string[] {
  const sides = Object.entries({ before, after }).flatMap(([name, { learned }]) => {
    // Biases are int32 in all such models. `int8` is short for I8, `uint8` for U8.
    const types = [...learned.values()].flatMap(({ quantised, shape }) =>
      quantised === undefined || shape.length < 2 || quantised.codes.dtype.startsWith('F8')
        ? []
        : quantised.codes.dtype
            .replace(/^I/, 'int')
            .replace(/^U/, 'uint')
            .replace(/\d+$/, (bits) => String(quantised.codes.packedBits ?? bits)),
    );
    return types.length === 0 ? [] : `${name} (${[...new Set(types)].sort().join(', ')})`;
  });
  if (sides.length === 0) return [];
  const told = layers.flatMap((layer) =>
    layer.kind === 'live' || layer.bounds === undefined ? [] : { kind: layer.after.kind, ...layer.bounds },
  );
  const stored = `weights are quantised in ${sides.join(' and ')}: a code stands for an interval of values`;
  if (told.length === 0) return [`${stored}, and weights whose intervals meet count as unchanged`];
  const ratios = told.map(({ stdRatio }) => stdRatio);
  const widths = new Float64Array(ratios.reduce((sum, { low }) => sum + low.length, 0));
  let known = 0;
  for (const { low, high } of ratios) {
    for (let channel = 0; channel < low.length; channel++) {
      const width = Math.sqrt((high[channel] ?? Number.NaN) / (low[channel] as number)) - 1;
      if (Number.isFinite(width)) widths[known++] = width;
    }
  }
  const sorted = widths.subarray(0, known).sort();
  const percent = (width: number | undefined) => `${(100 * (width ?? Number.NaN)).toPrecision(2)} %`;
  const median = percent(sorted[Math.floor(known / 2)]);
  return [
    `${stored}, so that std ratios of ${formatLayers(told.length, told)} are known to ± ${median} (median of channels; ± ${percent(sorted.at(-1))} at worst), and smaller drift does not show`,
  ];
}

/** At most so many of the tensors whose shape changed are named; the rest is counted. */
const MAX_NAMED_TENSORS = 12;

/** Which learned tensors both have under one name, with other sizes. */
function describeReshaped(compared: LearnedComparisons['compared']): readonly string[] {
  const reshaped = compared.flatMap(({ name, reshaped: shapes }) =>
    shapes === undefined
      ? []
      : [
          `${shorten(name, MAX_NAME_LENGTH)} ([${shapes.before.join(', ')}], now [${shapes.after.join(', ')}])`,
        ],
  );
  if (reshaped.length === 0) return [];
  return [
    `${formatPlural(reshaped.length, 'learned tensor')} ${reshaped.length === 1 ? 'has' : 'have'} another shape in after, and ${reshaped.length === 1 ? 'counts' : 'count'} as changed: ${listFirst(reshaped, MAX_NAMED_TENSORS)}`,
  ];
}

/** A name of a length that leaves a sentence readable. */
const MAX_NAME_LENGTH = 120;

/** Notes on layers as sentences; one that many layers share is said once. */
export function groupNotes(
  layers: readonly { readonly name: string; readonly notes: readonly string[] }[],
): readonly string[] {
  const sharers = new Map<string, string[]>();
  for (const { name, notes } of layers) for (const note of new Set(notes)) addTo(sharers, note, name);
  return [...sharers].map(([note, names]) => {
    const first = shorten(names[0] ?? '', MAX_NAME_LENGTH);
    return names.length === 1 ? `${first}: ${note}` : `${names.length} norm layers (${first}, …): ${note}`;
  });
}
