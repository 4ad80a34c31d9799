import { describe, expect, test } from 'vitest';
import { makeFinding } from '../../src/compare/findings.js';
import {
  makeCleanReport,
  makeDeepReport,
  makeLayer,
  makeMixedReport,
  makeReport,
  renderAs,
} from './sample-reports.js';
import { readAzureIssues } from './workflow-commands.js';

const renderAzure = renderAs('azure');

describe('Azure Pipelines', () => {
  test('logs an issue for each kind and region, errors before warnings, notes not at all', () => {
    const issues = readAzureIssues(renderAzure(makeMixedReport()));
    expect(
      issues.map(({ type, code, sourcepath, linenumber }) => [type, code, sourcepath, linenumber]),
    ).toEqual([
      ['error', 'frozen-stats-drift', 'runs/tuned.pt', '1'],
      ['error', 'invalid-stats', 'runs/tuned.pt', '1'],
      ['warning', 'affine-frozen-drift', 'runs/tuned.pt', '1'],
    ]);
    expect(issues[0]?.['message']).toMatch(
      /^Statistics of a frozen layer drifted: 2 layers of backbone, the worst backbone\.layer1\.bn1: /,
    );
  });

  test('logs nothing for a clean report, and one issue for hundreds of layers', () => {
    expect(renderAzure(makeCleanReport())).toBe('');
    expect(
      readAzureIssues(renderAzure(makeDeepReport(300))).filter(({ type }) => type === 'error'),
    ).toHaveLength(1);
  });

  test('keeps signs that end a property or a line', () => {
    const path = 'runs/50% [v1]; x.pt';
    const findings = [makeFinding('frozen-stats-drift', 'bn', 'moved by 3 %; see [x]')];
    const [issue] = readAzureIssues(
      renderAzure(makeReport({ layers: [makeLayer('bn')], findings, paths: ['a', path] })),
    );
    expect(issue?.['sourcepath']).toBe(path);
    expect(issue?.['message']).toContain('bn: moved by 3 %; see [x] (');
  });
});
