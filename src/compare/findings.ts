// The kinds of findings, one row each, and the findings of a comparison.

import { failUnreachable, quote, UsageError } from '../errors.js';
import { listFirst, modulePathOf, type NameSource } from '../norm/naming.js';
import {
  isBatchGraph,
  type LayersAndLearned,
  listLayerNames,
  listOwnNames,
  type NormLayer,
} from '../norm/norm-layer.js';
import {
  type DriftCause,
  type FoldedComparison,
  type LayerComparison,
  type LiveComparison,
  type MergedComparison,
  measuresOf,
} from './compare-layers.js';
import { findIdle, matchNames, type NameMatcher, suggestModule } from './globs.js';
import { checkRename, type PrefixEdit, translateName } from './pair-layers.js';

/** How much a finding weighs. Only errors make a verdict "drifted". */
export type FindingLevel = 'error' | 'warning' | 'note';

interface FindingRow {
  /** A headline: what reports put over a list of findings. */
  readonly title: string;
  /** The level that findings have unless whoever makes them says otherwise. */
  readonly level: FindingLevel;
  /** Whether it is about a layer that cannot be read or used: `--allow` and `--min-shift` excuse drift alone. */
  readonly isDefect?: boolean;
  /** `drift` leads a report; of `movement` with what a layer should have moved with, accepted ones are told as drift is. */
  readonly says?: 'drift' | 'movement';
}

/** In the order of the table in docs/findings. */
const ROWS = {
  'frozen-stats-drift': { title: 'Statistics of a frozen layer drifted', level: 'error', says: 'drift' },
  'invalid-stats': { title: 'Statistics are NaN, infinite or negative', level: 'error', isDefect: true },
  'stats-reset': { title: 'Statistics were reset to their initial values', level: 'error', says: 'movement' },
  'training-mode-graph': {
    title: 'The graph normalises by batch statistics',
    level: 'error',
    isDefect: true,
  },
  'unresolved-stats': { title: 'Statistics cannot be read from the file', level: 'error', isDefect: true },
  'folded-scale-drift': {
    title: 'A frozen convolution was rescaled per channel, as folding does it',
    level: 'error',
    says: 'drift',
  },
  'folded-bias-drift': { title: 'Only the bias that folding writes moved', level: 'error', says: 'drift' },
  'affine-frozen-drift': {
    title: 'Affine frozen, statistics moved with what feeds the layer',
    level: 'warning',
    says: 'movement',
  },
  'trained-norm-in-frozen': {
    title: 'The norm layer was trained, what feeds it was frozen',
    level: 'warning',
  },
  'batch-stats-while-frozen': {
    title: 'The layer ran in training mode though its statistics stood still',
    level: 'warning',
  },
  'unpaired-layer': { title: 'The layer has no counterpart', level: 'warning' },
  'stats-removed': { title: 'The layer has lost its running statistics', level: 'error' },
  'epsilon-changed': { title: 'The layer normalises with another epsilon', level: 'error' },
  'frozen-weights-changed': { title: 'A tensor that must be frozen changed', level: 'error' },
  'declared-frozen-changed': { title: 'The file calls tensors frozen that changed', level: 'warning' },
  'initial-stats': { title: 'Statistics were never updated', level: 'note' },
} as const satisfies Readonly<Record<string, FindingRow>>;

/** Every kind of finding. Stable: policies and reports refer to it. */
export type FindingKind = keyof typeof ROWS;

const FINDINGS: Readonly<Record<FindingKind, FindingRow>> = ROWS;

/** Every kind of finding, in the order of the table in docs/findings. */
export const FINDING_KINDS = Object.keys(ROWS) as readonly FindingKind[];

/** The headline of a kind of finding. */
export function titleOf(kind: FindingKind): string {
  return FINDINGS[kind].title;
}

/** One thing that an audit or an inspection found. */
export interface Finding {
  readonly kind: FindingKind;
  readonly level: FindingLevel;
  /** The norm layer, or the module of the learned tensor, that it is about. */
  readonly layer: string;
  /** One sentence for people. May hold names from the file: renderers escape it. */
  readonly message: string;
  /** The page that explains the kind, as a path within the package. */
  readonly docs: string;
  /** The checkpoint that it is about, where a report is about several; absent elsewhere. */
  readonly checkpoint?: string;
}

