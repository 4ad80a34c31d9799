import { describe, expect, test } from 'vitest';
import type { DriftCause, LiveComparison } from '../../src/compare/compare-layers.js';
import {
  describeUnpaired,
  FINDING_KINDS,
  type Finding,
  type FindingKind,
  type FindingLevel,
  type FindingPolicy,
  findLayerFindings,
  findUnpaired,
  makeFinding,
  titleOf,
} from '../../src/compare/findings.js';
import { matchNames } from '../../src/compare/globs.js';
import { isBatchGraph } from '../../src/norm/norm-layer.js';
import { comparisonOf, DRIFT, layerOf } from '../build/layers.js';

function policyOf({
  allow = [],
  frozen = [],
  minShift = 0,
}: {
  allow?: readonly string[];
  frozen?: readonly string[];
  minShift?: number;
} = {}): FindingPolicy {
  return { isAllowed: matchNames(allow, []), isFrozen: matchNames(frozen, []), minShift };
}

const findingsOf = (overrides: Partial<LiveComparison>, policy: Parameters<typeof policyOf>[0] = {}) =>
  findLayerFindings(comparisonOf('backbone.bn', overrides), policyOf(policy));

const TRAINING: DriftCause = { kind: 'training-mode', old: null };

/** Kinds and levels alone. */
const kindsOf = (findings: readonly Finding[]) => findings.map(({ kind, level }) => `${level} ${kind}`);
const messageOf = ([finding]: readonly Finding[]) => finding?.message;

describe('every kind', () => {
  test.each<readonly [FindingKind, FindingLevel]>([
    ['frozen-stats-drift', 'error'],
    ['invalid-stats', 'error'],
    ['stats-reset', 'error'],
    ['training-mode-graph', 'error'],
    ['unresolved-stats', 'error'],
    ['folded-scale-drift', 'error'],
    ['folded-bias-drift', 'error'],
    ['affine-frozen-drift', 'warning'],
    ['trained-norm-in-frozen', 'warning'],
    ['batch-stats-while-frozen', 'warning'],
    ['unpaired-layer', 'warning'],
    ['stats-removed', 'error'],
    ['epsilon-changed', 'error'],
    ['frozen-weights-changed', 'error'],
    ['initial-stats', 'note'],
  ])('%s is of level %s, and has a title and a page', (kind, level) => {
    expect(makeFinding(kind, 'bn', 'message')).toEqual({
      kind,
      level,
      layer: 'bn',
      message: 'message',
      docs: `docs/findings/${kind}.md`,
    });
    expect(titleOf(kind)).not.toBe('');
  });

  test('the list of kinds is complete', () => {
    expect(FINDING_KINDS).toHaveLength(16);
  });
});

describe('a drifted layer', () => {
  test('is an error that says what moved although what was frozen', () => {
    const findings = findingsOf({});
    expect(kindsOf(findings)).toEqual(['error frozen-stats-drift']);
    expect(messageOf(findings)).toBe(
      'the running statistics of 2 of 2 channels moved (mean by 0.250 σ rms, output by 0.375 of its size) after 12 training-mode batches, although its weight and bias and the weights that feed it are identical',
    );
  });

  test.each<readonly [Partial<LiveComparison>, string]>([
    [{ neighbours: 'none' }, 'although its weight and bias are identical'],
    [{ affine: 'none' }, 'although the weights that feed it are identical'],
    [{ affine: 'none', neighbours: 'none' }, 'although nothing learned belongs to it'],
    [
      { neighbours: 'none', neighboursFrom: 'unknown' },
      'although its weight and bias are identical; which weights feed it, the names in the file leave open',
    ],
    [
      { affine: 'none', neighbours: 'none', neighboursFrom: 'unknown' },
      'although it has no weight or bias that was trained; which weights feed it, the names in the file leave open',
    ],
  ])('%j: %s', (overrides, ending) => {
    expect(messageOf(findingsOf(overrides))).toContain(ending);
  });

  test.each<readonly [DriftCause | null, bigint | null, string]>([
    [null, null, 'of its size), although'],
    [TRAINING, 1n, 'of its size) after 1 training-mode batch, although'],
    [{ kind: 'uncounted' }, 0n, 'of its size) without a training-mode batch being counted, although'],
    [
      { kind: 'ema' },
      0n,
      'of its size) without a training-mode batch being counted, in an average over time, although',
    ],
    [
      { kind: 're-estimated' },
      -7n,
      'of its size) while the batch count went back by 7 (reset and estimated again), although',
    ],
    [
      { kind: 'reset' },
      -14n,
      'of its size) to mean 0 and variance 1 (reset, and not estimated again), although',
    ],
    [
      { kind: 'averaged', side: 'after', count: 20.5, rose: true },
      null,
      'of its size) under a batch count that is an average (20.5 in after), although',
    ],
  ])('says by %o, with %s batches, what moved the statistics', (cause, batches, words) => {
    expect(messageOf(findingsOf({ cause, batches }))).toContain(words);
  });
});

