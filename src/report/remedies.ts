import type { DriftCause } from '../compare/drift-cause.js';
import { isLeadingDrift } from '../compare/finding.js';
import type { AuditReport } from './audit-report.js';

/**
 * A report without the drift that `eval()` would not have prevented: what is left is what code to freeze modules is
 * about. Where no count tells, training is the likely cause.
 */
export function keepCurableByEval(report: AuditReport): AuditReport {
  const isEma = holdsMovingAverage(report);
  const incurable = new Set(
    report.layers
      .filter(({ cause }) => cause !== null && !isCuredByEval(cause, isEma))
      .map(({ name }) => name),
  );
  return {
    ...report,
    findings: report.findings.filter((finding) => !(isLeadingDrift(finding) && incurable.has(finding.layer))),
  };
}

/** What to do about drift that `eval()` would not have prevented, a paragraph for each cause. */
export function listRemedies(report: AuditReport): readonly string[] {
  const { summary } = report;
  const isEma = holdsMovingAverage(report);
  return summary.causes
    .filter(({ kind }) => kind === 'averaged' || !followsTraining(kind, isEma))
    .map(({ layers, remedy }) =>
      summary.causes.length === 1 ? remedy : `${layers} norm layer${layers === 1 ? '' : 's'}: ${remedy}`,
    );
}

/** Ultralytics saves the moving average of its model, in 16 bits, whose rounding does not show that it is one. */
function holdsMovingAverage({ before, after }: AuditReport): boolean {
  return (after.framework ?? before.framework) === 'ultralytics';
}

function isCuredByEval(cause: DriftCause, isEma: boolean): boolean {
  return cause.kind === 'averaged' ? cause.rose : followsTraining(cause.kind, isEma);
}

/** Whether the statistics of the file, or those that it averages, were moved by a model in training mode. */
function followsTraining(kind: DriftCause['kind'], isEma: boolean): boolean {
  return kind === 'training-mode' || kind === 'ema' || (kind === 'uncounted' && isEma);
}
