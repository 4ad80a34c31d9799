// SARIF, for code scanning.

import type { Framework } from '../checkpoint/checkpoint.js';
import { FINDING_KINDS, type FindingKind, makeFinding, titleOf } from '../compare/findings.js';
import { findAddress } from '../errors.js';
import {
  type AnyReport,
  findArtifactPath,
  findReportFramework,
  LIMITS,
  listPaths,
  showMessage,
  showSafely,
} from './any-report.js';
import { listReports, type ReportSet } from './audit-set.js';
import { fingerprintFindings, groupByRegion, type RegionFindings, sayFindings } from './finding-groups.js';
import { findPage, helpWith } from './finding-help.js';
import { formatPlural } from './format-numbers.js';
import { writeJson } from './json.js';
import type { Pieces, PrintingOptions } from './text-layout.js';

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
 * A report as SARIF 2.1.0 (OASIS), for code scanning: the kinds of finding are the rules, and those of one kind in one
 * region are a result in line 1 of the judged checkpoint, with a fingerprint that stays the same while their numbers
 * change. Several audits are a run each, told apart by the checkpoints that it compares.
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
    const compared = listPaths(one).map(uriOf);
    const groups = groupByRegion(one);
    const shown = groups.slice(0, MAX_SARIF_RESULTS);
    yield describeRun(one.tool, compared, findReportFramework(one), {
      executionSuccessful: true,
      toolExecutionNotifications: listNotifications(one, groups.length - shown.length),
      results: shown.map((group) => {
        const uri = uriOf(group.path);
        return describeResult(group, uri, fingerprintFindings(group, [compared[0] ?? '', uri]));
      }),
    });
  }
  for (const { before, after, message } of failures)
    yield describeRun(
      report.tool,
      [before, after].map((path) => toUriReference(findArtifactPath(path, options))),
      null,
      {
        executionSuccessful: false,
        toolExecutionNotifications: [notify('error', showMessage(message, LIMITS.sarif.message))],
        results: [],
      },
    );
}

interface Run {
  readonly executionSuccessful: boolean;
  readonly toolExecutionNotifications: readonly object[];
  readonly results: readonly object[];
}

function describeRun(
  { name, version }: ReportSet['tool'],
  uris: readonly string[],
  framework: Framework | null,
  { executionSuccessful, toolExecutionNotifications, results }: Run,
): object {
  return {
    tool: {
      driver: {
        name,
        semanticVersion: version,
        informationUri: findAddress('README.md') ?? undefined,
        rules: FINDING_KINDS.map((kind) => describeRule(kind, framework)),
      },
    },
    // What stands before the last slash is GitHub's category: uploads of one replace each other.
    automationDetails: { id: `${name}/${uris.join('..')}/` },
    invocations: [{ executionSuccessful, toolExecutionNotifications }],
    results,
    columnKind: 'utf16CodeUnits',
  };
}

const PROBLEM_SEVERITY = { error: 'error', warning: 'warning', note: 'recommendation' } as const;

function describeRule(kind: FindingKind, framework: Framework | null): object {
  const { meaning, remedy } = helpWith(kind, framework);
  const { level, docs } = makeFinding(kind, '', '');
  const page = findPage(kind);
  return {
    id: kind,
    // In Pascal case.
    name: kind.replace(/(?:^|-)(\w)/g, (_, letter: string) => letter.toUpperCase()),
    shortDescription: { text: titleOf(kind) },
    fullDescription: { text: meaning },
    help: {
      text: `${meaning}\n\n${remedy}\n\nMore: ${page}`,
      markdown: `${meaning}\n\n**What to do.** ${remedy}\n\nMore: \`${page}\``,
    },
    helpUri: findAddress(docs) ?? undefined,
    defaultConfiguration: { level },
    properties: {
      tags: ['batch-norm', 'correctness'],
      precision: 'very-high',
      'problem.severity': PROBLEM_SEVERITY[level],
    },
  };
}

/** So many layers of a result are named. */
const MAX_NAMED_LAYERS = 1000;

function describeResult(group: RegionFindings, uri: string, fingerprint: string): object {
  const { findings, region } = group;
  const [{ kind, level, layer }] = findings;
  const show = (name: string) => showSafely(name, LIMITS.sarif.name);
  return {
    ruleId: kind,
    ruleIndex: FINDING_KINDS.indexOf(kind),
    level,
    message: { text: escapeMessage(sayFindings(group, LIMITS.sarif)) },
    locations: [
      {
        physicalLocation: { artifactLocation: { uri }, region: { startLine: 1 } },
        logicalLocations: [{ fullyQualifiedName: show(layer), kind: 'module' }],
      },
    ],
    partialFingerprints: { primaryLocationLineHash: `${fingerprint}:1` },
    properties: {
      region: show(region),
      count: findings.length,
      layers: findings.slice(0, MAX_NAMED_LAYERS).map((finding) => show(finding.layer)),
    },
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
      ? [`${formatPlural(dropped, 'result')} beyond the first ${MAX_SARIF_RESULTS} left out`]
      : []),
    ...warnings.slice(0, MAX_NOTIFICATIONS).map((text) => showMessage(text, LIMITS.sarif.message)),
  ];
  return texts.map((text) => notify('warning', text));
}

function notify(level: string, text: string): object {
  return { level, message: { text: escapeMessage(text) } };
}

const MAX_NOTIFICATIONS = 100;
