// What is said of layers that have no partner, or of a single layer.

import type { Checkpoint, ModuleFacts, Tensor } from '../checkpoint/checkpoint.js';
import { quote } from '../errors.js';
import { haveSameBytes } from '../io/byte-source.js';
import { refuseWithoutLayers } from '../norm/missing-layers.js';
import {
  addTo,
  dottedNameOf,
  dottedTensorsOf,
  joinPath,
  listFirst,
  modulePathOf,
  splitPath,
} from '../norm/naming.js';
import {
  addNote,
  chooseLayerName,
  isBatchGraph,
  type LayersAndLearned,
  listLayerNames,
  listOwnNames,
  type NormLayer,
  storedTensorOf,
  whyUnresolved,
} from '../norm/norm-layer.js';
import { type EpsilonFrom, type LayerComparison, readBatchCount, readStoredLayer } from './compare-layers.js';
import type { LearnedComparisons } from './compare-learned.js';
import {
  allowNamed,
  type Finding,
  type FindingKind,
  type FindingLevel,
  type FindingPolicy,
  findUnpaired,
  makeFinding,
} from './findings.js';
import type { ValuedPairing } from './pair-by-values.js';
import { findNamesake, type Pairing, translateName } from './pair-layers.js';
import { areInitial, findInvalidValue, type StatisticsSummary, summarizeStatistics } from './statistics.js';

/** The health of one norm layer by itself. */
export interface LayerExamination {
  readonly layer: NormLayer;
  readonly status: 'ok' | 'invalid' | 'unresolved';
  readonly epsilon: number;
  readonly epsilonFrom: EpsilonFrom;
  readonly batches: bigint | null;
  /** Null where the statistics cannot be read. */
  readonly summary: StatisticsSummary | null;
  readonly perChannel: ChannelValues | null;
  readonly findings: readonly Finding[];
}

/** A layer's values per channel; gamma and beta null without affine. */
export interface ChannelValues {
  readonly mean: readonly number[];
  readonly variance: readonly number[];
  readonly gamma: readonly number[] | null;
  readonly beta: readonly number[] | null;
}

/** Reads one layer's statistics and says what is wrong with them. */
export async function examineLayer(
  layer: NormLayer,
  { epsilon, keepChannels }: { epsilon?: number | undefined; keepChannels: boolean },
): Promise<LayerExamination> {
  const unread = whyUnresolved(layer);
  const statistics = unread === null ? await readStoredLayer(layer) : null;
  const summary = statistics === null ? null : summarizeStatistics(statistics);
  const invalid = statistics === null ? null : findInvalidValue(statistics);
  const count = await readBatchCount(layer);
  const describeAverage = (average: number) =>
    `its batch count is an average, ${Number(average.toPrecision(6))}: the file holds a mean of checkpoints, or of a model over time`;
  const findings: Finding[] = [];
  const find = (kind: FindingKind, message: string, level?: FindingLevel) =>
    findings.push(makeFinding(kind, layer.name, message, level));
  if (unread !== null) find('unresolved-stats', `its statistics cannot be read: ${unread}`);
  if (invalid !== null) find('invalid-stats', invalid);
  if (isBatchGraph(layer)) find('training-mode-graph', TRAINING_MODE_MESSAGE, 'warning');
  if (statistics !== null && areInitial(statistics)) find('initial-stats', INITIAL_MESSAGE);
  return {
    layer: typeof count === 'number' ? addNote(layer, describeAverage(count)) : layer,
    status: statistics === null ? 'unresolved' : invalid === null ? 'ok' : 'invalid',
    epsilon: epsilon ?? layer.epsilon ?? layer.defaultEpsilon,
    epsilonFrom: epsilon !== undefined ? 'option' : layer.epsilon === null ? 'default' : 'graph',
    batches: typeof count === 'bigint' ? count : null,
    summary,
    perChannel:
      keepChannels && statistics !== null
        ? {
            mean: [...statistics.mean.values],
            variance: [...statistics.variance.values],
            gamma: statistics.gamma && [...statistics.gamma.values],
            beta: statistics.beta && [...statistics.beta.values],
          }
        : null,
    findings,
  };
}

