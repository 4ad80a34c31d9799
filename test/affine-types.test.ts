import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../src/audit.js';
import { bitsOf, DTYPE_NAMES, isDecodable } from '../src/checkpoint/dtype.js';
import { CheckpointError } from '../src/errors.js';
import { createBaseline } from '../src/formats/baseline/make-baseline.js';
import { openPath } from '../src/formats/open.js';
import { inspect } from '../src/inspect.js';
import { restore } from '../src/restore/restore.js';
import { f32, i64 } from './build/bytes.js';
import { safetensorsBytes } from './build/safetensors.js';
import { makeSubdirectory, makeTempDirectory } from './build/sources.js';

const directory = makeTempDirectory();
const LEAVES = ['weight', 'bias', 'num_batches_tracked', 'running_mean', 'running_var'] as const;
const CHANNELS = 4;

/** Ones and zeros, in turn; of most types they are no numbers that a layer would learn. */
const bitsFor = (count: number, bits: number) =>
  Uint8Array.from({ length: Math.max(1, (count * bits) / 8) }, (_, at) => at % 2);

/** Two checkpoints of a drifted layer; one of its tensors has a type of its own on the sides that are named. */
function makePair(leaf: string, dtype: (typeof DTYPE_NAMES)[number], sides: readonly string[]) {
  const place = makeSubdirectory(directory);
  const vector = (...data: readonly number[]) => ({ dtype: 'F32', shape: [CHANNELS], data: f32(...data) });
  const shape = leaf === 'num_batches_tracked' && bitsOf(dtype) >= 8 ? [] : [CHANNELS];
  const count = shape[0] ?? 1;
  const odd = { dtype, shape, data: bitsFor(count, bitsOf(dtype)) };
  const write = (side: 'before' | 'after') => {
    const moved = side === 'after' ? 1 : 0;
    const tensors = {
      'conv.weight': { dtype: 'F32', shape: [CHANNELS, 1, 1, 1], data: f32(1, 2, 3, 4) },
      'bn.weight': vector(1, 0.5, 0.3, -2),
      'bn.bias': vector(0, 0.1, 0.7, 1),
      'bn.running_mean': vector(0.1 + moved, 0.2, 0.3, 0.4),
      'bn.running_var': vector(1, 2, 3 + moved, 4),
      'bn.num_batches_tracked': { dtype: 'I64', shape: [], data: i64(100 + moved) },
    };
    const path = join(place, `${side}.safetensors`);
    const own = sides.includes(side) ? { [`bn.${leaf}`]: odd } : {};
    writeFileSync(path, safetensorsBytes({ ...tensors, ...own }));
    return path;
  };
  return { place, before: write('before'), after: write('after') };
}

/** Something that may be refused in a sentence; anything else that goes wrong fails the test. */
async function mayRefuse(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
  }
}

describe.each(LEAVES)('%s', (leaf) => {
  const cases = DTYPE_NAMES.flatMap((dtype) =>
    [['before', 'after'], ['after']].map((sides) => ({ dtype, sides })),
  );

  test.each(cases)(
    'of type $dtype in $sides is reported on or refused in a sentence',
    async ({ dtype, sides }) => {
      const { place, before, after } = makePair(leaf, dtype, sides);
      const baseline = join(place, 'baseline');
      for (const path of [before, after]) {
        const { layers } = await inspect(path, { channels: true });
        expect(layers).toHaveLength(1);
      }
      for (const [one, other] of [
        [before, after],
        [after, before],
      ] as const) {
        expect((await audit(one, other, { channels: true })).layers).toHaveLength(1);
      }
      await mayRefuse(() => restore(before, after, join(place, 'fixed')));
      const checkpoint = await openPath(before);
      writeFileSync(baseline, (await createBaseline(checkpoint)).bytes);
      await checkpoint.close();
      for (const path of [before, after]) {
        const layersOf = async (reference: string) =>
          (await audit(reference, path)).layers.map(({ status, affine }) => [status, affine]);
        const copy = join(place, 'copy');
        copyFileSync(before, copy);
        expect(await layersOf(baseline)).toEqual(await layersOf(copy));
      }
    },
  );
});

describe('a layer', () => {
  const DECODABLE = DTYPE_NAMES.filter(isDecodable);

  test.each(DTYPE_NAMES.filter((dtype) => !isDecodable(dtype)))(
    'with a weight of type %s is not judged',
    async (dtype) => {
      const { before, after } = makePair('weight', dtype, ['before', 'after']);
      const { layers } = await audit(before, after);
      expect(layers.map(({ status }) => status)).toEqual(['unresolved']);
    },
  );

  test.each(DECODABLE)('with a weight of type %s is judged', async (dtype) => {
    const { before, after } = makePair('weight', dtype, ['before', 'after']);
    const { layers } = await audit(before, after);
    expect(layers.map(({ status }) => status)).not.toContain('unresolved');
  });

  test.each(DTYPE_NAMES)(
    'with a batch count of type %s is judged, whether it can be counted or not',
    async (dtype) => {
      const { before, after } = makePair('num_batches_tracked', dtype, ['after']);
      const { layers } = await audit(before, after);
      expect(layers.map(({ status }) => status)).toEqual(['drifted']);
    },
  );
});
