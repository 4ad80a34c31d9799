import { describe, expect, test } from 'vitest';
import { type FindingKind, type FindingLevel, makeFinding } from '../../src/compare/findings.js';
import { describeAnswer } from '../../src/report/answer.js';
import type { AuditLayer, AuditReport } from '../../src/report/audit-report.js';
import { makeLayer, makeReport } from './sample-reports.js';

const locked = (name: string, overrides: Partial<AuditLayer> = {}) =>
  makeLayer(name, { status: 'locked', channelsMoved: 0, ...overrides });

function headlineOf(
  layers: readonly AuditLayer[],
  found: readonly (readonly [FindingKind, FindingLevel])[] = [],
): string {
  const findings = found.map(([kind, level], index) => makeFinding(kind, `layer${index}`, 'moved', level));
  const report: AuditReport = makeReport({ layers, findings });
  return describeAnswer(report, (name) => name).headline;
}

describe('the headline of a clean audit', () => {
  test('claims that every layer stood still where all were seen', () => {
    expect(headlineOf([locked('a'), locked('b')])).toBe('every norm layer stood still');
  });

  test('claims no more than folding shows', () => {
    expect(headlineOf([locked('a'), locked('b', { channelsHidden: 3 })])).toBe(
      'every norm layer stood still, as far as folding shows it',
    );
  });

  test.each([
    [1, 'no error in 1 of 2 norm layers; the other was not audited'],
    [2, 'no error in 1 of 3 norm layers; the others were not audited'],
  ])('says that %d layers were not audited', (count, headline) => {
    const unpaired = Array.from({ length: count }, () => ['unpaired-layer', 'warning'] as const);
    expect(headlineOf([locked('a')], unpaired)).toBe(headline);
  });

  test.each(['frozen-stats-drift', 'folded-scale-drift', 'folded-bias-drift', 'stats-reset'] as const)(
    'counts a layer whose %s was accepted',
    (kind) => {
      expect(headlineOf([locked('a')], [[kind, 'note']])).toBe(
        'no drift beyond what was accepted (1 layer excused)',
      );
    },
  );
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
    return describeAnswer(makeReport({ layers: [layer], findings: [finding], regions: [] }), (name) => name)
      .headline;
  };

  test('blames --frozen for trained layers alone', () => {
    expect(headline(folded('drifted'))).toBe('statistics of frozen layers moved');
    expect(headline(folded('trained'))).toBe('statistics moved in layers that --frozen says must not move');
  });
});