const TRAINING_MODE_MESSAGE =
  'the node runs in training mode: it normalises by batch statistics wherever it is deployed';

const INITIAL_MESSAGE = 'every channel still has mean 0 and variance 1: the statistics were never updated';

/**
 * What is wrong with a layer of after by itself, whatever before holds.
 *
 * @param why it was not compared with one of before; a clause.
 * @throws CheckpointError when its statistics cannot be read.
 */
export async function findFaults(layer: NormLayer, why: string): Promise<readonly Finding[]> {
  const { findings } = await examineLayer(layer, { keepChannels: false });
  return findings.flatMap(({ kind, message }) =>
    kind === 'invalid-stats' || kind === 'training-mode-graph'
      ? [makeFinding(kind, layer.name, `${why}: ${message}`)]
      : [],
  );
}

/** Layers that were not audited: no pair was made of them. */
export interface UnpairedLayers {
  /** Layers that both checkpoints have under one name, with another number of channels or folded into something else. */
  readonly unlike: readonly { readonly before: NormLayer; readonly after: NormLayer }[];
  /** Layers of before that after has without statistics. */
  readonly withoutStatistics: readonly BareLayer[];
  readonly onlyBefore: readonly NormLayer[];
  readonly onlyAfter: readonly NormLayer[];
  /** What layers of {@link onlyBefore} are nearest to in after, and why that is not it; clauses. */
  readonly nearest: ReadonlyMap<NormLayer, string>;
}

interface BareLayer {
  readonly layer: NormLayer;
  /** Its path in after. */
  readonly path: string;
  /** Running mean and variance of after that no norm layer's node reads; empty without. */
  readonly unread: readonly Tensor[];
}

type AfterSide = Pick<LayersAndLearned, 'learned'> & { readonly checkpoint: Checkpoint };

/** Tells why layers have no partner, by the names that before's have in after. */
export function sortUnpaired(
  { onlyBefore, onlyAfter, edits, explain }: Omit<Pairing, 'pairs'> & Partial<Pick<ValuedPairing, 'explain'>>,
  after: AfterSide,
): UnpairedLayers {
  const left = new Map(onlyAfter.map((layer) => [layer.name, layer]));
  const unlike: { before: NormLayer; after: NormLayer }[] = [];
  const withoutStatistics: BareLayer[] = [];
  const gone: NormLayer[] = [];
  const known = onlyBefore.length === 0 ? null : new KnownModules(after);
  for (const layer of onlyBefore) {
    const { name, isNamed, channels } = layer;
    const partner = findNamesake(name, edits, left);
    const path = isNamed ? translateName(name, edits, (one) => known?.isNorm(one, channels) === true) : null;
    if (partner !== undefined && isNamed && partner.isNamed) {
      unlike.push({ before: layer, after: partner });
      left.delete(partner.name);
    } else if (path !== null) withoutStatistics.push({ layer, path, unread: known?.listUnread(path) ?? [] });
    else gone.push(layer);
  }
  const candidates = [...left.values()];
  const nearest = new Map(
    gone.flatMap((layer) => {
      const clause = explain?.(layer, candidates) ?? null;
      return clause === null ? [] : [[layer, clause] as const];
    }),
  );
  return { unlike, withoutStatistics, onlyBefore: gone, onlyAfter: candidates, nearest };
}

/** The version of PyTorch's BatchNorm in a state dict's metadata; GroupNorm, LayerNorm and Identity have 1. */
const BATCH_NORM_VERSION = 2;

/** What after tells of modules in which no statistics were found. */
class KnownModules {
  readonly #facts: ReadonlyMap<string, ModuleFacts>;
  readonly #learned = new Map<string, Tensor[]>();
  readonly #checkpoint: Checkpoint;
  /** Modules that count their batches: only layers with statistics do, or did. */
  readonly #counting = new Set<string>();

