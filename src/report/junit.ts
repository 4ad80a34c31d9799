// JUnit XML, for test tabs of CI systems.

import type { Framework } from '../checkpoint/checkpoint.js';
import { type Finding, titleOf } from '../compare/findings.js';
import { addTo } from '../norm/naming.js';
import {
  type AnyReport,
  findReportFramework,
  isAudit,
  isTrace,
  LIMITS,
  listPaths,
  showMessage,
  showSafely,
} from './any-report.js';
import { type AuditFailure, FAILURE_TITLE, listReports, type ReportSet } from './audit-set.js';
import { LEVEL_RANKS } from './finding-groups.js';
import { findPage, helpWith } from './finding-help.js';
import type { Pieces } from './text-layout.js';

interface TestCase {
  readonly name: string;
  readonly findings: readonly Finding[];
}

/**
 * A report as JUnit XML, for Jenkins, GitLab and others: one test case a layer, named by its module path and grouped
 * by its parent module. Errors are failures; layers that were accepted or not audited are skipped; warnings pass and
 * stand in the output. Several audits are a suite each; one that could not be done is a test case with an error.
 */
export function* renderJunit(report: AnyReport | ReportSet): Pieces {
  const tool = report.tool.name;
  const { reports, failures } = listReports(report);
  let [tests, failed] = [failures.length, 0];
  for (const one of reports) {
    const cases = listTestCases(one);
    tests += cases.length;
    failed += cases.filter(isFailed).length;
  }
  yield '<?xml version="1.0" encoding="UTF-8"?>\n';
  yield `<testsuites name="${tool}" tests="${tests}" failures="${failed}" errors="${failures.length}" time="0">\n`;
  for (const one of reports) for (const line of describeSuite(one)) yield `${line}\n`;
  for (const failure of failures) for (const line of describeFailedSuite(tool, failure)) yield `${line}\n`;
  yield '</testsuites>\n';
}

function* describeSuite(report: AnyReport): Iterable<string> {
  const cases = listTestCases(report);
  const failures = cases.filter(isFailed).length;
  const skipped = cases.filter(isSkipped).length;
  const counts = `tests="${cases.length}" failures="${failures}" errors="0" skipped="${skipped}" time="0"`;
  const paths = listPaths(report);
  yield `  <testsuite name="${nameSuite(report.tool.name, paths)}" ${counts}>`;
  yield* renderProperties(report);
  for (const testCase of cases) yield* renderTestCase(testCase, findReportFramework(report));
  yield '  </testsuite>';
}

/** By the checkpoints that it compares: two pairs may share one. */
function nameSuite(tool: string, paths: readonly string[]): string {
  return escapeXml(`${tool} ${paths.map((path) => showSafely(path, LIMITS.junit.name)).join(' → ')}`);
}

function describeFailedSuite(
  tool: string,
  { before, after, message, hint, code }: AuditFailure,
): readonly string[] {
  const path = escapeXml(showSafely(after, LIMITS.junit.name));
  const show = (text: string) => escapeXml(showMessage(text, LIMITS.junit.message));
  return [
    `  <testsuite name="${nameSuite(tool, [before, after])}" tests="1" failures="0" errors="1" skipped="0" time="0">`,
    ...writeProperties([
      ['verdict', 'failed'],
      ['before', before],
      ['after', after],
    ]),
    `    <testcase name="${path}" classname="(checkpoint)" time="0">`,
    `      <error message="${show(message)}" type="${code}">${show(hint ?? FAILURE_TITLE)}</error>`,
    '    </testcase>',
    '  </testsuite>',
  ];
}

/** Every layer of the report, then whatever else has findings: unpaired layers, modules of frozen weights. */
function listTestCases({ layers, findings }: AnyReport): readonly TestCase[] {
  const byName = new Map<string, Finding[]>(layers.map(({ name }) => [name, []]));
  for (const finding of findings) addTo(byName, finding.layer, finding);
  return [...byName].map(([name, list]) => ({
    name,
    findings: [...list].sort((x, y) => LEVEL_RANKS[x.level] - LEVEL_RANKS[y.level]),
  }));
}

function isFailed({ findings }: TestCase): boolean {
  return findings.some(({ level }) => level === 'error');
}

/** Only notes: drift that was accepted, or a layer that is new in after. */
function isSkipped({ findings }: TestCase): boolean {
  return findings.length > 0 && findings.every(({ level }) => level === 'note');
}

function renderProperties(report: AnyReport): readonly string[] {
  const properties = isTrace(report)
    ? [
        ['verdict', report.verdict],
        ['before', report.before.path],
        ['checkpoints', String(report.checkpoints.length)],
        ...report.skipped.map(({ message }) => ['skipped', message]),
      ]
    : isAudit(report)
      ? [
          ['verdict', report.verdict],
          ['before', report.before.path],
          ['after', report.after.path],
        ]
      : [
          ['health', report.health],
          ['checkpoint', report.checkpoint.path],
        ];
  return writeProperties(properties);
}

function writeProperties(properties: readonly (readonly string[])[]): readonly string[] {
  return [
    '    <properties>',
    ...properties.map(
      ([name = '', value = '']) =>
        `      <property name="${name}" value="${escapeXml(showSafely(value, LIMITS.junit.name))}"/>`,
    ),
    '    </properties>',
  ];
}

function renderTestCase(testCase: TestCase, framework: Framework | null): readonly string[] {
  const { name, findings } = testCase;
  const shown = showSafely(name, LIMITS.junit.name);
  const parent = name.slice(0, Math.max(0, name.lastIndexOf('.')));
  const group = parent === '' ? '(model)' : showSafely(parent, LIMITS.junit.name);
  const open = `    <testcase name="${escapeXml(shown)}" classname="${escapeXml(group)}" time="0"`;
  const [first] = findings;
  if (first === undefined) return [`${open}/>`];
  const message = escapeXml(describe(first));
  const body = findings.map((finding) => explain(finding, framework)).join('\n');
  if (first.level === 'error')
    return [
      `${open}>`,
      `      <failure message="${message}" type="${first.kind}">${body}</failure>`,
      '    </testcase>',
    ];
  if (isSkipped(testCase))
    return [`${open}>`, `      <skipped message="${message}">${body}</skipped>`, '    </testcase>'];
  return [`${open}>`, `      <system-out>${body}</system-out>`, '    </testcase>'];
}

function describe({ message }: Finding): string {
  return showMessage(message, LIMITS.junit.message);
}

function explain(finding: Finding, framework: Framework | null): string {
  const { kind, level } = finding;
  return escapeXml(
    [
      `${level}: ${titleOf(kind)} (${kind})`,
      `  ${describe(finding)}`,
      `  ${helpWith(kind, framework).remedy}`,
      `  ${findPage(kind)}`,
    ].join('\n'),
  );
}

/** Text for XML 1.0, section 2.2: characters that it forbids are left out, markup is escaped. */
function escapeXml(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&apos;',
  };
  return text
    .replace(/[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/gu, '')
    .replace(/[&<>"']/g, (character) => entities[character] ?? '');
}
