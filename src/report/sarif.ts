// SARIF, for code scanning.

import { isAbsolute, join } from 'node:path';
import type { Framework } from '../checkpoint/checkpoint.js';
import { FINDING_KINDS, type FindingKind, makeFinding, titleOf } from '../compare/findings.js';
import {
  type AnyReport,
  findReportFramework,
  getJudgedCheckpoint,
  LIMITS,
  locateFinding,
  rankFindings,
  showMessage,
  showSafely,
  type TrackedFinding,
} from './any-report.js';
import { listReports, type ReportSet } from './audit-set.js';
import { helpWith } from './finding-help.js';
import { formatPlural } from './format-numbers.js';
import { writeJson } from './json.js';
import type { Pieces, PrintingOptions } from './text-layout.js';

/**
 * A checkpoint's path as CI systems want it: with forward slashes, relative to the repository where it lies in it.
 *
 * @param root the repository's directory, against which absolute paths are made relative; they stay absolute without.
 * @param directory where in it relative paths start.
 */
export function findArtifactPath(path: string, { root, directory = '' }: PrintingOptions = {}): string {
  const normal = normalizePath(directory === '' || isAbsolute(path) ? path : join(directory, path));
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
export function renderSarif(report: AnyReport | ReportSet, options: PrintingOptions): Pieces {
  const runs = describeRuns(report, options);
  return writeJson(
    { $schema: 'https://json.schemastore.org/sarif-2.1.0.json', version: '2.1.0', runs },
    LOG_LEVELS,
  );
}

/** The log's runs, and the items of each one's lists. */
const LOG_LEVELS = 4;

function* describeRuns(report: AnyReport | ReportSet, options: PrintingOptions): Iterable<object> {
  const { reports, failures } = listReports(report);
  for (const one of reports) {
    const uriOf = (path: string) => toUriReference(findArtifactPath(path, options));
    const uri = uriOf(getJudgedCheckpoint(one).path);
    const ranked = rankFindings(one);
    const shown = ranked.slice(0, MAX_SARIF_RESULTS);
    const places = shown.map(({ finding }) => uriOf(locateFinding(one, finding)));
    const uris = [...new Set([uri, ...places])];
    yield describeRun(one.tool, uri, findReportFramework(one), {
      executionSuccessful: true,
      toolExecutionNotifications: listNotifications(one, ranked.length - shown.length),
      artifacts: uris.map((one) => ({ location: { uri: one } })),
      results: shown.map((tracked, index) => describeResult(tracked, places[index] ?? uri, uris)),
    });
  }
  for (const { after, message } of failures)
    yield describeRun(report.tool, toUriReference(findArtifactPath(after, options)), null, {
      executionSuccessful: false,
      toolExecutionNotifications: [notify('error', showMessage(message, LIMITS.sarif.message))],
      results: [],
    });
}

interface Run {
  readonly executionSuccessful: boolean;
  readonly toolExecutionNotifications: readonly object[];
  readonly artifacts?: readonly object[];
  readonly results: readonly object[];
}

function describeRun(
  { name, version }: ReportSet['tool'],
  uri: string,
  framework: Framework | null,
  { executionSuccessful, toolExecutionNotifications, artifacts, results }: Run,
): object {
  return {
    tool: {
      driver: {
        name,
        semanticVersion: version,
        rules: FINDING_KINDS.map((kind) => describeRule(kind, framework)),
      },
    },
    automationDetails: { id: `${name}/${uri}/` },
    invocations: [{ executionSuccessful, toolExecutionNotifications }],
    artifacts,
    results,
    columnKind: 'utf16CodeUnits',
  };
}

const PROBLEM_SEVERITY = { error: 'error', warning: 'warning', note: 'recommendation' } as const;

function describeRule(kind: FindingKind, framework: Framework | null): object {
  const { meaning, remedy } = helpWith(kind, framework);
  const { level, docs } = makeFinding(kind, '', '');
  return {
    id: kind,
    // In Pascal case.
    name: kind.replace(/(?:^|-)(\w)/g, (_, letter: string) => letter.toUpperCase()),
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

function describeResult(
  { finding, fingerprint }: TrackedFinding,
  uri: string,
  uris: readonly string[],
): object {
  const layer = showSafely(finding.layer, LIMITS.sarif.name);
  const message = showMessage(finding.message, LIMITS.sarif.message);
  return {
    ruleId: finding.kind,
    ruleIndex: FINDING_KINDS.indexOf(finding.kind),
    level: finding.level,
    message: { text: escapeMessage(`${layer}: ${message}`) },
    locations: [
      {
        physicalLocation: { artifactLocation: { uri, index: uris.indexOf(uri) }, region: { startLine: 1 } },
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
  return texts.map((text) => notify('warning', text));
}

function notify(level: string, text: string): object {
  return { level, message: { text: escapeMessage(text) } };
}

const MAX_NOTIFICATIONS = 100;
