import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { openOnnx } from '../../../src/formats/onnx/onnx.js';
import { looksLikeOnnx } from '../../../src/formats/onnx/sniff.js';
import { readRange } from '../../../src/io/byte-source.js';
import { openFileSource } from '../../../src/io/file-source.js';

const PAIRS = 'fixtures/pairs';
const names = existsSync(PAIRS) ? readdirSync(PAIRS).sort() : [];
const files = names.flatMap((name) =>
  readdirSync(`${PAIRS}/${name}`)
    .filter((file) => file.endsWith('.onnx'))
    .map((file) => `${PAIRS}/${name}/${file}`),
);

/** Safetensors' JSON header is all that is needed here: the true names of the statistics. */
async function meansOf(path: string): Promise<string[]> {
  const source = openFileSource(path);
  const [length] = new BigUint64Array((await readRange({ source, offset: 0, byteLength: 8 })).buffer);
  const header = await readRange({ source, offset: 8, byteLength: Number(length) });
  await source.close();
  return Object.keys(JSON.parse(new TextDecoder().decode(header))).filter((name) =>
    name.endsWith('.running_mean'),
  );
}

describe.skipIf(files.length === 0)('models that PyTorch exported', () => {
  test.each(files)('%s opens, and every parameter is found', async (path) => {
    const source = openFileSource(path);
    expect(looksLikeOnnx(await readRange({ source, offset: 0, byteLength: 64 }))).toBe(true);
    const checkpoint = await openOnnx(source, { path });
    const { norms = [], linears = [] } = checkpoint.graph ?? {};
    for (const { mean, variance, gamma, beta } of norms) {
      expect([mean.kind, variance.kind, gamma.kind, beta.kind]).toEqual(Array(4).fill('constant'));
    }
    expect(
      linears.filter(({ weight, bias }) => weight.kind !== 'constant' || bias.kind === 'unresolved'),
    ).toEqual([]);
    await checkpoint.close();
  });

  const live = files.filter((path) => /before\.(dynamo-)?live\.onnx$/.test(path));
  test.each(live)('%s tells the module paths that the state dict has', async (path) => {
    const checkpoint = await openOnnx(openFileSource(path), { path });
    const { norms = [] } = checkpoint.graph ?? {};
    const expected = await meansOf(path.replace(/before\..*/, 'before.safetensors'));
    expect(norms.map(({ path: module }) => `${module}.running_mean`).sort()).toEqual(expected.sort());
    expect(norms.map(({ inputNames }) => inputNames[2]).sort()).toEqual(expected.sort());
    await checkpoint.close();
  });
});
