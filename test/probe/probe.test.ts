import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { probe } from '../../src/probe.js';

const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));
const pair = `${fixtures}/pairs/requires-grad-leak`;
const input = `${fixtures}/probe/input.npy`;

interface Expected {
  readonly files: readonly string[];
  readonly outputs: Readonly<Record<'before' | 'after' | 'restored', readonly (readonly number[])[]>>;
  readonly relativeL2: { readonly restoredToAfter: number };
  readonly ablation: Readonly<Record<string, readonly (readonly number[])[]>>;
  readonly layers: Readonly<Record<string, { readonly inNetwork: number; readonly sameInput: number }>>;
}
const expected: Expected = JSON.parse(readFileSync(`${fixtures}/probe/expected.json`, 'utf8'));

function relativeL2(reference: readonly (readonly number[])[], value: readonly (readonly number[])[]): number {
  const norm = (values: readonly number[]) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
  const [x, y] = [reference.flat(), value.flat()];
  return norm(y.map((one, i) => one - (x[i] ?? Number.NaN))) / norm(x);
}
const argmax = (row: readonly number[]) => row.indexOf(Math.max(...row));

describe.each(['live.onnx', 'external.onnx', 'dynamo-live.onnx', 'fold.onnx', 'dynamo.onnx'])('%s', (file) => {
  test.each(['before.safetensors', `before.${file}`])('with %s, agrees with what PyTorch computed', async (before) => {
    const report = await probe(`${pair}/${before}`, `${pair}/after.${file}`, { inputs: [input] });
    const { restored, after } = expected.outputs;
    const [output] = report.outputs;
    expect(report.outputs).toHaveLength(1);
    expect(output?.relativeL2).toBeCloseTo(expected.relativeL2.restoredToAfter, 5);
    expect(output?.top1?.changed).toBe(restored.filter((row, i) => argmax(row) !== argmax(after[i] ?? [])).length);
    for (const layer of report.layers) {
      const { inNetwork, sameInput } = expected.layers[layer.name] ?? { inNetwork: Number.NaN, sameInput: Number.NaN };
      expect.soft(layer.movement?.inNetwork, `${layer.name} in network`).toBeCloseTo(inNetwork, 4);
      expect.soft(layer.movement?.sameInput, `${layer.name} same input`).toBeCloseTo(sameInput, 4);
      const remaining = relativeL2(restored, expected.ablation[layer.name] ?? []);
      expect.soft(layer.contribution?.outputs[0]?.relativeL2, `${layer.name} alone`).toBeCloseTo(remaining, 5);
    }
    expect(report.layers.map(({ name }) => name).sort()).toEqual(Object.keys(expected.layers).sort());
  });
});
