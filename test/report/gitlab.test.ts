import { describe, expect, test } from 'vitest';
import {
  makeCleanReport,
  makeDeepReport,
  makeMixedReport,
  renderAs,
  SAMPLE_REPORTS,
} from './sample-reports.js';

const renderGitlab = renderAs('gitlab');

interface CodeQualityIssue {
  readonly description: string;
  readonly check_name: string;
  readonly fingerprint: string;
  readonly location: { readonly path: string };
}

describe('GitLab Code Quality', () => {
  test('has an issue for each kind and region', async () => {
    await expect(renderGitlab(makeMixedReport())).toMatchFileSnapshot('__snapshots__/mixed.gitlab.json');
  });

  test('is an empty list for a clean report', () => {
    expect(JSON.parse(renderGitlab(makeCleanReport()))).toEqual([]);
  });

  test.each(SAMPLE_REPORTS)('says each of fewer issues than findings once in %s', (_, report) => {
    const issues: readonly CodeQualityIssue[] = JSON.parse(renderGitlab(report));
    expect(issues.length).toBeLessThanOrEqual(report.findings.length);
    expect(new Set(issues.map(({ fingerprint }) => fingerprint)).size).toBe(issues.length);
  });

  test('says the drift of 300 layers in one issue', () => {
    const issues: readonly CodeQualityIssue[] = JSON.parse(renderGitlab(makeDeepReport(300)));
    const drift = issues.filter(({ check_name }) => check_name === 'frozen-stats-drift');
    expect(drift.map(({ description }) => description)).toEqual([
      expect.stringMatching(/: \d+ layers of backbone, the worst backbone\.\S+: /),
    ]);
  });

  test('tells pairs with one after file apart', () => {
    const of = (before: string) =>
      JSON.parse(
        renderGitlab({ ...makeMixedReport(), before: { ...makeMixedReport().before, path: before } }),
      );
    const fingerprints = [...of('a.pt'), ...of('b.pt')].map(
      ({ fingerprint }: CodeQualityIssue) => fingerprint,
    );
    expect(new Set(fingerprints).size).toBe(fingerprints.length);
  });

  test('keeps a fingerprint while the numbers of a finding change', () => {
    const report = makeMixedReport();
    const changed = {
      ...report,
      findings: report.findings.map((finding) => ({ ...finding, message: 'otherwise' })),
    };
    const fingerprints = (text: string) =>
      JSON.parse(text).map(({ fingerprint }: CodeQualityIssue) => fingerprint);
    expect(fingerprints(renderGitlab(changed))).toEqual(fingerprints(renderGitlab(report)));
  });
});