describe('other statuses', () => {
  test('locked and held layers are no finding', () => {
    expect(findingsOf({ status: 'locked', batches: 0n, drift: { ...DRIFT, channelsMoved: 0 } })).toEqual([]);
    expect(findingsOf({ status: 'held', batches: null, drift: { ...DRIFT, channelsMoved: 0 } })).toEqual([]);
  });

  test('a trained layer is none', () => {
    expect(findingsOf({ status: 'trained' })).toEqual([]);
  });

  test('a layer that was trained behind weights that did not change is a warning', () => {
    const findings = findingsOf({ status: 'trained', affine: 'changed' });
    expect(kindsOf(findings)).toEqual(['warning trained-norm-in-frozen']);
    expect(messageOf(findings)).toBe(
      'the weights that feed it are identical, but its own weight or bias was trained, and the running statistics of 2 of 2 channels moved (mean by 0.250 σ rms, output by 0.375 of its size) after 12 training-mode batches with them: the frozen part computes something else than before',
    );
  });

  test('so it is where its statistics stood still', () => {
    const findings = findingsOf({
      status: 'held',
      affine: 'changed',
      batches: 0n,
      drift: { ...DRIFT, channelsMoved: 0 },
    });
    expect(kindsOf(findings)).toEqual(['warning trained-norm-in-frozen']);
    expect(messageOf(findings)).toContain('was trained, and its statistics stood still:');
  });

  test.each<Partial<LiveComparison>>([
    { affine: 'changed', neighbours: 'changed' },
    { affine: 'changed', neighbours: 'none' },
    { affine: 'none', neighbours: 'equal' },
  ])('a trained layer with %j is none', (relations) => {
    expect(findingsOf({ status: 'trained', ...relations })).toEqual([]);
  });

  test('an affine-frozen layer is a warning', () => {
    const findings = findingsOf({ status: 'affine-frozen', neighbours: 'changed' });
    expect(kindsOf(findings)).toEqual(['warning affine-frozen-drift']);
    expect(messageOf(findings)).toBe(
      'the running statistics of 2 of 2 channels moved (mean by 0.250 σ rms, output by 0.375 of its size) after 12 training-mode batches with the trained weights that feed it, while its own weight and bias stayed frozen',
    );
  });

  test('an invalid layer is an error that names the value', () => {
    const findings = findingsOf({
      status: 'invalid',
      problem: 'the running mean of channel 3 is NaN (not a number)',
    });
    expect(kindsOf(findings)).toEqual(['error invalid-stats']);
    expect(messageOf(findings)).toBe('the running mean of channel 3 is NaN (not a number) in after');
  });

  test('an unresolved layer is an error that gives the reason', () => {
    const findings = findingsOf({
      status: 'unresolved',
      problem: 'in before, it is a graph input',
      drift: null,
    });
    expect(kindsOf(findings)).toEqual(['error unresolved-stats']);
    expect(messageOf(findings)).toBe('its statistics cannot be audited: in before, it is a graph input');
  });

  test('an ambiguous layer is an error that says both', () => {
    const findings = findingsOf({ status: 'ambiguous' });
    expect(kindsOf(findings)).toEqual(['error folded-bias-drift']);
    expect(messageOf(findings)).toContain(
      'either the running mean drifted, or a bias was trained on its own',
    );
  });
});

