import type { Checkpoint, ModuleFacts, Tensor } from '../checkpoint/checkpoint.js';
import { CheckpointError, quote } from '../errors.js';
import { dottedNameOf, modulePathOf } from '../norm/dotted-names.js';
import { splitPath } from '../norm/naming.js';
import type { NormLayer } from '../norm/norm-layer.js';
import { findFaults } from './examine-layer.js';
import { type Finding, type FindingPolicy, makeFinding } from './finding.js';
import { findUnpaired } from './findings.js';
import { type PrefixEdit, translateName } from './pair-layers.js';
import { chooseLayerName, listLayerNames, listOwnNames } from './shown-names.js';

/** Layers that were not audited: no pair was made of them. */
export interface UnpairedLayers {
  /** Layers that both checkpoints have under one name, with another number of channels. */
  readonly otherWidth: readonly { readonly before: NormLayer; readonly after: NormLayer }[];
  /** Layers of before that after has without statistics, each with its path in after. */
  readonly withoutStatistics: readonly { readonly layer: NormLayer; readonly path: string }[];
  readonly onlyBefore: readonly NormLayer[];
  readonly onlyAfter: readonly NormLayer[];
}

/** What layers without a partner are looked for in. */
interface AfterSide {
  readonly checkpoint: Checkpoint;
  /** Learned tensors by dotted name. */
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** Tells why layers have no partner, by the names that before's have in after. */
export function sortUnpaired(
  { onlyBefore, onlyAfter, edits }: UnmatchedLayers,
  after: AfterSide,
): UnpairedLayers {
  const left = new Map(onlyAfter.map((layer) => [layer.name, layer]));
  const otherWidth: { before: NormLayer; after: NormLayer }[] = [];
  const withoutStatistics: { layer: NormLayer; path: string }[] = [];
  const gone: NormLayer[] = [];
  const known = onlyBefore.length === 0 ? null : new KnownModules(after);
  for (const layer of onlyBefore) {
    const { name, isNamed, channels } = layer;
    const twin = translateName(name, edits, (candidate) => left.has(candidate));
    const partner = twin === null ? undefined : left.get(twin);
    const path = isNamed ? translateName(name, edits, (one) => known?.isNorm(one, channels) === true) : null;
    if (partner !== undefined && isNamed && partner.isNamed) {
      otherWidth.push({ before: layer, after: partner });
      left.delete(partner.name);
    } else if (path !== null) withoutStatistics.push({ layer, path });
    else gone.push(layer);
  }
  return { otherWidth, withoutStatistics, onlyBefore: gone, onlyAfter: [...left.values()] };
}

/** Layers of which no pair was made, and how names of before read in after. */
interface UnmatchedLayers {
  readonly onlyBefore: readonly NormLayer[];
  readonly onlyAfter: readonly NormLayer[];
  readonly edits: readonly PrefixEdit[];
}

/** The version of PyTorch's BatchNorm in a state dict's metadata; GroupNorm, LayerNorm and Identity have 1. */
const BATCH_NORM_VERSION = 2;

/** What after tells of modules in which no statistics were found. */
class KnownModules {
  readonly #facts: ReadonlyMap<string, ModuleFacts>;
  readonly #learned = new Map<string, Tensor[]>();
  /** Modules that count their batches: only layers with statistics do, or did. */
  readonly #counting = new Set<string>();

  constructor({ checkpoint, learned }: AfterSide) {
    this.#facts = new Map(
      [...checkpoint.modules].map(([path, facts]) => [modulePathOf(path, checkpoint), facts]),
    );
    for (const [name, tensor] of learned) {
      const [path] = splitPath(name);
      const tensors = this.#learned.get(path);
      if (tensors === undefined) this.#learned.set(path, [tensor]);
      else tensors.push(tensor);
    }
    for (const name of checkpoint.tensors.keys()) {
      const [path, leaf] = splitPath(dottedNameOf(name, checkpoint));
      if (leaf === 'num_batches_tracked') this.#counting.add(path);
    }
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
    return tensors.length > 0 && tensors.every((tensor) => isVectorOf(tensor, channels));
  }
}

function isVectorOf({ shape, elementCount }: Tensor, length: number): boolean {
  return elementCount === length && shape.every((size) => size === 1 || size === length);
}

/**
 * The findings about layers that were not audited.
 *
 * @throws CheckpointError when statistics of a layer that only after has cannot be read.
 */
export async function findUnpairedFindings(
  { otherWidth, withoutStatistics, onlyBefore, onlyAfter }: UnpairedLayers,
  policy: FindingPolicy,
): Promise<readonly Finding[]> {
  const findings = [
    ...withoutStatistics.map(({ layer, path }) => findRemoved(layer, path, policy)),
    ...otherWidth.map((pair) => findOtherWidth(pair, policy)),
    ...onlyBefore.map((layer) => findUnpaired(layer, 'before', policy)),
  ];
  for (const { after } of otherWidth)
    findings.push(...(await findFaults(after, 'the layer has another width in after')));
  for (const layer of onlyAfter)
    findings.push(
      findUnpaired(layer, 'after', policy),
      ...(await findFaults(layer, 'the layer is new in after')),
    );
  return findings;
}

const REMOVED_MESSAGE =
  'after has the layer without running statistics: it normalises by the statistics of each batch (track_running_stats=False), or another kind of layer stands in its place; it was not audited';

function findRemoved(layer: NormLayer, path: string, policy: FindingPolicy): Finding {
  const finding = makeFinding('stats-removed', path, REMOVED_MESSAGE);
  return policy.isAllowed([path, ...listOwnNames(layer)]) ? allow(finding) : finding;
}

function findOtherWidth(
  { before, after }: UnpairedLayers['otherWidth'][number],
  policy: FindingPolicy,
): Finding {
  const name = chooseLayerName({ before, after });
  const message = `it has ${before.channels} channels in before and ${after.channels} in after: it was not audited`;
  const finding = makeFinding('unpaired-layer', name, message);
  return policy.isAllowed(listLayerNames({ name, before, after })) ? allow(finding) : finding;
}

function allow(finding: Finding): Finding {
  return { ...finding, level: 'note', message: `allowed: ${finding.message}` };
}

/**
 * Refuses to go on where statistics of before have no place in after.
 *
 * @throws CheckpointError `no-norm-layers` where no layer was compared.
 */
export function refuseWithoutPairs(layers: readonly unknown[], file: string): void {
  if (layers.length > 0) return;
  throw new CheckpointError(
    'expected norm layers with running statistics, found only layers that have lost theirs',
    { code: 'no-norm-layers', file },
  );
}

/** So many widths are named where nothing was paired. */
const MAX_NAMED_WIDTHS = 3;

/** The layers of another width in one clause, for an error; empty without any. */
export function describeWidths({ otherWidth }: UnpairedLayers): string {
  if (otherWidth.length === 0) return '';
  const named = otherWidth
    .slice(0, MAX_NAMED_WIDTHS)
    .map(
      ({ before, after }) =>
        `${quote(after.name)} ${before.channels} in before and ${after.channels} in after`,
    )
    .join(', ');
  const more = otherWidth.length - MAX_NAMED_WIDTHS;
  return `channels of layers with one name differ: ${named}${more > 0 ? ` and ${more} more` : ''}`;
}
