// GitLab's code quality report.

import { createHash } from 'node:crypto';
import { type Finding, type FindingKind, type FindingLevel, titleOf } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import {
  type AnyReport,
  findReportFramework,
  LIMITS,
  locateFinding,
  rankFindings,
  showMessage,
  showSafely,
} from './any-report.js';
import { type AuditFailure, FAILURE_TITLE, isAuditSet, type ReportSet } from './audit-set.js';
import { helpWith } from './finding-help.js';
import { writeJson } from './json.js';
import { findArtifactPath } from './sarif.js';
import type { Pieces, PrintingOptions } from './text-layout.js';

const SEVERITIES = { error: 'critical', warning: 'minor', note: 'info' } as const satisfies Record<
  FindingLevel,
  string
>;

/** One entry of a Code Quality report. */
interface Issue {
  readonly type: 'issue';
  readonly check_name: string;
  readonly description: string;
  readonly content: { readonly body: string };
  readonly categories: readonly string[];
  readonly severity: string;
  /** Unique in the report. */
  readonly fingerprint: string;
  readonly location: { readonly path: string; readonly lines: { readonly begin: number } };
}

/**
 * Findings as a GitLab Code Quality report (a subset of Code Climate's format); `[]` when there are none. Findings of
 * different checkpoints of several have different fingerprints.
 */
export function renderGitlab(report: AnyReport | ReportSet, options: PrintingOptions): Pieces {
  return writeJson(isAuditSet(report) ? listAllIssues(report, options) : listIssues(report, options), 1);
}

function* listAllIssues({ reports, failures }: ReportSet, options: PrintingOptions): Iterable<Issue> {
  for (const failure of failures) yield tellApart(describeFailedAudit(failure, options));
  for (const report of reports) for (const issue of listIssues(report, options)) yield tellApart(issue);
}

function tellApart(issue: Issue): Issue {
  const text = `${issue.location.path}\n${issue.fingerprint}`;
  return { ...issue, fingerprint: createHash('sha256').update(text).digest('hex').slice(0, 32) };
}

function listIssues(report: AnyReport, options: PrintingOptions): readonly Issue[] {
  const framework = findReportFramework(report);
  const explain = (kind: FindingKind) => Object.values(helpWith(kind, framework)).join(' ');
  return rankFindings(report).map(({ finding, fingerprint }) =>
    describeIssue(finding, {
      fingerprint,
      help: explain(finding.kind),
      path: escapeControls(findArtifactPath(locateFinding(report, finding), options)),
    }),
  );
}

function describeIssue(
  { kind, level, layer, message, docs }: Finding,
  { fingerprint, help, path }: { readonly fingerprint: string; readonly help: string; readonly path: string },
): Issue {
  return {
    type: 'issue',
    check_name: kind,
    description: `${titleOf(kind)}: ${showSafely(layer, LIMITS.gitlab.name)}: ${showMessage(message, LIMITS.gitlab.message)}`,
    content: {
      body: `${help} More in ${docs} of bn-audit.`,
    },
    categories: ['Bug Risk'],
    severity: SEVERITIES[level],
    fingerprint,
    location: { path, lines: { begin: 1 } },
  };
}

function describeFailedAudit({ after, message, hint, code }: AuditFailure, options: PrintingOptions): Issue {
  return {
    type: 'issue',
    check_name: 'not-audited',
    description: `${FAILURE_TITLE}: ${showMessage(message, LIMITS.gitlab.message)}`,
    content: { body: showMessage(hint ?? message, LIMITS.gitlab.message) },
    categories: ['Bug Risk'],
    severity: SEVERITIES.error,
    fingerprint: code,
    location: { path: escapeControls(findArtifactPath(after, options)), lines: { begin: 1 } },
  };
}
