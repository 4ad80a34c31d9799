import { describe, expect, test } from 'vitest';
import { makeFinding } from '../../src/compare/findings.js';
import { MAX_ANNOTATIONS } from '../../src/report/github.js';
import {
  makeCleanReport,
  makeDeepReport,
  makeLayer,
  makeMixedReport,
  makeRegion,
  makeReport,
  renderAs,
} from './sample-reports.js';
import { parseWorkflowCommands } from './workflow-commands.js';

const renderGithub = renderAs('github');

describe('GitHub annotations', () => {
  test('say each error and warning with its file and title', async () => {
    await expect(renderGithub(makeMixedReport())).toMatchFileSnapshot('__snapshots__/mixed.github.txt');
  });

  test('are none for a clean report', () => {
    expect(renderGithub(makeCleanReport())).toBe('');
  });

  test('put the layer whose output moves most first', () => {
    const [first] = parseWorkflowCommands(renderGithub(makeMixedReport()));
    expect(first).toMatchObject({
      name: 'error',
      properties: { title: 'Statistics of a frozen layer drifted', file: 'runs/tuned.pt' },
      message: expect.stringMatching(/^2 layers of backbone, the worst backbone\.layer1\.bn1: /),
    });
  });

  test('are ten errors and ten warnings at most, the last of which counts the rest', () => {
    const names = Array.from({ length: 40 }, (_, index) => `part${index}.bn`);
    const report = makeReport({
      layers: names.map((name) => makeLayer(name)),
      regions: names.map((_, index) => makeRegion(`part${index}`)),
      findings: names.flatMap((name) => [
        makeFinding('frozen-stats-drift', name, 'moved'),
        makeFinding('affine-frozen-drift', name, 'moved'),
      ]),
    });
    const commands = parseWorkflowCommands(renderGithub(report));
    for (const level of ['error', 'warning']) {
      const ofLevel = commands.filter(({ name }) => name === level);
      expect(ofLevel).toHaveLength(MAX_ANNOTATIONS);
      expect(ofLevel.at(-1)?.message).toBe(`31 more ${level}s of 40; the report has them all`);
    }
    expect(commands).toHaveLength(2 * MAX_ANNOTATIONS);
  });

  test('round-trip percent signs, colons and commas in a path', () => {
    const report = makeReport({ layers: [makeLayer('bn')], paths: ['a', 'runs/50%, v1:2/after.pt'] });
    const [command] = parseWorkflowCommands(renderGithub(report));
    expect(command?.properties).toEqual({
      title: 'Statistics of a frozen layer drifted',
      file: 'runs/50%, v1:2/after.pt',
    });
  });

  test('give a path within the repository relative to it', () => {
    const report = makeReport({ layers: [makeLayer('bn')], paths: ['a', '/home/ci/repo/runs/after.pt'] });
    const [command] = parseWorkflowCommands(renderGithub(report, { root: '/home/ci/repo' }));
    expect(command?.properties['file']).toBe('runs/after.pt');
  });

  test('say the drift of hundreds of layers in one, with their count and the worst', () => {
    const report = makeDeepReport(300);
    const commands = parseWorkflowCommands(renderGithub(report)).filter(({ name }) => name === 'error');
    const worst = report.summary.worst?.layer ?? '';
    expect(commands.map(({ message }) => message)).toEqual([
      expect.stringMatching(new RegExp(`^\\d+ layers of backbone, the worst ${worst}: .*frozen-stats-drift`)),
    ]);
  });
});