/** Makes a finding with its kind's level and docs page. */
export function makeFinding(
  kind: FindingKind,
  layer: string,
  message: string,
  level: FindingLevel = FINDINGS[kind].level,
): Finding {
  return { kind, level, layer, message, docs: `docs/findings/${kind}.md` };
}

/** What findings come to: drifted where any is an error. */
export function verdictOf(findings: readonly Finding[]): 'clean' | 'drifted' {
  return findings.some(({ level }) => level === 'error') ? 'drifted' : 'clean';
}

/** Whether a finding is drift that stands. */
export function isLeadingDrift({ kind, level }: Finding): boolean {
  return level === 'error' && FINDINGS[kind].says === 'drift';
}

/** Whether a finding is drift, or a layer that moved with what it should not have, that the user's policy accepts. */
export function isExcusedDrift({ kind, level }: Finding): boolean {
  return level === 'note' && FINDINGS[kind].says !== undefined;
}

/** What a user accepts or insists on. */
export interface FindingPolicy {
  /** Layers whose drift is accepted. */
  readonly isAllowed: NameMatcher;
  /** Modules that must be frozen, statistics and learned tensors. */
  readonly isFrozen: NameMatcher;
  /** Drift whose outputShift is below is ignored. */
  readonly minShift: number;
}

interface PathOptions {
  readonly frozen?: readonly string[] | undefined;
  readonly allow?: readonly string[] | undefined;
  readonly minShift?: number | undefined;
}

type Names = readonly (readonly string[])[];

/**
 * What the findings are judged by.
 *
 * @param all what globs may mean.
 */
export function makeFindingPolicy({ frozen, allow, minShift }: PathOptions, all: Names): FindingPolicy {
  return {
    isAllowed: matchNames(allow ?? [], all),
    isFrozen: matchNames(frozen ?? [], all),
    minShift: minShift ?? 0,
  };
}

/**
 * Makes sure that each glob of `frozen` means something: one that does not would be a silent pass.
 *
 * @param names of the norm layers and learned tensors of both checkpoints.
 * @throws UsageError naming the glob.
 */
export function refuseIdleFrozen(globs: readonly string[], names: Names): void {
  const [idle] = findIdle(globs, names);
  if (idle !== undefined)
    throw new UsageError(
      `--frozen ${quote(idle)} matches no norm layer and no learned tensor of both checkpoints${suggestModule(idle, names)}`,
      'Globs match module paths with "." as the separator: backbone, backbone.layer1, **.bn1',
    );
}

/**
 * A glob of `allow` that excuses nothing here; in a policy for several checkpoints that is no error.
 *
 * @param names of the norm layers of either checkpoint.
 */
export function findIdleAllows(globs: readonly string[], names: Names): readonly string[] {
  return findIdle(globs, names).map(
    (glob) => `--allow ${quote(glob)} matches no norm layer${suggestModule(glob, names)}`,
  );
}

/**
 * How edits read in names without wrappers, which is what they are applied to: users copy names from their files.
 *
 * @throws UsageError as {@link checkRename}.
 */
export function readMaps(
  maps: readonly PrefixEdit[],
  before: NameSource,
  after: NameSource,
): readonly PrefixEdit[] {
  for (const map of maps) checkRename(map);
  return maps.map(({ from, to }) => ({ from: modulePathOf(from, before), to: modulePathOf(to, after) }));
}

/**
 * Edits of names by which nothing was paired.
 *
 * @param read the edits as {@link readMaps} gives them.
 */
export function findIdleMaps(
  maps: readonly PrefixEdit[],
  read: readonly PrefixEdit[],
  { before, after }: Readonly<Record<'before' | 'after', LayersAndLearned>>,
): readonly string[] {
  const namesOf = ({ layers, learned }: LayersAndLearned) => [
    ...layers.map(({ name }) => name),
    ...learned.keys(),
  ];
  const names = new Set(namesOf(after));
  const leads = (map: PrefixEdit) =>
    namesOf(before).some((name) => translateName(name, [map], (to) => names.has(to)) !== null);
  return maps
    .filter((_, index) => !read.slice(index, index + 1).some(leads))
    .map(
      ({ from, to }) =>
        `--map ${quote(`${from}=${to}`)} leads from no name of before to one of after: nothing was paired by it`,
    );
}

