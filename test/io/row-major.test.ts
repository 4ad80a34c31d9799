import { expect, test } from 'vitest';
import { countElements, indexAt, placeOf, stridesOf } from '../../src/io/row-major.js';

test('the last index counts up first', () => {
  const shape = [2, 3, 4];
  expect(countElements(shape)).toBe(24);
  expect(stridesOf(shape)).toEqual([12, 4, 1]);
  const indices = Array.from({ length: 24 }, (_, place) => indexAt(place, shape));
  expect(indices.slice(0, 6)).toEqual([
    [0, 0, 0],
    [0, 0, 1],
    [0, 0, 2],
    [0, 0, 3],
    [0, 1, 0],
    [0, 1, 1],
  ]);
  expect(indices.map((index) => placeOf(index, shape))).toEqual([...indices.keys()]);
});

test('a number without dimensions is one element', () => {
  expect([countElements([]), placeOf([], []), ...indexAt(0, []), ...stridesOf([])]).toEqual([1, 0]);
});
