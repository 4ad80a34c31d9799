import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../../src/audit.js';
import type { Checkpoint } from '../../../src/checkpoint/checkpoint.js';
import { createBaseline } from '../../../src/formats/baseline/make-baseline.js';
import { openCheckpoint, openSource } from '../../../src/formats/open.js';
import { memorySource } from '../../../src/io/byte-source.js';
import { failureOf } from '../../build/failure.js';
import { SHIPPED } from '../../build/shipped.js';

const open = (directory: string, file: string) => openCheckpoint(join(SHIPPED, directory, file));

async function baselineOf(directory: string, file: string): Promise<Checkpoint> {
  const { bytes } = await createBaseline(await open(directory, file));
  return openSource(memorySource('before.bl', bytes), 'before.bl');
}

describe('a baseline of a quantised model', () => {
  test.each(['int8-qdq-int8-channel', 'int8-qoperator-uint8-tensor', 'int8-dynamic-uint8-tensor'])(
    'is refused, with the ways out: %s',
    async (directory) => {
      const checkpoint = await open(directory, 'before.onnx');
      const { code, message, hint } = await failureOf(() => createBaseline(checkpoint));
      expect(code).toBe('unsupported');
      expect(message).toMatch(/^expected learned tensors that are floats, found \d+ of \d+ quantised: /);
      expect(hint).toMatch(/^Keep the file itself .* float model/);
    },
  );
});

describe('a quantised model beside a baseline', () => {
  const directory = 'int8-qdq-int8-channel';

  test('of a folded float model is refused on either side, and the way out is its checkpoint', async () => {
    const [baseline, quantised] = [
      await baselineOf(directory, 'float.onnx'),
      await open(directory, 'before.onnx'),
    ];
    for (const sides of [
      [baseline, quantised],
      [quantised, baseline],
    ] as const) {
      const { code, file, message, hint } = await failureOf(() => auditCheckpoints(...sides));
      expect(code).toBe('unsupported');
      expect(file).toBe(quantised.path);
      expect(message).toMatch(/^its weights are quantised, .* the baseline "before.bl" /);
      expect(hint).toBe('In place of the baseline, name the checkpoint that it was made from.');
    }
  });

  test('of a live model is unresolved, not trained', async () => {
    const baseline = await baselineOf(directory, 'live.safetensors');
    for (const after of ['clean.onnx', 'drift.onnx']) {
      const { layers, verdict, findings } = await auditCheckpoints(baseline, await open(directory, after));
      expect(new Set(layers.map(({ status }) => status))).toEqual(new Set(['unresolved']));
      expect(verdict).toBe('drifted');
      expect(findings[0]?.message).toMatch(/name the checkpoint that it was made from/);
    }
  });
});
