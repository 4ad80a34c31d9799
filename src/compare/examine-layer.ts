import type { NormLayer } from '../norm/norm-layer.js';
import { isBatchGraph } from '../norm/norm-layer.js';
import { type EpsilonFrom, readBatchCount, readStatistics } from './compare-layers.js';
import { type Finding, makeFinding } from './finding.js';
import {
  areInitial,
  findInvalidValue,
  isSummaryValid,
  readChannelVector,
  type Statistics,
  type StatisticsSummary,
  summarizeStatistics,
} from './statistics.js';

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
  const unresolved = [layer.mean, layer.variance].find((statistic) => statistic.kind === 'unresolved');
  const statistics = unresolved === undefined ? await readStatistics(layer) : null;
  const summary = statistics === null ? null : summarizeStatistics(statistics);
  const isSound = summary === null || isSummaryValid(summary);
  const invalid = statistics === null || isSound ? null : findInvalidValue(statistics);
  const count = await readBatchCount(layer);
  return {
    layer: typeof count === 'number' ? { ...layer, notes: [...layer.notes, describeAverage(count)] } : layer,
    status: statistics === null ? 'unresolved' : invalid === null ? 'ok' : 'invalid',
    epsilon: epsilon ?? layer.epsilon ?? layer.defaultEpsilon,
    epsilonFrom: epsilon !== undefined ? 'option' : layer.epsilon === null ? 'default' : 'graph',
    batches: typeof count === 'bigint' ? count : null,
    summary,
    perChannel: keepChannels && statistics !== null ? await listValues(layer, statistics) : null,
    findings: [
      ...(unresolved?.kind === 'unresolved'
        ? [makeFinding('unresolved-stats', layer.name, `its statistics cannot be read: ${unresolved.reason}`)]
        : []),
      ...(invalid === null ? [] : [makeFinding('invalid-stats', layer.name, invalid)]),
      ...(isBatchGraph(layer)
        ? [
            makeFinding(
              'training-mode-graph',
              layer.name,
              'the node runs in training mode: it normalises by batch statistics wherever it is deployed',
              'warning',
            ),
          ]
        : []),
      ...(statistics !== null && areInitial(statistics)
        ? [
            makeFinding(
              'initial-stats',
              layer.name,
              'every channel still has mean 0 and variance 1: the statistics were never updated',
            ),
          ]
        : []),
    ],
  };
}

function describeAverage(count: number): string {
  return `its batch count is an average, ${Number(count.toPrecision(6))}: the file holds a mean of checkpoints, or of a model over time`;
}

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

async function listValues(
  { gamma, beta }: NormLayer,
  { mean, variance }: Statistics,
): Promise<ChannelValues> {
  return {
    mean: [...mean.values],
    variance: [...variance.values],
    gamma: gamma === null ? null : [...(await readChannelVector(gamma)).values],
    beta: beta === null ? null : [...(await readChannelVector(beta)).values],
  };
}