describe('beside the status', () => {
  test('reset statistics are an error', () => {
    expect(kindsOf(findingsOf({ status: 'trained', isReset: true }))).toEqual(['error stats-reset']);
    expect(kindsOf(findingsOf({ status: 'drifted', isReset: true }))).toEqual([
      'error frozen-stats-drift',
      'error stats-reset',
    ]);
  });

  test.each(['locked', 'held'] as const)(
    'a batch count that moved under a %s layer is a warning',
    (status) => {
      const findings = findingsOf({ status, cause: { kind: 'batch-statistics' } });
      expect(kindsOf(findings)).toEqual(['warning batch-stats-while-frozen']);
      expect(messageOf(findings)).toBe(
        'the batch count moved by 12 while the statistics stood still: in training the layer normalised by batch statistics (momentum 0, or statistics that were put back)',
      );
    },
  );

  test('a batch count that went down or was averaged proves no training, and is none', () => {
    expect(findingsOf({ status: 'locked', batches: -3n, cause: { kind: 'recounted' } })).toEqual([]);
  });

  test('a node in training mode is an error in after and a warning in before', () => {
    const node = layerOf('backbone.bn', { isFromGraph: true, mode: 'batch' });
    expect(kindsOf(findingsOf({ status: 'trained', after: node }))).toEqual(['error training-mode-graph']);
    expect(kindsOf(findingsOf({ status: 'trained', before: node }))).toEqual(['warning training-mode-graph']);
    expect(messageOf(findingsOf({ status: 'trained', after: node }))).toBe(
      'the node in after runs in training mode: it normalises by batch statistics wherever it is deployed',
    );
  });

  test('a pickled module in training mode is no such node', () => {
    expect(isBatchGraph(layerOf('bn', { mode: 'batch' }))).toBe(false);
    expect(isBatchGraph(layerOf('bn', { isFromGraph: true, mode: 'running' }))).toBe(false);
    expect(isBatchGraph(layerOf('bn', { isFromGraph: true, mode: 'batch' }))).toBe(true);
  });
});

describe('--frozen', () => {
  test.each(['trained', 'affine-frozen'] as const)('makes a %s layer a drifted one', (status) => {
    const findings = findingsOf({ status }, { frozen: ['backbone'] });
    expect(kindsOf(findings)).toEqual(['error frozen-stats-drift']);
    expect(messageOf(findings)).toMatch(/, although --frozen says that it must not$/);
  });

  test.each(['trained', 'held'] as const)(
    'leaves the weight and bias of a %s layer to the findings about weights',
    (status) => {
      const findings = findingsOf({ status, affine: 'changed', batches: null }, { frozen: ['backbone'] });
      expect(kindsOf(findings)).not.toContain('warning trained-norm-in-frozen');
    },
  );

  test('says nothing of layers elsewhere', () => {
    expect(findingsOf({ status: 'trained' }, { frozen: ['head'] })).toEqual([]);
  });

  test('says nothing of statistics that stood still', () => {
    expect(findingsOf({ status: 'held', batches: null }, { frozen: ['backbone'] })).toEqual([]);
  });
});

describe('--allow', () => {
  const EXCUSED: readonly (readonly [FindingKind, Partial<LiveComparison>])[] = [
    ['frozen-stats-drift', {}],
    ['stats-reset', { status: 'trained', isReset: true }],
    ['folded-bias-drift', { status: 'ambiguous' }],
    ['affine-frozen-drift', { status: 'affine-frozen' }],
    ['trained-norm-in-frozen', { status: 'trained', affine: 'changed' }],
    ['batch-stats-while-frozen', { status: 'locked', cause: { kind: 'batch-statistics' } }],
  ];

  test.each(EXCUSED)('turns %s into a note that says so', (kind, overrides) => {
    const findings = findingsOf(overrides, { allow: ['backbone'] });
    expect(kindsOf(findings)).toEqual([`note ${kind}`]);
    expect(messageOf(findings)).toMatch(/^allowed: /);
  });

  test.each<readonly [FindingKind, Partial<LiveComparison>]>([
    ['invalid-stats', { status: 'invalid', problem: 'x' }],
    ['unresolved-stats', { status: 'unresolved', problem: 'x' }],
    [
      'training-mode-graph',
      { status: 'trained', after: layerOf('backbone.bn', { isFromGraph: true, mode: 'batch' }) },
    ],
  ])('does not excuse %s', (kind, overrides) => {
    expect(kindsOf(findingsOf(overrides, { allow: ['**'] }))).toEqual([`error ${kind}`]);
  });

  test('leaves layers elsewhere alone', () => {
    expect(kindsOf(findingsOf({}, { allow: ['head'] }))).toEqual(['error frozen-stats-drift']);
  });
});

