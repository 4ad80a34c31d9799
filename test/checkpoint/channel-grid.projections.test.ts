import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type ChannelProjections,
  layOutChannels,
  makeSigns,
  PROJECTION_COUNT,
  Projector,
} from '../../src/checkpoint/channel-grid.js';

const row = (values: ArrayLike<number>) => Array.from(values, (sign) => (sign > 0 ? '+' : '-')).join('');

describe('the sign vectors', () => {
  test('are those that docs/baseline.md shows', () => {
    const docs = readFileSync(new URL('../../docs/baseline.md', import.meta.url), 'utf8');
    for (const [index, signs] of makeSigns(0, 16).entries())
      expect(docs).toContain(`${index} | \`${row(signs)}\``);
  });

  test('are the same from any element on', () => {
    const all = makeSigns(0, 500).map((vector) => [...vector]);
    expect(makeSigns(123, 77).map((vector) => [...vector])).toEqual(
      all.map((vector) => vector.slice(123, 200)),
    );
  });

  test.each([4, 9, 25, 64, 576, 4608])('are next to orthogonal over %i elements', (count) => {
    const [one = [], two = [], three = []] = makeSigns(0, count).map((vector) => [...vector]);
    for (const [x, y] of [
      [one, two],
      [one, three],
      [two, three],
    ] as const) {
      const product = x.reduce((sum, sign, i) => sum + sign * (y[i] ?? 0), 0);
      expect(Math.abs(product)).toBeLessThanOrEqual(3 * Math.sqrt(count));
    }
  });
});

function project(
  values: readonly number[],
  shape: readonly number[],
  cuts: readonly number[] = [],
): ChannelProjections {
  const projector = new Projector(layOutChannels(shape, { outputAxis: 0, groups: 1 }));
  const bounds = [0, ...[...cuts].sort((x, y) => x - y), values.length];
  for (const [index, end] of bounds.slice(1).entries()) {
    const start = bounds[index] ?? 0;
    if (end > start) projector.add(Float64Array.from(values.slice(start, end)), start);
  }
  return projector.conclude();
}

test('a projection is the sum of the weights under the signs, the norm the root of their squares', () => {
  const [one, two, three] = makeSigns(0, 3);
  const { norms, sums, weightsPerChannel } = project([1, 2, 4, 0, 3, 4], [2, 3]);
  const sum = (values: readonly number[], signs: Float64Array | undefined) =>
    values.reduce((total, value, i) => total + value * (signs?.[i] ?? Number.NaN), 0);
  expect([...norms]).toEqual([Math.sqrt(21), 5]);
  expect([...sums]).toEqual(
    [one, two, three]
      .map((signs) => sum([1, 2, 4], signs))
      .concat([one, two, three].map((signs) => sum([0, 3, 4], signs))),
  );
  expect(weightsPerChannel).toBe(2);
});

test('the sums are the same to the last bit, whatever the pieces', () => {
  const values = Array.from({ length: 200 }, (_, i) => Math.sin(i * i) * 10 ** ((i % 13) - 6));
  const whole = project(values, [4, 50]);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 200 }), { maxLength: 6 }), (cuts) => {
      expect(project(values, [4, 50], cuts)).toEqual(whole);
    }),
  );
});

test('a channel longer than the signs that are kept is projected as any other', () => {
  const length = 70_000;
  const projector = new Projector(layOutChannels([1, length], { outputAxis: 0, groups: 1 }));
  for (let start = 0; start < length; start += 30_000)
    projector.add(new Float32Array(Math.min(30_000, length - start)).fill(1), start);
  expect([...projector.conclude().sums]).toEqual(
    makeSigns(0, length).map((signs) => signs.reduce((sum, sign) => sum + sign, 0)),
  );
  expect(projector.conclude().sums).toHaveLength(PROJECTION_COUNT);
});

test('channels of zeros have no weights to count, and at most 256 are counted', () => {
  expect(project([0, 0, 0, 0], [2, 2]).weightsPerChannel).toBe(0);
  expect(project([0, 0, 1, 0], [2, 2]).weightsPerChannel).toBe(1);
  expect(project(Array<number>(600).fill(1), [2, 300]).weightsPerChannel).toBe(256);
});
