import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { probe } from '../src/probe/probe.js';
import { loadRuntime, type RuntimeTensor } from '../src/probe/runtime.js';
import { restore } from '../src/restore/restore.js';
import { makeSubdirectory, makeTempDirectory } from './build/sources.js';

const fixtures = fileURLToPath(new URL('../fixtures', import.meta.url));
const leak = `${fixtures}/pairs/requires-grad-leak`;
const input = `${fixtures}/probe/input.npy`;

const folder = makeTempDirectory();

type Rows = readonly (readonly number[])[];
const expected: { readonly outputs: Readonly<Record<'after' | 'restored', Rows>> } = JSON.parse(
  readFileSync(`${fixtures}/probe/expected.json`, 'utf8'),
);

/** The fixture's input: float32, 4 × 3 × 8 × 8, behind a header of 128 bytes. */
function readInput(): Float32Array {
  const bytes = readFileSync(input);
  const start = bytes.byteOffset + bytes.byteLength - 4 * 4 * 3 * 8 * 8;
  return new Float32Array(bytes.buffer.slice(start, start + 4 * 4 * 3 * 8 * 8));
}

/** What a model file computes, by ONNX Runtime alone. */
async function runFile(path: string): Promise<readonly number[]> {
  const runtime = await loadRuntime();
  const session = await runtime.InferenceSession.create(path, { logSeverityLevel: 4 });
  const feeds: Record<string, RuntimeTensor> = {
    input: new runtime.Tensor('float32', readInput(), [4, 3, 8, 8]),
  };
  const { output } = await session.run(feeds, ['output']);
  await session.release();
  if (!(output?.data instanceof Float32Array)) throw new Error('the model has no float32 output');
  return [...output.data];
}

describe.each(['live.onnx', 'external.onnx', 'dynamo-live.onnx', 'fold.onnx', 'dynamo.onnx'])(
  '%s',
  (file) => {
    test('restored, computes what PyTorch computed with the statistics of before', async () => {
      const fixed = join(makeSubdirectory(folder), file);
      await restore(`${leak}/before.pt`, `${leak}/after.${file}`, fixed);
      const [after, restored] = [await runFile(`${leak}/after.${file}`), await runFile(fixed)];
      for (const [i, value] of expected.outputs.after.flat().entries())
        expect(after[i]).toBeCloseTo(value, 5);
      for (const [i, value] of expected.outputs.restored.flat().entries())
        expect(restored[i]).toBeCloseTo(value, 5);
    });

    test('restored, has nothing left that a probe could put back', async () => {
      const fixed = join(makeSubdirectory(folder), file);
      await restore(`${leak}/before.pt`, `${leak}/after.${file}`, fixed);
      const report = await probe(`${leak}/before.pt`, fixed, { inputs: [input] });
      expect(report.putBack.layers).toBe(0);
      expect(report.outputs[0]?.relativeL2).toBe(0);
    });
  },
);
