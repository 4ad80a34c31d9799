import { describe, expect, test } from 'vitest';
import { type CauseEvidence, type DriftCause, decideCause } from '../../src/compare/compare-layers.js';

const decide = (evidence: Partial<CauseEvidence>): DriftCause | null =>
  decideCause({
    haveStatisticsMoved: true,
    isAveraged: false,
    isInitial: false,
    before: 14n,
    after: 26n,
    momentum: null,
    ...evidence,
  });

describe('statistics that moved', () => {
  test('under a count that rose ran in training mode', () => {
    expect(decide({})).toMatchObject({ kind: 'training-mode' });
  });

  test.each<readonly [Partial<CauseEvidence>, string]>([
    [{ after: 14n }, 'uncounted'],
    [{ before: 0n, after: 0n }, 'uncounted'],
    // A layer that was made anew around copied statistics.
    [{ after: 0n }, 'uncounted'],
    [{ after: 14n, isAveraged: true }, 'ema'],
    [{ after: 5n }, 're-estimated'],
    [{ after: 5n, isAveraged: true }, 're-estimated'],
    [{ isInitial: true, after: 0n }, 'reset'],
    [{ isInitial: true, after: 14n }, 'reset'],
    [{ isInitial: true, before: null, after: null }, 'reset'],
  ])('with %o are %s', (evidence, kind) => {
    expect(decide(evidence)).toEqual({ kind });
  });

  test('under an averaged count are an average, of a side, that rose or did not', () => {
    expect(decide({ after: 20.5 })).toEqual({ kind: 'averaged', side: 'after', count: 20.5, rose: true });
    expect(decide({ after: 13.5 })).toEqual({ kind: 'averaged', side: 'after', count: 13.5, rose: false });
    expect(decide({ before: 14.5 })).toEqual({ kind: 'averaged', side: 'before', count: 14.5, rose: true });
  });

  test.each(['before', 'after'])('tell nothing where %s has no count', (side) => {
    expect(decide({ [side]: null })).toBeNull();
  });
});

describe('statistics that stood still', () => {
  const still = (before: CauseEvidence['before'], after: CauseEvidence['after']) =>
    decide({ haveStatisticsMoved: false, before, after });

  test('under a count that rose were normalised by batch statistics', () => {
    expect(still(14n, 26n)).toEqual({ kind: 'batch-statistics' });
  });

  test.each([
    [14n, 13n],
    [14n, 0n],
    [14n, 13.5],
    [14n, 14.5],
    [13.5, 14n],
  ])(
    'under a count that went from %d to %d were not: it was averaged, or the layer made anew',
    (before, after) => {
      expect(still(before, after)).toEqual({ kind: 'recounted' });
    },
  );

  test.each([
    [14n, 14n],
    [14.5, 14.5],
    [null, 14n],
    [14n, null],
  ])('under the counts %d and %d tell nothing', (before, after) => {
    expect(still(before, after)).toBeNull();
  });
});

describe('what the passes leave of the old statistics', () => {
  const oldOf = (evidence: Partial<CauseEvidence>) => {
    const cause = decide(evidence);
    return cause?.kind === 'training-mode' ? cause.old : undefined;
  };

  test('is (1 − momentum)ⁿ, by PyTorch’s default where the file does not tell', () => {
    expect(oldOf({})).toEqual({ share: 0.9 ** 12, momentum: 0.1, momentumFrom: 'default' });
  });

  test('is that of the module’s momentum where the file tells', () => {
    expect(oldOf({ momentum: 0.5, after: 16n })).toEqual({
      share: 0.25,
      momentum: 0.5,
      momentumFrom: 'module',
    });
    expect(oldOf({ momentum: 1 })?.share).toBe(0);
  });

  test('is their share of all passes where these weigh alike', () => {
    expect(oldOf({ momentum: 'cumulative', before: 10n, after: 40n })?.share).toBe(0.25);
  });

  test('goes to nothing after very many', () => {
    expect(oldOf({ after: 2n ** 62n })?.share).toBe(0);
  });

  test('is not told of an average, in which more is left', () => {
    expect(oldOf({ isAveraged: true })).toBeNull();
  });

  test.each([0, -1, 2, Number.NaN])('is not told by a momentum of %d', (momentum) => {
    expect(oldOf({ momentum })).toBeNull();
  });
});
