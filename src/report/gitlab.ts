// GitLab's code quality report.

import { type FindingLevel, titleOf } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import {
  type AnyReport,
  findArtifactPath,
  findReportFramework,
  LIMITS,
  listPaths,
  showMessage,
} from './any-report.js';
import { type AuditFailure, FAILURE_TITLE, listReports, type ReportSet } from './audit-set.js';
import { fingerprintFindings, groupByRegion, hashParts, sayFindings } from './finding-groups.js';
import { findPage, helpWith } from './finding-help.js';
import { writeJson } from './json.js';
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
 * Findings as a GitLab Code Quality report (a subset of Code Climate's format), an issue for each kind and region;
 * `[]` when there are none. Those of different pairs of checkpoints have different fingerprints.
 */
export function renderGitlab(report: AnyReport | ReportSet, options: PrintingOptions): Pieces {
  return writeJson(listIssues(report, options), 1);
}

function* listIssues(report: AnyReport | ReportSet, options: PrintingOptions): Iterable<Issue> {
  const { reports, failures } = listReports(report);
  for (const failure of failures) yield describeFailedAudit(failure, options);
  for (const one of reports) {
    const [before = ''] = listPaths(one).map((path) => findArtifactPath(path, options));
    for (const group of groupByRegion(one)) {
      const { kind, level } = group.findings[0];
      const path = findArtifactPath(group.path, options);
      const { meaning, remedy } = helpWith(kind, findReportFramework(one));
      yield {
        type: 'issue',
        check_name: kind,
        description: `${titleOf(kind)}: ${sayFindings(group, LIMITS.gitlab)}`,
        content: { body: `${meaning} ${remedy} More: ${findPage(kind)}` },
        categories: ['Bug Risk'],
        severity: SEVERITIES[level],
        fingerprint: fingerprintFindings(group, [before, path]),
        location: { path: escapeControls(path), lines: { begin: 1 } },
      };
    }
  }
}

function describeFailedAudit(
  { before, after, message, hint, code }: AuditFailure,
  options: PrintingOptions,
): Issue {
  return {
    type: 'issue',
    check_name: 'not-audited',
    description: `${FAILURE_TITLE}: ${showMessage(message, LIMITS.gitlab.message)}`,
    content: { body: showMessage(hint ?? message, LIMITS.gitlab.message) },
    categories: ['Bug Risk'],
    severity: SEVERITIES.error,
    fingerprint: hashParts([before, after].map((path) => findArtifactPath(path, options)).concat(code)),
    location: { path: escapeControls(findArtifactPath(after, options)), lines: { begin: 1 } },
  };
}
