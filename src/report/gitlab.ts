import { FINDING_TITLES, type FindingLevel } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import {
  type AnyReport,
  breakCommands,
  getJudgedCheckpoint,
  rankFindings,
  showSafely,
} from './any-report.js';
import { findArtifactPath } from './artifact-path.js';
import { FINDING_HELP } from './finding-help.js';
import { toJson } from './json-text.js';
import type { LocationOptions } from './sarif.js';

const SEVERITIES = { error: 'critical', warning: 'minor', note: 'info' } as const satisfies Record<
  FindingLevel,
  string
>;

const MAX_NAME_LENGTH = 200;
const MAX_MESSAGE_LENGTH = 1000;

/** Findings as a GitLab Code Quality report (a subset of Code Climate's format); `[]` when there are none. */
export function renderGitlab(report: AnyReport, { root }: LocationOptions = {}): string {
  const path = escapeControls(findArtifactPath(getJudgedCheckpoint(report).path, root));
  return toJson(
    rankFindings(report).map(({ finding: { kind, level, layer, message, docs }, fingerprint }) => ({
      type: 'issue',
      check_name: kind,
      description: `${FINDING_TITLES[kind]}: ${showSafely(layer, MAX_NAME_LENGTH)}: ${breakCommands(escapeControls(message)).slice(0, MAX_MESSAGE_LENGTH)}`,
      content: {
        body: `${FINDING_HELP[kind].meaning} ${FINDING_HELP[kind].remedy} More in ${docs} of bn-audit.`,
      },
      categories: ['Bug Risk'],
      severity: SEVERITIES[level],
      fingerprint,
      location: { path, lines: { begin: 1 } },
    })),
  );
}
