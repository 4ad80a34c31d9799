import { describe, expect, test } from 'vitest';
import {
  type ChannelLayout,
  fitsShape,
  forEachRun,
  layOutChannels,
} from '../../src/checkpoint/channel-grid.js';

/** Every element's channel and its number within that, told piece by piece. */
function listElements(shape: readonly number[], layout: ChannelLayout, pieceLength: number) {
  const total = shape.reduce((product, size) => product * size, 1);
  const elements: (readonly [channel: number, within: number])[] = [];
  for (let start = 0; start < total; start += pieceLength) {
    const length = Math.min(pieceLength, total - start);
    forEachRun(layOutChannels(shape, layout), { start, length }, (channel, from, to, within) => {
      for (let i = from; i < to; i++) elements[start + i] = [channel, within + i - from];
      return true;
    });
  }
  return elements;
}

const LAYOUTS = [
  ['Conv', [4, 3, 2, 2], { outputAxis: 0, groups: 1 }],
  ['Gemm without transB', [5, 3], { outputAxis: 1, groups: 1 }],
  ['ConvTranspose', [6, 2, 3], { outputAxis: 1, groups: 1 }],
  ['ConvTranspose in groups', [6, 2, 3], { outputAxis: 1, groups: 3 }],
] as const;

describe.each(LAYOUTS)('%s', (_, shape, layout) => {
  const { channels } = layOutChannels(shape, layout);
  const whole = listElements(shape, layout, 1000);

  test('every channel numbers its elements from 0 on, in their order', () => {
    const perChannel = whole.length / channels;
    for (let channel = 0; channel < channels; channel++) {
      expect(whole.filter(([own]) => own === channel).map(([, within]) => within)).toEqual(
        Array.from({ length: perChannel }, (_unused, index) => index),
      );
    }
  });

  test.each([1, 2, 5, 7])('pieces of %i elements make no difference', (pieceLength) => {
    expect(listElements(shape, layout, pieceLength)).toEqual(whole);
  });
});

test('groups of a ConvTranspose count their channels one after the other', () => {
  // Shape [inputs, outputs per group]: two groups of two inputs, three outputs each.
  expect(listElements([4, 3], { outputAxis: 1, groups: 2 }, 12).map(([channel]) => channel)).toEqual([
    0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5,
  ]);
});

test('a visitor that returns false ends the walk', () => {
  const seen: number[] = [];
  const isDone = forEachRun(
    layOutChannels([4, 2], { outputAxis: 0, groups: 1 }),
    { start: 0, length: 8 },
    (channel) => {
      seen.push(channel);
      return channel < 1;
    },
  );
  expect([isDone, seen]).toEqual([false, [0, 1]]);
});

test.each([
  [[4, 3], { outputAxis: 0, groups: 1 }, true],
  [[4, 3], { outputAxis: 0, groups: 2 }, false],
  [[4, 3], { outputAxis: 1, groups: 2 }, true],
  [[4, 3], { outputAxis: 1, groups: 3 }, false],
  [[4, 3], { outputAxis: 1, groups: 0 }, false],
  [[4, 3], { outputAxis: 1, groups: Number.NaN }, false],
  [[4, 3], { outputAxis: 2, groups: 1 }, false],
  [[], { outputAxis: 0, groups: 1 }, false],
] as const)('a shape of %j fits %j: %s', (shape, layout, fits) => {
  expect(fitsShape(shape, layout)).toBe(fits);
});
