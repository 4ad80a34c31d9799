// SARIF, for code scanning.

import { FINDING_KINDS, type FindingKind, makeFinding, titleOf } from '../compare/findings.js';
import {
  type AnyReport,
  getJudgedCheckpoint,
  LIMITS,
  rankFindings,
  showMessage,
  showSafely,
  type TrackedFinding,
} from './any-report.js';
import { type AuditFailure, listReports, type ReportSet } from './audit-set.js';
import { FINDING_HELP } from './finding-help.js';
import { formatPlural } from './format-numbers.js';
import { writeJson } from './json.js';
import type { Pieces, RendererOptions } from './text-layout.js';

/**
 * A checkpoint's path as CI systems want it: with forward slashes, relative to the repository where it lies in it.
 *
 * @param root the repository's directory, against which absolute paths are made relative; they stay absolute without.
 */
export function findArtifactPath(path: string, root?: string | undefined): string {
  const normal = normalizePath(path);
  if (root === undefined) return normal;
  const base = normalizePath(root).replace(/\/+$/, '');
  return base !== '' && normal.startsWith(`${base}/`) ? normal.slice(base.length + 1) : normal;
}

function normalizePath(path: string): string {
  const isWindows = /^(?:[A-Za-z]:)?[\\/]/.test(path) && path.includes('\\');
  const slashed = isWindows || /^\.{1,2}\\/.test(path) ? path.replaceAll('\\', '/') : path;
  return slashed.replace(/\/+/g, '/').replace(/^(?:\.\/)+(?=.)/, '');
}

/** A path as a URI reference (RFC 3986): relative, or of the file scheme when the path is absolute. */
export function toUriReference(path: string): string {
  const isAbsolute = /^(?:\/|[A-Za-z]:\/)/.test(path);
  const encoded = path.toWellFormed().split('/').map(encodeURIComponent).join('/');
  if (!isAbsolute) return encoded;
  return `file://${path.startsWith('/') ? '' : '/'}${encoded.replace(/^([A-Za-z])%3A/, '$1:')}`;
}

/** GitHub takes no more results of a run; the rest is counted in a notification. */
export const MAX_SARIF_RESULTS = 25_000;

/**
 * A report as SARIF 2.1.0 (OASIS), for code scanning: the kinds of finding are the rules, and every finding is a result
 * in line 1 of the judged checkpoint, with a fingerprint that stays the same while its numbers change. Several audits
 * are a run each, told apart by the checkpoint that it judges.
 */
export function renderSarif(report: AnyReport | ReportSet, options: RendererOptions): Pieces {
  const runs = describeRuns(report, options);
  return writeJson(
    { $schema: 'https://json.schemastore.org/sarif-2.1.0.json', version: '2.1.0', runs },
    LOG_LEVELS,
  );
}

/** The log's runs, and the items of each one's lists. */
const LOG_LEVELS = 4;

function* describeRuns(report: AnyReport | ReportSet, options: RendererOptions): Iterable<object> {
  const { reports, failures } = listReports(report);
  for (const one of reports) yield describeRun(one, options);
  for (const failure of failures) yield describeFailedRun(report.tool, failure, options);
}

function describeRun(report: AnyReport, { root }: RendererOptions): object {
  const ranked = rankFindings(report);
  const shown = ranked.slice(0, MAX_SARIF_RESULTS);
  const uri = toUriReference(findArtifactPath(getJudgedCheckpoint(report).path, root));
  return {
    tool: describeTool(report.tool),
    automationDetails: { id: `${report.tool.name}/${uri}/` },
    invocations: [
      {
        executionSuccessful: true,
        toolExecutionNotifications: listNotifications(report, ranked.length - shown.length),
      },
    ],
    artifacts: [{ location: { uri } }],
    results: shown.map((tracked) => describeResult(tracked, uri)),
    columnKind: 'utf16CodeUnits',
  };
}

function describeFailedRun(
  tool: ReportSet['tool'],
  { after, message }: AuditFailure,
  { root }: RendererOptions,
): object {
  const text = showMessage(message, LIMITS.sarif.message);
  const uri = toUriReference(findArtifactPath(after, root));
  return {
    tool: describeTool(tool),
    automationDetails: { id: `${tool.name}/${uri}/` },
    invocations: [
      {
        executionSuccessful: false,
        toolExecutionNotifications: [{ level: 'error', message: { text: escapeMessage(text) } }],
      },
    ],
    results: [],
    columnKind: 'utf16CodeUnits',
  };
}

function describeTool({ name, version }: ReportSet['tool']): object {
  return { driver: { name, semanticVersion: version, rules: FINDING_KINDS.map(describeRule) } };
}

const PROBLEM_SEVERITY = { error: 'error', warning: 'warning', note: 'recommendation' } as const;

function describeRule(kind: FindingKind): object {
  const { meaning, remedy } = FINDING_HELP[kind];
  const { level, docs } = makeFinding(kind, '', '');
  return {
    id: kind,
    name: toPascalCase(kind),
    shortDescription: { text: titleOf(kind) },
    fullDescription: { text: meaning },
    help: {
      text: `${meaning}\n\n${remedy}\n\nMore in ${docs} of bn-audit.`,
      markdown: `${meaning}\n\n**What to do.** ${remedy}\n\nMore in \`${docs}\` of bn-audit.`,
    },
    defaultConfiguration: { level },
    properties: {
      tags: ['batch-norm', 'correctness'],
      precision: 'very-high',
      'problem.severity': PROBLEM_SEVERITY[level],
    },
  };
}

function toPascalCase(kind: string): string {
  return kind.replace(/(?:^|-)(\w)/g, (_, letter: string) => letter.toUpperCase());
}

function describeResult({ finding, fingerprint }: TrackedFinding, uri: string): object {
  const layer = showSafely(finding.layer, LIMITS.sarif.name);
  const message = showMessage(finding.message, LIMITS.sarif.message);
  return {
    ruleId: finding.kind,
    ruleIndex: FINDING_KINDS.indexOf(finding.kind),
    level: finding.level,
    message: { text: escapeMessage(`${layer}: ${message}`) },
    locations: [
      {
        physicalLocation: { artifactLocation: { uri, index: 0 }, region: { startLine: 1 } },
        logicalLocations: [{ fullyQualifiedName: layer, kind: 'module' }],
      },
    ],
    partialFingerprints: { primaryLocationLineHash: fingerprint },
  };
}

/**
 * Plain text of a SARIF message: braces would be placeholders (3.11.5) and are doubled; brackets before a parenthesis
 * would be a link (3.11.6) and are escaped.
 */
function escapeMessage(text: string): string {
  const braced = text.replace(/[{}]/g, '$&$&');
  return braced.includes('](') ? braced.replace(/[\\[\]]/g, '\\$&') : braced;
}

function listNotifications({ warnings }: AnyReport, dropped: number): readonly object[] {
  const texts = [
    ...(dropped > 0
      ? [`${formatPlural(dropped, 'finding')} beyond the first ${MAX_SARIF_RESULTS} left out`]
      : []),
    ...warnings.slice(0, MAX_NOTIFICATIONS).map((text) => showMessage(text, LIMITS.sarif.message)),
  ];
  return texts.map((text) => ({ level: 'warning', message: { text: escapeMessage(text) } }));
}

const MAX_NOTIFICATIONS = 100;