describe('--min-shift', () => {
  test('turns drift below it into a note that says so', () => {
    const findings = findingsOf({}, { minShift: 0.376 });
    expect(kindsOf(findings)).toEqual(['note frozen-stats-drift']);
    expect(messageOf(findings)).toMatch(/^below --min-shift 0\.376: /);
    expect(kindsOf(findingsOf({ status: 'affine-frozen' }, { minShift: 1 }))).toEqual([
      'note affine-frozen-drift',
    ]);
  });

  test('keeps drift of exactly that size', () => {
    expect(kindsOf(findingsOf({}, { minShift: 0.375 }))).toEqual(['error frozen-stats-drift']);
  });

  test('keeps drift whose size is no number', () => {
    const drift = { ...DRIFT, measures: { ...DRIFT.measures, outputShift: Number.NaN } };
    expect(kindsOf(findingsOf({ drift }, { minShift: 1e9 }))).toEqual(['error frozen-stats-drift']);
  });

  test('excuses no reset and no invalid statistics', () => {
    expect(kindsOf(findingsOf({ status: 'trained', isReset: true }, { minShift: 1e9 }))).toEqual([
      'error stats-reset',
    ]);
    expect(kindsOf(findingsOf({ status: 'invalid', problem: 'x' }, { minShift: 1e9 }))).toEqual([
      'error invalid-stats',
    ]);
  });
});

describe('another epsilon in after', () => {
  const changed = {
    status: 'locked',
    batches: 0n,
    before: layerOf('backbone.bn', { epsilon: 9.999999747378752e-6 }),
    epsilonAfter: 0.1,
  } as const;

  test('is an error, whatever else the layer did', () => {
    const findings = findingsOf(changed);
    expect(kindsOf(findings)).toEqual(['error epsilon-changed']);
    expect(messageOf(findings)).toMatch(/^its epsilon went from 0\.00001 to 0\.1: /);
  });

  test('can be allowed', () => {
    expect(kindsOf(findingsOf(changed, { allow: ['backbone'] }))).toEqual(['note epsilon-changed']);
  });
});

describe('a layer that only one checkpoint has', () => {
  test('is a warning when after lacks it', () => {
    expect(findUnpaired(layerOf('bn'), 'before', policyOf())).toMatchObject({
      kind: 'unpaired-layer',
      level: 'warning',
      message: 'after has no such layer: it was not audited',
    });
  });

  test('is a note when it is new', () => {
    expect(findUnpaired(layerOf('bn'), 'after', policyOf())).toMatchObject({
      level: 'note',
      message: 'the layer is new in after',
    });
  });

  test('is a note that says so when it is allowed', () => {
    expect(findUnpaired(layerOf('bn'), 'before', policyOf({ allow: ['bn'] }))).toMatchObject({
      level: 'note',
      message: 'allowed: after has no such layer: it was not audited',
    });
  });
});

describe('describeUnpaired', () => {
  const missing = (count: number) =>
    Array.from({ length: count }, (_, i) => findUnpaired(layerOf(`bn${i}`), 'before', policyOf()));

  test('names the layers that after does not have, and counts the rest', () => {
    expect(describeUnpaired(missing(1), 'not restored')).toEqual([
      'norm layers that after lacks, or has otherwise, were not restored: "bn0"',
    ]);
    expect(describeUnpaired(missing(7), 'not put back')[0]).toMatch(/: "bn0", .*"bn4" and 2 more$/);
  });

  test('says nothing where every layer has its counterpart, or is new', () => {
    const isNew = findUnpaired(layerOf('bn'), 'after', policyOf());
    expect(describeUnpaired([isNew], 'not restored')).toEqual([]);
  });
});
