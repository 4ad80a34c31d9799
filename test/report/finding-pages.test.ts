import { XMLParser } from 'fast-xml-parser';
import { describe, expect, test } from 'vitest';
import {
  FINDING_KINDS,
  type FindingKind,
  type FindingLevel,
  makeFinding,
} from '../../src/compare/findings.js';
import { findAddress } from '../../src/errors.js';
import type { AnyReport } from '../../src/report/any-report.js';
import { type AuditSet, buildAuditSet } from '../../src/report/audit-set.js';
import { REPORT_FORMATS, type ReportFormat } from '../../src/report/formats.js';
import { render } from '../../src/report/render.js';
import { makeCleanReport, makeInspectReport, makeLayer, makeReport } from './sample-reports.js';
import { parseWorkflowCommands } from './workflow-commands.js';

const LEVELS: readonly FindingLevel[] = ['error', 'warning', 'note'];

const SORTS = FINDING_KINDS.flatMap((kind) => LEVELS.map((level) => [kind, level] as const));

/** Reports of every form that hold one finding, of the layer `bn`. */
function makeReports(kind: FindingKind, level: FindingLevel): readonly (AnyReport | AuditSet)[] {
  const findings = [makeFinding(kind, 'bn', 'it was found', level)];
  const audit = makeReport({ layers: [makeLayer('bn')], findings });
  return [
    audit,
    { ...makeInspectReport(['bn']), findings },
    buildAuditSet([makeCleanReport(), audit, makeCleanReport()]),
  ];
}

/** What a format says to a reader of the one finding: the parts that its consumers show, rules of other kinds left out. */
function readFinding(format: ReportFormat, text: string): string {
  switch (format) {
    case 'text':
    case 'markdown':
      return text;
    case 'html':
      return text.replace(/<(script|style)[\s\S]*?<\/\1>/g, '');
    case 'json': {
      const report = JSON.parse(text);
      return [report, ...(report.reports ?? [])]
        .flatMap(({ findings = [] }) => findings)
        .map(({ docs }) => docs)
        .join();
    }
    case 'junit': {
      const suites = new XMLParser().parse(text).testsuites.testsuite;
      return JSON.stringify([suites].flat().map(({ testcase }) => testcase));
    }
    case 'sarif': {
      const { runs } = JSON.parse(text);
      const helps = runs.flatMap(({ results, tool }: SarifRun) =>
        results.map(({ ruleIndex }) => tool.driver.rules[ruleIndex]?.help.text),
      );
      return helps.join();
    }
    case 'github':
      return parseWorkflowCommands(text)
        .map(({ message }) => message)
        .join();
    case 'azure':
      return text;
    case 'summary':
      return '';
    case 'gitlab':
      return JSON.parse(text)
        .map(({ content }: { content: { body: string } }) => content.body)
        .join();
    default:
      return format satisfies never;
  }
}

interface SarifRun {
  readonly results: readonly { readonly ruleIndex: number }[];
  readonly tool: {
    readonly driver: { readonly rules: readonly { readonly help: { readonly text: string } }[] };
  };
}

/** Without a web address, the page of a kind is what the command prints. */
const pageOf = (kind: FindingKind) => findAddress(`docs/findings/${kind}.md`) ?? `bn-audit explain ${kind}`;

describe.each(REPORT_FORMATS.filter((format) => format !== 'summary'))(
  '%s names the page of a finding',
  (format) => {
    test.each(SORTS)('of kind %s and level %s', (kind, level) => {
      for (const report of makeReports(kind, level)) {
        const said = readFinding(format, render(report, { format }));
        // Ten annotations of a level are shown; notes are not worth one.
        if (['github', 'azure'].includes(format) && level === 'note') expect(said).toBe('');
        else if (format === 'text') expect(said).toMatch(new RegExp(`\\bbn-audit explain ${kind}$`, 'm'));
        else if (format === 'json') expect(said).toContain(`docs/findings/${kind}.md`);
        else expect(said).toContain(pageOf(kind));
        // A path would be taken for one of the user's own repository.
        if (format !== 'json') expect(said).not.toMatch(/(?<![\w/])docs\/findings/);
        for (const other of FINDING_KINDS) {
          if (other === kind || format === 'text') continue;
          expect(said).not.toContain(format === 'json' ? `docs/findings/${other}.md` : pageOf(other));
        }
      }
    });
  },
);

test('the text names each page once, those of errors first', () => {
  const findings = [
    makeFinding('unpaired-layer', 'a', 'it is gone'),
    makeFinding('frozen-stats-drift', 'b', 'it moved'),
    makeFinding('invalid-stats', 'c', 'it is NaN'),
    makeFinding('frozen-stats-drift', 'd', 'it moved'),
  ];
  const layers = ['b', 'd'].map((name) => makeLayer(name));
  const lines = [
    'more  bn-audit explain frozen-stats-drift',
    '      bn-audit explain invalid-stats',
    '      bn-audit explain unpaired-layer',
  ];
  const report = makeReport({ layers, findings });
  expect(render(report).split('\n\n').at(-1)).toBe(`${lines.join('\n')}\n`);
  expect(render(buildAuditSet([report, report]), { all: true }).match(/bn-audit explain/g)).toHaveLength(3);
});
