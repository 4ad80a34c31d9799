import { describe, expect, test } from 'vitest';
import {
  makeCleanReport,
  makeDeepReport,
  makeHostileReport,
  makeInspectReport,
  makeMixedReport,
  renderAs,
} from './sample-reports.js';

const renderGitlab = renderAs('gitlab');

/** An issue by GitLab's documentation of the Code Quality report: these keys are required. */
interface CodeQualityIssue {
  readonly description: string;
  readonly check_name: string;
  readonly fingerprint: string;
  readonly severity: string;
  readonly location: { readonly path: string; readonly lines: { readonly begin: number } };
}

describe('GitLab Code Quality', () => {
  test('has an issue for each kind and region', async () => {
    await expect(renderGitlab(makeMixedReport())).toMatchFileSnapshot('__snapshots__/mixed.gitlab.json');
  });

  test('is an empty list for a clean report', () => {
    expect(JSON.parse(renderGitlab(makeCleanReport()))).toEqual([]);
  });

  test.each([
    ['a mixed report', makeMixedReport()],
    ['a deep report', makeDeepReport(300)],
    ['a report of hostile names', makeHostileReport()],
    ['an inspection', makeInspectReport()],
  ])('has the keys that GitLab requires in %s', (_, report) => {
    const issues: readonly CodeQualityIssue[] = JSON.parse(renderGitlab(report));
    expect(issues).not.toHaveLength(0);
    expect(issues.length).toBeLessThanOrEqual(report.findings.length);
    for (const issue of issues) {
      expect(issue).toMatchObject({
        description: expect.stringMatching(/./),
        check_name: expect.stringMatching(/^[a-z-]+$/),
        fingerprint: expect.stringMatching(/^[0-9a-f]{32}$/),
        severity: expect.stringMatching(/^(?:info|minor|major|critical|blocker)$/),
        location: { path: expect.stringMatching(/./), lines: { begin: 1 } },
      });
      expect(issue.location.path).not.toMatch(/^\.\//);
    }
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