/** The findings about a compared layer, with the policy applied. */
export function findLayerFindings(layer: LayerComparison, policy: FindingPolicy): readonly Finding[] {
  const found = [
    ...findStatusFindings(layer, policy),
    ...(layer.kind === 'live' ? findResets(layer) : []),
    ...findTrainingMode(layer),
    ...(layer.kind === 'live' ? findOtherEpsilon(layer) : []),
  ];
  return found.map((finding) => excuse(finding, layer, policy));
}

function findStatusFindings(layer: LayerComparison, policy: FindingPolicy): readonly Finding[] {
  const { name } = layer;
  const isFrozen = policy.isFrozen(listLayerNames(layer));
  switch (layer.status) {
    case 'drifted':
      return [findDrift(layer)];
    case 'invalid':
      return [makeFinding('invalid-stats', name, `${layer.problem} in after`)];
    case 'unresolved':
      return [makeFinding('unresolved-stats', name, `its statistics cannot be audited: ${layer.problem}`)];
    case 'ambiguous':
      return [makeFinding('folded-bias-drift', name, describeMovedBias(layer))];
    case 'affine-frozen':
    case 'trained': {
      const move = describeMove(layer);
      const insisted = `${move}, although --frozen says that it must not`;
      if (isFrozen) return [makeFinding('frozen-stats-drift', name, insisted)];
      if (layer.status === 'trained') return findTrainedInFrozen(layer);
      const message = `${move} with the trained weights that feed it, while its own weight and bias stayed frozen`;
      return [makeFinding('affine-frozen-drift', name, message)];
    }
    case 'held':
      return isFrozen ? [] : findTrainedInFrozen(layer);
    case 'locked':
      return [];
    default:
      return failUnreachable(layer.status);
  }
}

function findDrift(layer: LayerComparison): Finding {
  if (layer.kind !== 'live' && layer.isUniformScale) {
    const message = `all ${layer.channels} output channels of its convolution were rescaled by the same constant: weight decay or rescaling of the convolution explains that as well as moved statistics`;
    return makeFinding('folded-scale-drift', layer.name, message, 'warning');
  }
  switch (layer.kind) {
    case 'live':
      return makeFinding('frozen-stats-drift', layer.name, describeDrift(layer));
    case 'recovered':
      return makeFinding('frozen-stats-drift', layer.name, `${describeMove(layer)}${RECOVERED_CLAUSE}`);
    case 'folded':
      return makeFinding('folded-scale-drift', layer.name, describeScales(layer));
    case 'merged':
      return makeFinding('frozen-stats-drift', layer.name, describeMerged(layer));
    default:
      return failUnreachable(layer);
  }
}

const RECOVERED_CLAUSE =
  ', solved from the convolution that it was folded into, which was frozen up to the scale that folding writes; a trained weight or bias of the norm layer itself would look the same';

/** A bias is moved by statistics that were folded into it, and by training. */
function describeMovedBias(layer: LayerComparison): string {
  if (layer.kind === 'merged')
    return `its scale in ${quote(layer.block.name)}, which its block was merged into, is what it was, and the block's bias moved${describeBlockShift(layer)}: either the running mean of one of its ${layer.block.branches} branches drifted, or a bias was trained on its own; their sum does not tell which`;
  return layer.kind === 'folded' && layer.isUnmarked
    ? 'the weights of this convolution are equal, and its bias moved: either a norm layer was folded into it, whose running mean drifted, or the bias was trained on its own; the file tells neither'
    : 'the weights of its convolution are equal, and the bias that folding writes moved: either the running mean drifted, or a bias was trained on its own; a folded file cannot tell which';
}

