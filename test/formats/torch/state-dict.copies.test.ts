import { describe, expect, test } from 'vitest';
import { sortCopies } from '../../../src/formats/torch/state-dict.js';

/** Networks by the path of their keys; those of one letter in front have the same tensors. */
const sort = (paths: readonly string[], isCopyLoaded = false) =>
  sortCopies(
    paths.map((path) => ({ path: path.slice(2).split('.'), letter: path[0] ?? '' })),
    ({ letter }) => letter,
    isCopyLoaded,
  ).map(({ network, copies }) => [network, ...copies].map(({ path }) => path.join('.')));

describe('a copy goes with the network that has its tensors', () => {
  test.each([
    ['timm', ['a:state_dict', 'a:state_dict_ema']],
    ['DETR', ['a:model', 'a:model_ema']],
    ['BasicSR', ['a:params', 'a:params_ema']],
    ['mmengine', ['a:state_dict', 'a:ema_state_dict']],
    ['Lightning', ['a:state_dict', 'a:current_model_state']],
    ['a dict of its own', ['a:model', 'a:ema.module']],
    ['the best so far', ['a:net', 'a:best']],
  ])('%s', (_, paths) => {
    expect(sort(paths)).toEqual([paths.map((path) => path.slice(2))]);
  });

  test('whichever comes first', () => {
    expect(sort(['a:ema', 'a:model'])).toEqual([['model', 'ema']]);
  });

  test('and is audited in its place where the framework loads it', () => {
    expect(sort(['a:model', 'a:ema'], true)).toEqual([['ema', 'model']]);
  });

  test('of two alike, with the one that its key names', () => {
    expect(sort(['a:G_A', 'a:G_B', 'a:G_A_ema', 'a:G_B_ema'])).toEqual([
      ['G_A', 'G_A_ema'],
      ['G_B', 'G_B_ema'],
    ]);
  });
});

describe('networks of their own are', () => {
  test.each([
    ['a generator and a discriminator', ['a:generator', 'b:discriminator']],
    ['a student and a teacher of the same tensors', ['a:student', 'a:teacher']],
    ['two generators of one class', ['a:G_A', 'a:G_B']],
    ['an average of other tensors', ['a:model', 'b:ema']],
    ['averages of a model that is not there', ['a:ema', 'a:swa']],
  ])('%s', (_, paths) => {
    expect(sort(paths)).toEqual(paths.map((path) => [path.slice(2)]));
  });
});
