import { expect, test } from 'vitest';
import { FreeNames } from '../../../src/formats/baseline/make-baseline.js';

test('a name that is taken gets underscores, and from the ninth on a number', () => {
  const names = new FreeNames(['bias']);
  names.add('bias__');
  expect([1, 2, 3].map(() => names.take('bias'))).toEqual(['bias_', 'bias___', 'bias____']);
  expect(names.take('weight')).toBe('weight');
  const many = Array.from({ length: 10_000 }, () => names.take('bias'));
  expect(many[4]).toBe('bias_9');
  expect(new Set(many).size).toBe(10_000);
});
