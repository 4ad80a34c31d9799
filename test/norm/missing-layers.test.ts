import { describe, expect, test } from 'vitest';
import { createBaseline } from '../../src/formats/baseline/make-baseline.js';
import { inspectCheckpoint } from '../../src/inspect.js';
import { refuseWithoutLayers } from '../../src/norm/missing-layers.js';
import { checkpointOf, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';

const named = (...names: readonly string[]) => checkpointOf(names.map((name) => tensorOf(name, [1])));
const hintFor = async (...names: readonly string[]) =>
  (await failureOf(() => refuseWithoutLayers(named(...names), 'none'))).hint;
const CONVERTED = ['conv1.bias', 'conv1.scale', 'conv1.zero_point', 'quant.scale', 'quant.zero_point'];

describe('a checkpoint without norm layers', () => {
  test('is a converted model where scales stand beside zero points, which another checkpoint tells more of', async () => {
    expect(await hintFor(...CONVERTED)).toMatch(
      /^It is a quantised model .*convert.* best the one from before convert\(\): bn-audit diff BEFORE AFTER$/,
    );
  });

  test('is not explained by observers, or by zero points alone', async () => {
    expect(await hintFor(...CONVERTED, 'quant.fake_quant_enabled')).toBeUndefined();
    expect(await hintFor('conv1.zero_point', 'conv2.scale')).toBeUndefined();
    expect(await hintFor('fc.weight', 'fc.bias')).toBeUndefined();
  });

  test('is refused with that explanation by whoever inspects it or makes a baseline of it', async () => {
    // A baseline may also be made of convolutions with a bias, which these are not.
    const model = named(...CONVERTED.filter((name) => !name.endsWith('bias')));
    for (const use of [inspectCheckpoint, createBaseline]) {
      const { code, hint } = await failureOf(() => use(model));
      expect(code).toBe('no-norm-layers');
      expect(hint).toMatch(/^It is a quantised model/);
    }
  });
});
