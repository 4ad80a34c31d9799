import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import AjvDraft4 from 'ajv-draft-04';
import addFormats from 'ajv-formats';
import { describe, expect, test } from 'vitest';
import { FINDING_KINDS, makeFinding } from '../../src/compare/findings.js';
import { MAX_SARIF_RESULTS } from '../../src/report/sarif.js';
import {
  makeCleanReport,
  makeLayer,
  makeMixedReport,
  makeReport,
  renderAs,
  SAMPLE_REPORTS,
} from './sample-reports.js';

const renderSarif = renderAs('sarif');

/** The JSON schema of OASIS for SARIF 2.1.0, as Microsoft's package carries it. */
const schemaPath = createRequire(import.meta.url).resolve(
  '@microsoft/jest-sarif/lib/schemas/sarif-2.1.0-rtm.5.json',
);
const ajv = new AjvDraft4.default({ strict: false, allErrors: true, unicodeRegExp: false });
addFormats.default(ajv);
const validate = ajv.compile(JSON.parse(readFileSync(schemaPath, 'utf8')));

describe('SARIF', () => {
  test('has a result for each finding and a rule for each kind', async () => {
    await expect(renderSarif(makeMixedReport())).toMatchFileSnapshot('__snapshots__/mixed.sarif.json');
  });

  test.each(SAMPLE_REPORTS)('follows the schema of version 2.1.0 in %s', (_, report) => {
    validate(JSON.parse(renderSarif(report)));
    expect(validate.errors ?? []).toEqual([]);
  });

  test.each(SAMPLE_REPORTS)(
    'points each result at a rule, a relative file, a region and a fingerprint in %s',
    (_, report) => {
      const [run] = JSON.parse(renderSarif(report)).runs;
      expect(run.results).toHaveLength(report.findings.length);
      for (const result of run.results) {
        expect(run.tool.driver.rules[result.ruleIndex].id).toBe(result.ruleId);
        const [{ physicalLocation }] = result.locations;
        expect(physicalLocation.region.startLine).toBe(1);
        expect(physicalLocation.artifactLocation.uri).toMatch(/^(?:[\w.!~*'()-]|%[0-9A-F]{2}|\/)+$/);
        expect(result.partialFingerprints.primaryLocationLineHash).toMatch(/^[0-9a-f]{32}:\d+$/);
      }
      const fingerprints = run.results.map((result: { partialFingerprints: object }) =>
        JSON.stringify(result.partialFingerprints),
      );
      expect(new Set(fingerprints).size).toBe(fingerprints.length);
    },
  );

  test('has an empty list of results when nothing was found', () => {
    expect(JSON.parse(renderSarif(makeCleanReport())).runs[0].results).toEqual([]);
  });

  test('describes every kind of finding, with its docs page', () => {
    const { rules } = JSON.parse(renderSarif(makeCleanReport())).runs[0].tool.driver;
    expect(rules.map(({ id }: { id: string }) => id)).toEqual(FINDING_KINDS);
    for (const { id, help } of rules) expect(help.text).toContain(`docs/findings/${id}.md`);
  });

  test('keeps to the number of results that GitHub takes and counts the rest', () => {
    const names = Array.from({ length: MAX_SARIF_RESULTS + 3 }, (_, index) => `bn${index}`);
    const report = makeReport({
      layers: [makeLayer('bn')],
      findings: names.map((name) => makeFinding('unpaired-layer', name, 'gone')),
    });
    const [run] = JSON.parse(renderSarif(report)).runs;
    expect(run.results).toHaveLength(MAX_SARIF_RESULTS);
    expect(run.invocations[0].toolExecutionNotifications[0].message.text).toContain('3 findings');
  });

  test('keeps names from being placeholders or links', () => {
    const report = makeReport({ layers: [makeLayer('{0} [x](1)')] });
    const [result] = JSON.parse(renderSarif(report)).runs[0].results;
    expect(result.message.text).toMatch(/^\{\{0\}\} \\\[x\\\]\(1\): /);
  });
});
