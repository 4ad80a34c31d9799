import { describe, expect, test } from 'vitest';
import { type Finding, makeFinding } from '../../src/compare/findings.js';
import { describeAnswer, type Outcome } from '../../src/report/answer.js';
import type { AuditLayer } from '../../src/report/audit-report.js';
import { makeInspectReport, makeLayer, makeReport, type ReportParts } from './sample-reports.js';

const locked = (name: string, overrides: Partial<AuditLayer> = {}) =>
  makeLayer(name, { status: 'locked', channelsMoved: 0, ...overrides });

const headlineOfReport = (parts: ReportParts) =>
  describeAnswer(makeReport({ findings: [], ...parts })).headline;

describe('the headline of a clean audit', () => {
  test('claims that every layer stood still where all were seen', () => {
    expect(headlineOfReport({ layers: [locked('a'), locked('b')] })).toBe('every norm layer stood still');
  });

  test('claims no more than folding shows', () => {
    expect(headlineOfReport({ layers: [locked('a'), locked('b', { channelsHidden: 3 })] })).toBe(
      'every norm layer stood still, as far as folding shows it',
    );
  });

  test.each([
    [1, 'every audited norm layer stood still; 1 of 2 norm layers was not audited'],
    [2, 'every audited norm layer stood still; 2 of 3 norm layers were not audited'],
  ])('says that %d layers were not audited', (notAudited, headline) => {
    const findings = [makeFinding('unpaired-layer', 'gone', 'after has no such layer')];
    expect(headlineOfReport({ layers: [locked('a')], findings, notAudited })).toBe(headline);
  });

  test('says so beside warnings, and beside drift that was accepted', () => {
    const warned = { findings: [makeFinding('batch-stats-while-frozen', 'a', 'counted')], notAudited: 1 };
    expect(headlineOfReport({ layers: [locked('a')], ...warned })).toBe(
      'no error, but 1 warning: the layer ran in training mode though its statistics stood still; 1 of 2 norm layers was not audited',
    );
    const accepted = {
      findings: [makeFinding('frozen-stats-drift', 'a', 'allowed: moved', 'note')],
      notAudited: 1,
    };
    expect(headlineOfReport({ layers: [makeLayer('a', { allowed: true })], ...accepted })).toBe(
      'no drift beyond what was accepted: 1 of 1 norm layer moved, 1 allowed; 1 of 2 norm layers was not audited',
    );
  });

  test('calls nothing frozen only where every learned tensor changed', () => {
    const layers = [makeLayer('a', { status: 'trained', affine: 'changed', neighbours: 'changed' })];
    const headline = (learned: { equal: number; changed: number }) =>
      headlineOfReport({ layers, findings: [], learned });
    expect(headline({ equal: 0, changed: 3 })).toBe('nothing was frozen: statistics moved with the weights');
    expect(headline({ equal: 1, changed: 2 })).toBe(
      'every norm layer was trained: statistics moved with the weights',
    );
  });

  test.each([
    'frozen-stats-drift',
    'folded-scale-drift',
    'folded-bias-drift',
    'stats-reset',
    'affine-frozen-drift',
  ] as const)('counts a layer whose %s was accepted', (kind) => {
    const layers = [makeLayer('a', { allowed: true }), makeLayer('b')];
    const findings = layers.map(({ name }) => makeFinding(kind, name, 'moved', 'note'));
    expect(headlineOfReport({ layers, findings })).toBe(
      'no drift beyond what was accepted: 2 of 2 norm layers moved, 1 allowed, 1 below --min-shift',
    );
  });
});

describe('drift of which some was accepted', () => {
  const layers = ['a', 'b', 'c', 'd'].map((name) =>
    makeLayer(`backbone.${name}`, { allowed: name === 'b', outputShift: 0.5 }),
  );
  const findings = layers.map(({ name }) =>
    makeFinding('frozen-stats-drift', name, 'moved', /[bc]$/.test(name) ? 'note' : 'error'),
  );
  const answer = describeAnswer(
    makeReport({
      layers,
      findings,
      regions: [
        {
          path: 'backbone',
          status: 'frozen',
          layers: 5,
          drifted: 4,
          learned: { tensors: 15, equal: 15, elements: 100 },
          equality: 'exact',
          relativeDifference: 0,
        },
      ],
    }),
  );

  test('counts all that moved in the headline, and what of it was accepted', () => {
    expect(answer.headline).toBe(
      '\u0002backbone\u0003 was frozen, its statistics were not (4 of 5 moved, 1 allowed, 1 below --min-shift)',
    );
  });

  test('and in the explanation', () => {
    expect(answer.explanation).toContain(
      'yet 4 of 5 norm layers moved, 1 allowed, 1 below --min-shift, after 1,250 training-mode batches.',
    );
  });
});

describe('the outcome', () => {
  test.each<readonly [Outcome, string, readonly Finding[]]>([
    ['drifted', 'Drifted', [makeFinding('frozen-stats-drift', 'a', 'it moved')]],
    ['drifted', 'Drifted', [makeFinding('invalid-stats', 'a', 'it is NaN')]],
    ['clean', 'Clean', [makeFinding('unpaired-layer', 'b', 'it is gone')]],
    ['clean', 'Clean', []],
  ])('of an audit is its verdict: %s', (outcome, word, findings) => {
    const report = makeReport({ layers: [makeLayer('a')], findings });
    expect(report.verdict).toBe(outcome);
    expect(describeAnswer(report)).toMatchObject({ outcome, word });
  });

  test.each([
    ['healthy', 'clean', 'Healthy'],
    ['warning', 'warned', 'Warning'],
    ['unhealthy', 'unhealthy', 'Unhealthy'],
  ] as const)('of an inspection is its health: %s', (health, outcome, word) => {
    const report = { ...makeInspectReport(), health };
    expect(describeAnswer(report)).toMatchObject({ outcome, word });
  });

  test('of an inspection without layers claims nothing of statistics', () => {
    const report = { ...makeInspectReport(['a']), layers: [] };
    expect(describeAnswer(report).headline).toBe(
      'no running statistics are in the file: norm layers were folded away',
    );
  });
});

describe('the headline of drift that belongs to no module', () => {
  const folded = (status: AuditLayer['status']) =>
    makeLayer('conv0', {
      status,
      via: 'folded',
      before: { name: 'conv0', node: null, mean: null, variance: null },
      after: { name: 'conv0', node: null, mean: null, variance: null },
    });
  const headline = (layer: AuditLayer) => {
    const finding = makeFinding('frozen-stats-drift', 'conv0', 'moved', 'error');
    return describeAnswer(makeReport({ layers: [layer], findings: [finding], regions: [] })).headline;
  };

  test('blames --frozen for trained layers alone', () => {
    expect(headline(folded('drifted'))).toBe('statistics of frozen layers moved');
    expect(headline(folded('trained'))).toBe('statistics moved in layers that --frozen says must not move');
  });
});

test('what is equal up to rounding alone is not called identical', () => {
  const regions = (equality: 'exact' | 'rounded') => [
    {
      path: 'backbone',
      status: 'frozen' as const,
      equality,
      relativeDifference: equality === 'rounded' ? 1e-7 : 0,
      layers: 1,
      drifted: 1,
      learned: { tensors: 3, equal: 3, elements: 100 },
    },
  ];
  const explain = (equality: 'exact' | 'rounded') =>
    describeAnswer(makeReport({ layers: [makeLayer('backbone.bn')], regions: regions(equality) }))
      .explanation;
  expect(explain('rounded')).toContain('are identical up to rounding, yet');
  expect(explain('exact')).toContain('are identical, yet');
});
