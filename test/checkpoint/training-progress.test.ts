import { expect, test } from 'vitest';
import { findProgress } from '../../src/checkpoint/training-progress.js';

const progressOf = (...places: readonly object[]) =>
  findProgress(places.map((place) => new Map(Object.entries(place))));

test.each([
  ['Lightning', { epoch: 3, global_step: 400, state_dict: {} }, { epoch: 3, step: 400 }],
  ['timm, which counts no steps', { epoch: 7, arch: 'resnet50' }, { epoch: 7, step: null }],
  ['Detectron2, which counts no epochs', { iteration: 4999 }, { epoch: null, step: 4999 }],
  ['the first epoch', { epoch: 0 }, { epoch: 0, step: null }],
  ['an epoch with a fraction', { epoch: 2.5, global_step: 10 }, { epoch: 2.5, step: 10 }],
  ['metadata of safetensors, which is text', { epoch: '12', step: '0600' }, { epoch: 12, step: 600 }],
  ['a global step beside one within the epoch', { step: 3, global_step: 103 }, { epoch: null, step: 103 }],
])('%s', (_, keys, progress) => {
  expect(progressOf(keys)).toEqual(progress);
});

test('what lies nearer the root goes before what lies deeper', () => {
  expect(progressOf({ epoch: 1 }, { epoch: 2, iter: 80 })).toEqual({ epoch: 1, step: 80 });
});

test.each([
  ['nothing', {}],
  ['an epoch of -1, as Ultralytics leaves it in what is finished', { epoch: -1 }],
  ['what is no number', { epoch: 'last', step: { kind: 'object' } }],
  ['no finite number', { epoch: Number.NaN, step: Number.POSITIVE_INFINITY }],
  ['text that only begins with a number', { epoch: '3 of 10' }],
])('%s tells nothing', (_, keys) => {
  expect(progressOf(keys)).toBeUndefined();
});