/** Both sides folded: only the variance's ratio shows. */
function describeScales({ channels, drift, isUnmarked }: FoldedComparison): string {
  const moved = `${drift?.channelsMoved ?? channels} of ${channels} output channels`;
  const ratio = `(standard deviations by × ${formatRatio(drift)} rms)`;
  if (isUnmarked)
    return `${moved} of this convolution with a bias were each rescaled by a constant or got another bias, which is what moved running variances look like once a norm layer is folded into it ${ratio}; the file does not say that one was, a trained weight of the norm layer looks the same, and how far the means moved cannot be told`;
  return `${moved} of its convolution were each rescaled by a constant or got another bias, which is what moved running variances look like after folding ${ratio}; a trained weight of the norm layer looks the same, and a folded file cannot tell how far the means moved`;
}

/** Of a sum of branches: each one's spread, and what the means did together. */
function describeMerged(layer: MergedComparison): string {
  const { channels, drift, block } = layer;
  return `the running variances of ${drift?.channelsMoved ?? channels} of ${channels} channels moved (standard deviations by × ${formatRatio(drift)} rms), solved from ${quote(block.name)}, which the ${block.branches} branches of its block were merged into with frozen weights; how far its own mean moved their sum does not tell${describeBlockShift(layer)}, and a trained weight or bias of the norm layer would look the same`;
}

function describeBlockShift({ block: { meanShift } }: MergedComparison): string {
  return meanShift === null || meanShift.max === 0
    ? ''
    : ` (the means of the block together: by ${meanShift.rms.toPrecision(3)} σ of its output rms)`;
}

function formatRatio(drift: FoldedComparison['drift']): string {
  return Math.exp(drift?.logStdRatio.rms ?? Number.NaN).toPrecision(3);
}

function describeDrift(layer: LiveComparison): string {
  const evidence = [
    layer.affine === 'equal' ? 'its weight and bias' : null,
    layer.neighbours === 'equal' ? 'the weights that feed it' : null,
  ].filter((part) => part !== null);
  const isOpen = layer.neighboursFrom === 'unknown';
  const nothing = isOpen ? 'it has no weight or bias that was trained' : 'nothing learned belongs to it';
  const frozen = evidence.length === 0 ? nothing : `${evidence.join(' and ')} are identical`;
  const open = isOpen ? '; which weights feed it, the names in the file leave open' : '';
  return `${describeMove(layer)}, although ${frozen}${open}`;
}

/** Under `--frozen` its changed weight and bias are errors by themselves. */
function findTrainedInFrozen(layer: LayerComparison): readonly Finding[] {
  if (layer.affine !== 'changed' || layer.neighbours !== 'equal') return [];
  const statistics =
    layer.status === 'held' ? 'its statistics stood still' : `${describeMove(layer)} with them`;
  return [
    makeFinding(
      'trained-norm-in-frozen',
      layer.name,
      `the weights that feed it are identical, but its own weight or bias was trained, and ${statistics}: the frozen part computes something else than before`,
    ),
  ];
}

function describeMove(layer: LayerComparison): string {
  const { channels, drift } = layer;
  const measures = measuresOf(layer);
  const shift =
    measures === null
      ? ''
      : ` (mean by ${measures.meanShift.rms.toPrecision(3)} σ rms, output by ${measures.outputShift.toPrecision(3)} of its size)`;
  const cause =
    layer.kind !== 'live' || layer.cause === null ? '' : describeCause(layer.cause, layer.batches ?? 0n);
  return `the running statistics of ${drift?.channelsMoved ?? channels} of ${channels} channels moved${shift}${cause}`;
}

function describeCause(cause: DriftCause, batches: bigint): string {
  switch (cause.kind) {
    case 'training-mode':
      return ` after ${batches} training-mode batch${batches === 1n ? '' : 'es'}`;
    case 'uncounted':
      return ' without a training-mode batch being counted';
    case 'ema':
      return ' without a training-mode batch being counted, in an average over time';
    case 're-estimated':
      return ` while the batch count went back by ${-batches} (reset and estimated again)`;
    case 'reset':
      return ' to mean 0 and variance 1 (reset, and not estimated again)';
    case 'averaged':
      return ` under a batch count that is an average (${Number(cause.count.toPrecision(6))} in ${cause.side})`;
    case 'batch-statistics':
    case 'recounted':
      return '';
    default:
      return failUnreachable(cause);
  }
}

