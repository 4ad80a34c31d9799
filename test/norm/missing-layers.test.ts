import { describe, expect, test } from 'vitest';
import { inspectCheckpoint } from '../../src/inspect.js';
import { explainMissing } from '../../src/norm/missing-layers.js';
import { checkpointOf, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';

const named = (...names: readonly string[]) => checkpointOf(names.map((name) => tensorOf(name, [1])));
const CONVERTED = ['conv1.bias', 'conv1.scale', 'conv1.zero_point', 'quant.scale', 'quant.zero_point'];

describe('a checkpoint without norm layers', () => {
  test('is a converted model where scales stand beside zero points, and the model before it is the way out', () => {
    expect(explainMissing(named(...CONVERTED))).toMatch(
      /^It is a quantised model .*convert.* Audit the model from before convert\(\), or ONNX exports of both\.$/,
    );
  });

  test('is not explained by observers, or by zero points alone', () => {
    expect(explainMissing(named(...CONVERTED, 'quant.fake_quant_enabled'))).toBeUndefined();
    expect(explainMissing(named('conv1.zero_point', 'conv2.scale'))).toBeUndefined();
    expect(explainMissing(named('fc.weight', 'fc.bias'))).toBeUndefined();
  });

  test('is refused with that explanation by whoever inspects it, too', async () => {
    const { code, hint } = await failureOf(() => inspectCheckpoint(named(...CONVERTED)));
    expect(code).toBe('no-norm-layers');
    expect(hint).toMatch(/^It is a quantised model/);
  });
});