  constructor({ checkpoint, learned }: AfterSide) {
    this.#checkpoint = checkpoint;
    this.#facts = new Map(
      [...checkpoint.modules].map(([path, facts]) => [modulePathOf(path, checkpoint), facts]),
    );
    for (const [name, tensor] of learned) addTo(this.#learned, splitPath(name)[0], tensor);
    for (const name of checkpoint.tensors.keys()) {
      const [path, leaf] = splitPath(dottedNameOf(name, checkpoint));
      if (leaf === 'num_batches_tracked') this.#counting.add(path);
    }
  }

  /** The statistics that a graph holds beside its norm layers: FrozenBatchNorm2d is exported as a product and a sum. */
  listUnread(path: string): readonly Tensor[] {
    const tensors = dottedTensorsOf(this.#checkpoint);
    return ['running_mean', 'running_var'].flatMap((leaf) => tensors.get(joinPath(path, leaf)) ?? []);
  }

  /**
   * Whether a module normalises so many channels: by its class, its version or its batch count, else because it has
   * learned one value per channel and nothing else, a scale and a shift.
   */
  isNorm(path: string, channels: number): boolean {
    const { className, version } = this.#facts.get(path) ?? { className: null, version: null };
    if (className !== null) return /norm/i.test(className);
    if (version === BATCH_NORM_VERSION || this.#counting.has(path)) return true;
    const tensors = this.#learned.get(path) ?? [];
    const isVector = ({ shape, elementCount }: Tensor) =>
      elementCount === channels && shape.every((size) => size === 1 || size === channels);
    return tensors.length > 0 && tensors.every(isVector);
  }
}

/**
 * The findings about layers that were not audited.
 *
 * @throws CheckpointError when statistics of a layer that only after has cannot be read.
 */
export async function findUnpairedFindings(
  { unlike, withoutStatistics, onlyBefore, onlyAfter, nearest }: UnpairedLayers,
  policy: FindingPolicy,
): Promise<readonly Finding[]> {
  const bare: Finding[] = [];
  for (const each of withoutStatistics) {
    const { layer, path } = each;
    const finding = (await isComputedWith(each))
      ? makeFinding('unpaired-layer', path, COMPUTED_MESSAGE)
      : makeFinding('stats-removed', path, REMOVED_MESSAGE);
    bare.push(allowNamed(finding, [path, ...listOwnNames(layer)], policy));
  }
  const findings = [
    ...bare,
    ...unlike.map((pair) => findUnlike(pair, policy)),
    ...onlyBefore.map((layer) => {
      const [finding, clause] = [findUnpaired(layer, 'before', policy), nearest.get(layer)];
      return clause === undefined ? finding : { ...finding, message: `${finding.message}; ${clause}` };
    }),
  ];
  for (const { before, after } of unlike) {
    const isAsWide = before.channels === after.channels;
    const why = isAsWide ? 'the layer was not compared' : 'the layer has another width in after';
    findings.push(...(await findFaults(after, why)));
  }
  for (const layer of onlyAfter)
    findings.push(
      findUnpaired(layer, 'after', policy),
      ...(await findFaults(layer, 'the layer is new in after')),
    );
  return findings;
}

/** Whether after holds the layer's statistics all the same, to the last bit. */
async function isComputedWith({ layer: { mean, variance }, unread }: BareLayer): Promise<boolean> {
  const own = [storedTensorOf(mean), storedTensorOf(variance)];
  for (const [index, tensor] of own.entries()) {
    const other = unread[index];
    if (tensor === null || tensor.dtype !== other?.dtype) return false;
    if (!(await haveSameBytes(tensor.range, other.range))) return false;
  }
  return true;
}

const COMPUTED_MESSAGE =
  'the graph of after holds its statistics, which are those of before, and no norm layer reads them: it may compute with them directly, as that of a FrozenBatchNorm2d does; it was not audited';

const REMOVED_MESSAGE =
  'after has the layer without running statistics: it normalises by the statistics of each batch (track_running_stats=False), or another kind of layer stands in its place; it was not audited';

function findUnlike({ before, after }: UnpairedLayers['unlike'][number], policy: FindingPolicy): Finding {
  const name = chooseLayerName({ before, after });
  const message =
    before.channels === after.channels
      ? 'one of its sides was folded into a convolution that goes with none of the other side: it was not audited'
      : `it has ${before.channels} channels in before and ${after.channels} in after: it was not audited`;
  const finding = makeFinding('unpaired-layer', name, message);
  return allowNamed(finding, listLayerNames({ name, before, after }), policy);
}

/**
 * Refuses to go on where statistics of before have no place in after.
 *
 * @throws CheckpointError `no-norm-layers` where no layer was compared.
 */
export function refuseWithoutPairs(layers: readonly unknown[], after: Checkpoint): void {
  if (layers.length === 0) refuseWithoutLayers(after, 'only layers that have lost theirs');
}

/** So many widths are named where nothing was paired. */
const MAX_NAMED_WIDTHS = 3;

/** The layers of another width in one clause, for an error; empty without any. */
export function describeWidths({ unlike }: UnpairedLayers): string {
  const differing = unlike.filter(({ before, after }) => before.channels !== after.channels);
  if (differing.length === 0) return '';
  const widths = differing.map(
    ({ before, after }) => `${quote(after.name)} ${before.channels} in before and ${after.channels} in after`,
  );
  return `channels of layers with one name differ: ${listFirst(widths, MAX_NAMED_WIDTHS)}`;
}

interface Pair {
  readonly layers: readonly LayerComparison[];
  readonly learned: LearnedComparisons;
  readonly unpaired: UnpairedLayers;
}

/**
 * Doubts whether the two checkpoints are the right ones, as sentences: an after that holds before's values throughout
 * was perhaps never trained, and one that is behind before in all that only grows is perhaps before itself.
 */
export function questionPair(pair: Pair): readonly string[] {
  if (holdSameValues(pair))
    return [
      'before and after hold the same values in every norm layer and learned tensor: was after really trained?',
    ];
  const signs = findSignsOfSwapping(pair);
  if (signs.length === 0) return [];
  // A part of the model is no sign by itself: an export without the head, a container that lacks some layers.
  const isPart = signs.length === 1 && pair.unpaired.onlyBefore.length > 0;
  return [
    `${signs.join(', and ')}: ${isPart ? 'is it a part of the model, or are' : 'are'} the two files swapped? Before comes first.`,
  ];
}

function holdSameValues({ layers, learned, unpaired }: Pair): boolean {
  const { withoutStatistics, unlike, onlyBefore, onlyAfter } = unpaired;
  const alone = [...withoutStatistics, ...unlike, ...onlyBefore, ...onlyAfter];
  return (
    layers.length > 0 &&
    alone.length + learned.onlyBefore.length + learned.onlyAfter.length === 0 &&
    layers.every(isSame) &&
    learned.compared.every(({ equality }) => equality === 'exact')
  );
}

/** To the last bit: rounding is a trace of something, and folding proves equality up to rounding only. */
function isSame(layer: LayerComparison): boolean {
  return (
    layer.kind === 'live' &&
    layer.status === 'locked' &&
    layer.equality === 'exact' &&
    (layer.batches ?? 0n) === 0n &&
    layer.epsilonAfter === undefined
  );
}

/**
 * What training never does: it counts batches up, and a fine-tune that drops a part of the model adds another. A layer
 * that was reset counts from 0 again.
 */
function findSignsOfSwapping({ layers, learned, unpaired }: Pair): readonly string[] {
  const moves = layers.flatMap((layer) =>
    layer.kind !== 'live' || layer.batches === null || layer.batches === 0n || layer.isReset
      ? []
      : [layer.batches],
  );
  if (moves.some((batches) => batches > 0n)) return [];
  const gone = unpaired.onlyBefore.length;
  const lacksParts =
    gone > 0 && learned.onlyBefore.length > 0 && unpaired.onlyAfter.length + learned.onlyAfter.length === 0;
  return [
    ...(moves.length > 0 ? ['the batch counts went down'] : []),
    ...(lacksParts ? [`after lacks ${gone} of the norm layers of before and has none of its own`] : []),
  ];
}
