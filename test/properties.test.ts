import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../src/audit.js';
import { openSource } from '../src/checkpoint/open.js';
import { CheckpointError } from '../src/errors.js';
import { inspectCheckpoint } from '../src/inspect.js';
import { memorySource } from '../src/io/byte-source.js';
import { render } from '../src/report/render.js';

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
