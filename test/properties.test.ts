import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../src/audit.js';
import type { Checkpoint } from '../src/checkpoint/checkpoint.js';
import { CheckpointError } from '../src/errors.js';
import { openPath, openSource } from '../src/formats/open.js';
import { inspectCheckpoint } from '../src/inspect.js';
import { memorySource } from '../src/io/byte-source.js';
import { render } from '../src/report/render.js';
import { checkpointOf, normTensors, tensorOf } from './build/checkpoints.js';

const fixtures = fileURLToPath(new URL('../fixtures', import.meta.url));

/** Small files of every kind that is read; external data is left out, for it lies in a second file. */
const FILES = readdirSync(join(fixtures, 'pairs'))
  .sort()
  .flatMap((scenario) =>
    readdirSync(join(fixtures, 'pairs', scenario))
      .filter((name) => /^before\.(?:safetensors|live\.onnx|dynamo-live\.onnx)$/.test(name))
      .map((name) => join('pairs', scenario, name)),
  );

const read = (file: string) => new Uint8Array(readFileSync(join(fixtures, file)));

/** What comes of bytes as a checkpoint: a report, or the error that a user would see. Any other error fails the test. */
async function outcomeOf(bytes: Uint8Array): Promise<'report' | CheckpointError> {
  try {
    const checkpoint = await openSource(memorySource('mutant', bytes), 'mutant');
    const report = await inspectCheckpoint(checkpoint);
    render(report);
    const audited = await auditCheckpoints(checkpoint, checkpoint);
    render(audited);
    render(audited, { format: 'json' });
    await checkpoint.close();
    return 'report';
  } catch (error) {
    if (error instanceof CheckpointError) return error;
    throw error;
  }
}

describe('any truncation gives a CheckpointError', () => {
  test.each(FILES)('%s', async (file) => {
    const bytes = read(file);
    // The borders of structures stand near the ends; between them any byte will do.
    const cut = fc.oneof(
      fc.nat(Math.min(64, bytes.length - 1)),
      fc.nat(Math.min(256, bytes.length - 1)).map((fromEnd) => bytes.length - 1 - fromEnd),
      fc.nat(bytes.length - 1),
    );
    await fc.assert(
      fc.asyncProperty(cut, async (byteLength) => {
        const outcome = await outcomeOf(bytes.subarray(0, byteLength));
        expect(outcome).toBeInstanceOf(CheckpointError);
      }),
      { numRuns: 25 },
    );
  });

  test('at every single byte of a header', async () => {
    const bytes = read('pairs/mlp-bn1d/before.safetensors');
    const headerLength = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
    for (let byteLength = 0; byteLength < 8 + headerLength + 4; byteLength++) {
      expect(await outcomeOf(bytes.subarray(0, byteLength)), `cut at ${byteLength}`).toBeInstanceOf(
        CheckpointError,
      );
    }
  });
});

describe('any change of bytes gives a report or a CheckpointError', () => {
  const SMALL = [
    'pairs/mlp-bn1d/before.safetensors',
    'pairs/mlp-bn1d/before.live.onnx',
    'pairs/no-affine/before.dynamo-live.onnx',
  ];

  test.each(SMALL)('%s', async (file) => {
    const bytes = read(file);
    const seen = { report: 0, error: 0 };
    // Half of the changes hit the first bytes, where sizes and names stand.
    const place = fc.oneof(fc.nat(Math.min(2000, bytes.length - 1)), fc.nat(bytes.length - 1));
    const changes = fc.array(fc.tuple(place, fc.nat(255)), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(changes, async (mutations) => {
        const mutant = bytes.slice();
        for (const [at, byte] of mutations) mutant[at] = byte;
        const outcome = await outcomeOf(mutant);
        if (outcome === 'report') seen.report++;
        else {
          seen.error++;
          expect(outcome.message).not.toBe('');
          expect(outcome.file).toBe('mutant');
        }
      }),
      { numRuns: 300 },
    );
    // A property that only ever sees one of the two proves little.
    expect(seen.report).toBeGreaterThan(0);
    expect(seen.error).toBeGreaterThan(0);
  });
});

test('any bytes at all give a CheckpointError', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
      expect(await outcomeOf(bytes)).toBeInstanceOf(CheckpointError);
    }),
    { numRuns: 500 },
  );
});

