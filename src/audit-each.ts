import { type AuditOptions, audit } from './audit.js';
import { CheckpointError, UsageError } from './errors.js';
import { type AuditOutcome, describeFailure } from './report/audit-set.js';

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
