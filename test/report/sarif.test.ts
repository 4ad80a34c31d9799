import { describe, expect, test } from 'vitest';
import { FINDING_KINDS, makeFinding } from '../../src/compare/findings.js';
import { findAddress } from '../../src/errors.js';
import { findPage } from '../../src/report/finding-help.js';
import { MAX_SARIF_RESULTS } from '../../src/report/sarif.js';
import {
  makeCleanReport,
  makeDeepReport,
  makeLayer,
  makeMixedReport,
  makeRegion,
  makeReport,
  renderAs,
  SAMPLE_REPORTS,
} from './sample-reports.js';

const renderSarif = renderAs('sarif');

describe('SARIF', () => {
  test('has a result for each kind and region and a rule for each kind', async () => {
    await expect(renderSarif(makeMixedReport())).toMatchFileSnapshot('__snapshots__/mixed.sarif.json');
  });

  test.each(SAMPLE_REPORTS)(
    'points each result at a rule, a relative file, a region and a fingerprint in %s',
    (_, report) => {
      const [run] = JSON.parse(renderSarif(report)).runs;
      const counts = run.results.map(({ properties }: { properties: { count: number } }) => properties.count);
      expect(counts.reduce((sum: number, count: number) => sum + count, 0)).toBe(report.findings.length);
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
    for (const { id, help } of rules) expect(help.text).toContain(findPage(id));
  });

  test('keeps to the number of results that GitHub takes and counts the rest', { timeout: 120_000 }, () => {
    const names = Array.from({ length: MAX_SARIF_RESULTS + 3 }, (_, index) => `bn${index}`);
    const report = makeReport({
      layers: [makeLayer('bn')],
      findings: names.map((name) => makeFinding('unpaired-layer', name, 'gone')),
      regions: names.map(makeRegion),
    });
    const [run] = JSON.parse(renderSarif(report)).runs;
    expect(run.results).toHaveLength(MAX_SARIF_RESULTS);
    expect(run.invocations[0].toolExecutionNotifications[0].message.text).toContain('3 results');
  });

  test('says the drift of 300 layers in one result, which names their count, the worst, and all', () => {
    const { results } = JSON.parse(renderSarif(makeDeepReport(300))).runs[0];
    const drift = results.filter(({ ruleId }: { ruleId: string }) => ruleId === 'frozen-stats-drift');
    expect(drift).toHaveLength(1);
    const { count, layers, region } = drift[0].properties;
    expect(region).toBe('backbone');
    expect(count).toBeGreaterThan(200);
    expect(layers).toHaveLength(count);
    expect(drift[0].message.text).toContain(`${count} layers of backbone, the worst ${layers[0]}: `);
  });

  test('tells pairs with one after file apart, and keeps what it calls each', () => {
    const of = (before: string, message = 'moved') => {
      const findings = [makeFinding('frozen-stats-drift', 'bn', message)];
      const report = makeReport({ layers: [makeLayer('bn')], findings, paths: [before, 'tuned.pt'] });
      const { automationDetails, results } = JSON.parse(renderSarif(report)).runs[0];
      return [automationDetails.id, results[0].partialFingerprints.primaryLocationLineHash];
    };
    expect(of('a.pt')[0]).toBe('bn-audit/a.pt..tuned.pt/');
    expect(of('a.pt', 'moved otherwise')).toEqual(of('a.pt'));
    for (const index of [0, 1]) expect(of('b.pt')[index]).not.toBe(of('a.pt')[index]);
  });

  test('names the web address of the project, and a page for each rule, once there is one', () => {
    const { driver } = JSON.parse(renderSarif(makeCleanReport())).runs[0].tool;
    expect(driver.informationUri).toBe(findAddress('README.md') ?? undefined);
    for (const { id, helpUri } of driver.rules)
      expect(helpUri).toBe(findAddress(`docs/findings/${id}.md`) ?? undefined);
  });

  test('keeps names from being placeholders or links', () => {
    const report = makeReport({ layers: [makeLayer('{0} [x](1)')] });
    const [result] = JSON.parse(renderSarif(report)).runs[0].results;
    expect(result.message.text).toMatch(/^\{\{0\}\} \\\[x\\\]\(1\): /);
  });
});
