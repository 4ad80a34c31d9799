import type { DriftCause, OldShare } from '../compare/drift-cause.js';
import { type Finding, isLeadingDrift } from '../compare/finding.js';
import { failUnreachable } from '../errors.js';

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
  const byKind = new Map<DriftCause['kind'], [DriftCause, ...DriftCause[]]>();
  for (const { name, cause } of layers) {
    if (cause === null || !standing.has(name)) continue;
    const alike = byKind.get(cause.kind);
    if (alike === undefined) byKind.set(cause.kind, [cause]);
    else alike.push(cause);
  }
  return [...byKind]
    .map(([kind, causes]) => ({ kind, layers: causes.length, ...describeCauses(causes) }))
    .sort((x, y) => y.layers - x.layers);
}

type Words = Pick<CauseSummary, 'sentence' | 'remedy'>;

/** Words for causes of one kind. */
function describeCauses(causes: readonly [DriftCause, ...DriftCause[]]): Words {
  const [{ kind }] = causes;
  switch (kind) {
    case 'training-mode':
      return {
        sentence: describeOldShares(causes.flatMap((cause) => ('old' in cause ? (cause.old ?? []) : []))),
        remedy: 'Put the frozen part back in evaluation mode after every model.train().',
      };
    case 'uncounted':
      return {
        sentence:
          'No training-mode batch was counted meanwhile: the statistics were copied, averaged or recomputed without the count (an EMA as Ultralytics keeps it, another rank, federated averaging over parameters), not moved by training that the count saw.',
        remedy:
          'Find out where the file’s statistics come from; eval() in this run does not change them. An EMA or another copy follows a model whose own norm layers ran in training mode: keep those in evaluation mode. Between ranks, save from one of them or broadcast the buffers; in federated averaging, send the buffers along with the parameters. bn-audit restore puts the statistics of before back.',
      };
    case 'ema':
      return {
        sentence:
          'The learned tensors are averages, and no training-mode batch was counted meanwhile: the file holds a model’s moving average without its count (EMA, as Ultralytics keeps it), and that model’s norm layers ran in training mode.',
        remedy:
          'Put the frozen part back in evaluation mode after every model.train(): the average follows the model that trains.',
      };
    case 're-estimated':
      return {
        sentence:
          'Their batch counts went back: the statistics were reset and estimated again (update_bn of torch.optim.swa_utils, Lightning’s StochasticWeightAveraging, a precise-BN pass).',
        remedy:
          'eval() is not the cure: the reset reaches layers in evaluation mode too. Run update_bn over the trained part alone, fed by the frozen part; under Lightning, freeze with layers that are no BatchNorm (FrozenBatchNorm2d). bn-audit restore puts the statistics of before back; where re-estimating was meant, accept it with --allow. If before is the later file, swap the two.',
      };
    case 'reset':
      return {
        sentence:
          'The statistics are back at mean 0 and variance 1: they were reset and not estimated again, as Lightning’s StochasticWeightAveraging leaves a backbone in eval(), or reset_running_stats().',
        remedy:
          'eval() is not the cure: it is why the reset layers were not estimated again. Reset the trained part alone (update_bn over it, fed by the frozen part); under Lightning, freeze with layers that are no BatchNorm (FrozenBatchNorm2d). bn-audit restore puts the statistics of before back.',
      };
    case 'averaged':
      return {
        sentence:
          'Their batch counts are averages: the file holds a mean of checkpoints, or of a model over time (EMA, SWA).',
        remedy:
          'Audit the checkpoints that were averaged: where they drifted, their norm layers ran in training mode, and the average follows them.',
      };
    case 'batch-statistics':
    case 'recounted':
      return { sentence: '', remedy: '' };
    default:
      return failUnreachable(kind);
  }
}

/** How much of the old statistics the passes left: of the layer with the most passes, and of that with the fewest. */
function describeOldShares(shares: readonly OldShare[]): string {
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
