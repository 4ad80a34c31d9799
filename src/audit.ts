// An audit: two files are opened, compared, and what was found becomes a report. Read this file first.

import type { Checkpoint } from './checkpoint/checkpoint.js';
import type { AuditOptions } from './compare-checkpoints.js';
import { compareWithCopies } from './compare-checkpoints.js';
import { CheckpointError, UsageError } from './errors.js';
import { withBefore, withCheckpoints } from './formats/with-checkpoint.js';
import { checkOptions } from './options.js';
import { type AuditReport, buildReport } from './report/audit-report.js';
import { type AuditOutcome, describeFailure } from './report/audit-set.js';

export type { AuditOptions };

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
  return withCheckpoints([beforePath, afterPath], options, async (before, after) =>
    buildReport(await compareWithCopies(before, after, options)),
  );
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
  return buildReport(await compareWithCopies(beforeCheckpoint, afterCheckpoint, options));
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
  for (const request of requests) {
    const outcome = await settleAudit(request, audit(request.before, request.after, request.options));
    yield { request, outcome };
  }
}

/** What an audit comes to, also where it cannot be done. */
function settleAudit(
  request: Pick<AuditRequest, 'before' | 'after'>,
  running: Promise<AuditReport>,
): Promise<AuditOutcome> {
  return running.catch((error: unknown) => {
    if (error instanceof CheckpointError || error instanceof UsageError)
      return describeFailure(request, error);
    throw error;
  });
}

/** Audits one more checkpoint against the same before. */
export type AuditNext = (after: string, options: AuditOptions) => Promise<AuditOutcome>;

/**
 * Opens a checkpoint from before once, for any number of audits against it, one after the other.
 *
 * @throws as {@link audit} where before cannot be opened; what is wrong with one after is an outcome.
 */
export async function withAudits<Result>(
  before: string,
  options: AuditOptions,
  work: (auditNext: AuditNext) => Promise<Result>,
): Promise<Result> {
  checkOptions('audit', options);
  return withBefore(before, options, (withAfter) =>
    work((after, its) =>
      settleAudit(
        { before, after },
        withAfter(after, its, async (...both) => buildReport(await compareWithCopies(...both, its))),
      ),
    ),
  );
}
