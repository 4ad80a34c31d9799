import { describe, expect, test } from 'vitest';
import type { LinearNode } from '../../src/checkpoint/checkpoint.js';
import type { Pairing } from '../../src/compare/pair-layers.js';
import { describeMergedBranches, mayBeFolded } from '../../src/folding/compare-folded.js';
import { checkpointOf } from '../build/checkpoints.js';
import { graphOf, layerOf, linearNodeOf } from '../build/layers.js';

const classifier = (overrides: Partial<LinearNode> = {}) =>
  linearNodeOf('fc', { weight: [1, 2], shape: [2, 1] }, { op: 'Gemm', ...overrides });

/** A side with a graph of one linear layer, or of none, or without a graph. */
function sideOf(linear: LinearNode | 'none' | 'names', producer = 'pytorch 2.13.0') {
  const linears = typeof linear === 'string' ? [] : [linear];
  const graph = linear === 'names' ? null : { ...graphOf([], linears), producer };
  return { checkpoint: checkpointOf([], { graph }), layers: [], learned: new Map() };
}

const layer = layerOf('bn');
const paired: Pairing = {
  pairs: [{ before: layer, after: layer, pairedBy: 'name' }],
  onlyBefore: [],
  onlyAfter: [],
  edits: [],
};

describe('folded norm layers are looked for', () => {
  test.each<readonly [why: string, pairing: Pairing]>([
    ['where no norm layer has a live partner', { ...paired, pairs: [] }],
    ['where one of before has none', { ...paired, onlyBefore: [layer] }],
    ['where one of after has none', { ...paired, onlyAfter: [layer] }],
  ])('%s', (_, pairing) => {
    expect(mayBeFolded(sideOf('names'), sideOf('none'), pairing)).toBe(true);
  });

  test('where a convolution bears a sign of one, on either side', () => {
    const [plain, folded] = [sideOf(classifier()), sideOf(classifier({ looksFolded: true }))];
    expect([mayBeFolded(plain, folded, paired), mayBeFolded(folded, plain, paired)]).toEqual([true, true]);
  });

  test('where no exporter on either side is known to leave signs', () => {
    const foreign = sideOf(classifier(), 'tf2onnx');
    expect(mayBeFolded(foreign, foreign, paired)).toBe(true);
    expect(mayBeFolded(foreign, sideOf(classifier()), paired)).toBe(false);
  });
});

describe('a block whose branches were added up', () => {
  const deploy = sideOf(linearNodeOf('stage.rbr_reparam', { weight: [1, 2], shape: [2, 1] }));
  const training = sideOf('names');

  test('is told where one side alone has such, and what to audit instead', () => {
    const told = describeMergedBranches(training, deploy);
    expect(told).toContain('after is in its deploy form (re-parameterised): "stage.rbr_reparam" is the sum');
    expect(told).toContain('switch_to_deploy()');
    expect(describeMergedBranches(deploy, training)).toContain('before is in its deploy form');
  });

  test('is no matter where both sides or neither has', () => {
    expect(describeMergedBranches(deploy, deploy)).toBeNull();
    expect(describeMergedBranches(training, training)).toBeNull();
  });
});

describe('folded norm layers are not looked for', () => {
  test('among names alone, where every norm layer has a live partner', () => {
    expect(mayBeFolded(sideOf('names'), sideOf('names'), paired)).toBe(false);
  });

  test('where all are live and the rest bears no sign', () => {
    expect(mayBeFolded(sideOf(classifier()), sideOf(classifier()), paired)).toBe(false);
    expect(mayBeFolded(sideOf('names'), sideOf(classifier()), paired)).toBe(false);
  });

  test('where a live norm layer follows every convolution', () => {
    const foreign = sideOf(classifier({ feedsNorm: true }), 'tf2onnx');
    expect(mayBeFolded(foreign, foreign, paired)).toBe(false);
  });
});