describe('which side is before makes no difference to what a layer is called', () => {
  /** An audit's statuses by layer, or how it failed. */
  const statusesOf = async (before: Checkpoint, after: Checkpoint) => {
    try {
      const { layers } = await auditCheckpoints(before, after);
      return layers.map(({ name, status }) => [name, status] as const).sort();
    } catch (error) {
      if (error instanceof CheckpointError) return error.code;
      throw error;
    }
  };

  const names = ['stem', 'down', 'proj', 'merge', 'reduce', 'skip'] as const;
  const part = fc.record({
    name: fc.constantFrom(...names),
    block: fc.nat(2),
    feeder: fc.constantFrom('', '.conv', '.linear'),
    shape: fc.constantFrom<readonly number[]>([2, 3, 1, 1], [2, 4, 1, 1], [3, 2, 1, 1]),
    isTrained: fc.boolean(),
    norm: fc.constantFrom(null, '_bn', '.bn', '_norm', 'x1', 'x2', 'x3'),
    mean: fc.constantFrom([0.5, -0.25], [0.9, 1]),
  });
  const model = fc.array(part, { minLength: 2, maxLength: 9 }).map((parts) => {
    const tensorsOf = (isAfter: boolean) => {
      const tensors = parts.flatMap(({ name, block, feeder, shape, isTrained, norm, mean }, at) => {
        const path = `net${block}.${name}`;
        const count = shape.reduce((product, size) => product * size, 1);
        const values = Array.from({ length: count }, (_, i) =>
          Math.sin(1 + i + 50 * at + (isAfter && isTrained ? 0.5 : 0)),
        );
        const normPath = norm?.startsWith('x') === true ? `net${block}.${norm}` : `${path}${norm}`;
        return [
          tensorOf(`${path}${feeder}.weight`, values, { shape }),
          ...(norm === null ? [] : normTensors(normPath, isAfter ? { mean } : {})),
        ];
      });
      return [...new Map(tensors.map((tensor) => [tensor.name, tensor])).values()];
    };
    return { before: tensorsOf(false), after: tensorsOf(true) };
  });

  test('in files that keep the order of modules, one of them shuffled', async () => {
    let compared = 0;
    await fc.assert(
      fc.asyncProperty(
        model,
        fc.infiniteStream(fc.nat()),
        fc.tuple(fc.boolean(), fc.boolean()),
        async (pair, keys, kept) => {
          const shuffled = pair.after
            .map((tensor) => ({ tensor, key: keys.next().value ?? 0 }))
            .sort((x, y) => x.key - y.key);
          const before = checkpointOf(pair.before, { inModuleOrder: kept[0] });
          const after = checkpointOf(
            shuffled.map(({ tensor }) => tensor),
            { inModuleOrder: kept[1] },
          );
          const statuses = await statusesOf(before, after);
          expect(await statusesOf(after, before)).toEqual(statuses);
          if (typeof statuses !== 'string') compared += statuses.length;
        },
      ),
      { numRuns: 400, seed: 19 },
    );
    expect(compared).toBeGreaterThan(400);
  });

  const countStatuses = async (before: Checkpoint, after: Checkpoint): Promise<readonly string[]> => {
    const statuses = await statusesOf(before, after);
    return typeof statuses === 'string' ? [statuses] : statuses.map(([, status]) => status).sort();
  };

  const scenarios = readdirSync(join(fixtures, 'pairs')).sort();

  test.each(scenarios)('between the formats of %s', async (scenario) => {
    const files = readdirSync(join(fixtures, 'pairs', scenario)).filter((name) =>
      /^(?:before|after)\.(?:safetensors|pt|live\.onnx|fold\.onnx|dynamo\.onnx)$/.test(name),
    );
    const opened = new Map<string, Checkpoint>();
    for (const name of files) opened.set(name, await openPath(join(fixtures, 'pairs', scenario, name)));
    const sides = (side: string) =>
      [...opened].filter(([name]) => name.startsWith(side)).map(([, open]) => open);
    for (const before of sides('before')) {
      for (const after of sides('after')) {
        // A layer that was folded bears another name, as after calls it.
        const [one, other] = [await countStatuses(before, after), await countStatuses(after, before)];
        // Only after can be invalid: that is what is to be deployed.
        if (!one.includes('invalid') && !other.includes('invalid'))
          expect(other, `${before.path} ${after.path}`).toEqual(one);
      }
    }
    for (const checkpoint of opened.values()) {
      const statuses = await countStatuses(checkpoint, checkpoint);
      expect(
        statuses.filter((status) => !/^(?:locked|invalid|unresolved|no-norm-layers)$/.test(status)),
      ).toEqual([]);
      await checkpoint.close();
    }
  });
});
