import { expect, test } from 'vitest';
import { suggestName } from '../src/options.js';

const KNOWN = ['frozen', 'allow', 'failOn', 'minShift'];

test.each([
  ['forzen', 'frozen'],
  ['freeze', 'frozen'],
  ['FAILON', 'failOn'],
  ['fail-on', 'failOn'],
  ['min_shift', 'minShift'],
  ['alow', 'allow'],
])('%s is meant as %s', (name, meant) => {
  expect(suggestName(name, KNOWN)).toBe(`; did you mean "${meant}"?`);
});

test.each(['zebra', '', 'x', 'a'.repeat(10_000)])('nothing is guessed for %s', (name) => {
  expect(suggestName(name, KNOWN)).toBe('');
});

test('of names that hold all the words given, the nearest is meant', () => {
  const kinds = ['affine-frozen-drift', 'frozen-stats-drift', 'stats-reset'];
  expect(suggestName('frozen-drift', kinds)).toBe('; did you mean "frozen-stats-drift"?');
  expect(suggestName('frozen-reset', kinds)).toBe('');
});

test('nothing is guessed where nothing is known', () => {
  expect(suggestName('a', [])).toBe('');
});
