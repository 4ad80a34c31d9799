// The report of `inspect`: one checkpoint's layers.

import type { Checkpoint, NormMode } from '../checkpoint/checkpoint.js';
import type { EpsilonFrom } from '../compare/compare-layers.js';
import type { Finding, FindingLevel } from '../compare/findings.js';
import type { StatisticsSummary } from '../compare/statistics.js';
import type { ChannelValues, LayerExamination } from '../compare/unpaired-layers.js';
import { findDocs, TOOL_NAME, VERSION } from '../errors.js';
import { findFramework } from '../norm/norm-layer.js';
import { type CheckpointSummary, describeStatistic, toCount } from './audit-report.js';
import type { Count } from './format-numbers.js';

/** A norm layer of an inspection, as the JSON contract has it. */
export interface InspectLayer {
  readonly name: string;
  readonly kind: string;
  readonly status: 'ok' | 'invalid' | 'unresolved';
  readonly channels: number;
  readonly epsilon: number;
  readonly epsilonFrom: EpsilonFrom;
  readonly momentum: number | 'cumulative' | null;
  readonly mode: NormMode;
  readonly batches: Count | null;
  /** Over channels; null where the statistics cannot be read. */
  readonly mean: StatisticsSummary['mean'] | null;
  readonly variance: StatisticsSummary['variance'] | null;
  readonly affine: boolean;
  readonly source: { readonly mean: string | null; readonly variance: string | null };
  readonly notes: readonly string[];
  readonly perChannel?: ChannelValues;
}

/** The result of an inspection: exactly what `inspect --format json` prints. */
export interface InspectReport {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  /** The level of the worst finding: "unhealthy" exactly when one is an error. */
  readonly health: 'healthy' | 'warning' | 'unhealthy';
  readonly checkpoint: CheckpointSummary;
  readonly layers: readonly InspectLayer[];
  readonly findings: readonly Finding[];
  readonly warnings: readonly string[];
}

/** Puts an inspection's results in the report's form. */
export function buildInspectReport(
  checkpoint: Checkpoint,
  examined: readonly LayerExamination[],
  { learned, folded }: { learned: number; folded: number },
): InspectReport {
  const findings = examined.flatMap((layer) => layer.findings);
  const hasLevel = (level: FindingLevel) => findings.some((finding) => finding.level === level);
  return {
    schemaVersion: 1,
    tool: { name: TOOL_NAME, version: VERSION },
    health: hasLevel('error') ? 'unhealthy' : hasLevel('warning') ? 'warning' : 'healthy',
    checkpoint: {
      path: checkpoint.path,
      format: checkpoint.format,
      inModuleOrder: checkpoint.inModuleOrder,
      framework: findFramework(
        checkpoint,
        examined.map(({ layer }) => layer),
      ),
      layers: examined.length,
      folded,
      learned,
    },
    layers: examined.map(toInspectLayer),
    findings,
    warnings: [...checkpoint.warnings, ...(folded === 0 ? [] : [describeFolding(folded)])],
  };
}

/** What an audit of a file with folded norm layers can and cannot tell. */
function describeFolding(folded: number): string {
  const convolutions = folded === 1 ? '1 convolution carries' : `${folded} convolutions carry`;
  return `${convolutions} a bias that looks folded: a norm layer was merged into each, and its statistics are not in the file. An audit against a checkpoint with live or named norm layers solves for them; against another folded file it sees the ratio of the variances, and a moved mean only in the bias. More: ${findDocs('docs/folding.md')}`;
}

function toInspectLayer(examined: LayerExamination): InspectLayer {
  const { layer, summary, perChannel } = examined;
  return {
    name: layer.name,
    kind: layer.kind,
    status: examined.status,
    channels: layer.channels,
    epsilon: examined.epsilon,
    epsilonFrom: examined.epsilonFrom,
    momentum: layer.momentum,
    mode: layer.mode,
    batches: examined.batches === null ? null : toCount(examined.batches),
    mean: summary?.mean ?? null,
    variance: summary?.variance ?? null,
    affine: [layer.gamma, layer.beta].some((vector) => vector?.kind === 'stored'),
    source: { mean: describeStatistic(layer.mean), variance: describeStatistic(layer.variance) },
    notes: layer.notes,
    ...(perChannel === null ? {} : { perChannel }),
  };
}