/** What was done to statistics or counts that a comparison of values alone does not show. */
function findResets({ name, isReset, cause, batches }: LiveComparison): readonly Finding[] {
  const reset =
    'every channel of after has mean 0 and variance 1, as if the layer had never run, under a trained affine';
  const inBatches = `the batch count moved by ${batches} while the statistics stood still: in training the layer normalised by batch statistics (momentum 0, or statistics that were put back)`;
  return [
    ...(isReset ? [makeFinding('stats-reset', name, reset)] : []),
    ...(cause?.kind === 'batch-statistics' ? [makeFinding('batch-stats-while-frozen', name, inBatches)] : []),
  ];
}

function findTrainingMode({ name, before, after }: LayerComparison): readonly Finding[] {
  const message = (side: string) =>
    `the node in ${side} runs in training mode: it normalises by batch statistics wherever it is deployed`;
  return [
    ...(isBatchGraph(after) ? [makeFinding('training-mode-graph', name, message('after'))] : []),
    ...(isBatchGraph(before) ? [makeFinding('training-mode-graph', name, message('before'), 'warning')] : []),
  ];
}

function findOtherEpsilon({ name, before: one, epsilonAfter }: LiveComparison): readonly Finding[] {
  if (epsilonAfter === undefined) return [];
  const [before, after] = [one.epsilon ?? one.defaultEpsilon, epsilonAfter].map((value) =>
    Number(value.toPrecision(6)),
  );
  const message = `its epsilon went from ${before} to ${after}: it divides by √(variance + epsilon), so that its outputs changed whatever its tensors hold`;
  return [makeFinding('epsilon-changed', name, message)];
}

/** A finding stays where `--allow` names what it is about, as a note that says so. */
export function allowNamed(
  finding: Finding,
  names: readonly string[],
  { isAllowed }: Pick<FindingPolicy, 'isAllowed'>,
): Finding {
  return isAllowed(names) ? { ...finding, level: 'note', message: `allowed: ${finding.message}` } : finding;
}

function excuse(finding: Finding, layer: LayerComparison, policy: FindingPolicy): Finding {
  if (finding.level === 'note' || FINDINGS[finding.kind].isDefect === true) return finding;
  const allowed = allowNamed(finding, listLayerNames(layer), policy);
  const shift = measuresOf(layer)?.outputShift;
  if (allowed !== finding) return allowed;
  const isSmall = shift !== undefined && shift < policy.minShift;
  if (isSmall && (finding.kind === 'frozen-stats-drift' || finding.kind === 'affine-frozen-drift'))
    return { ...finding, level: 'note', message: `below --min-shift ${policy.minShift}: ${finding.message}` };
  return finding;
}

/** The finding about a layer that only one checkpoint has. */
export function findUnpaired(layer: NormLayer, side: 'before' | 'after', policy: FindingPolicy): Finding {
  const isNew = side === 'after';
  const message = isNew ? 'the layer is new in after' : 'after has no such layer: it was not audited';
  const finding = makeFinding('unpaired-layer', layer.name, message, isNew ? 'note' : 'warning');
  return isNew ? finding : allowNamed(finding, listOwnNames(layer), policy);
}

/** Kinds about layers of before that were compared with none of after. */
const UNPAIRED_KINDS: ReadonlySet<FindingKind> = new Set<FindingKind>(['unpaired-layer', 'stats-removed']);

/** At most so many of the layers without a counterpart are named; the rest is counted. */
const MAX_NAMED_LAYERS = 5;

/**
 * What else than an audit has to say of layers that only before has.
 *
 * @param consequence what did not happen to them, such as `not restored`.
 */
export function describeUnpaired(findings: readonly Finding[], consequence: string): readonly string[] {
  const names = findings
    .filter(({ kind, level }) => UNPAIRED_KINDS.has(kind) && level !== 'note')
    .map(({ layer }) => quote(layer));
  if (names.length === 0) return [];
  const named = listFirst(names, MAX_NAMED_LAYERS);
  return [`norm layers that after lacks, or has otherwise, were ${consequence}: ${named}`];
}
