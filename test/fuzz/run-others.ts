import { join } from 'node:path';
import { audit, auditCheckpoints } from '../../src/audit.js';
import { looksLikeNpz, readNpy, readNpz } from '../../src/formats/numpy/npy.js';
import { openSource } from '../../src/formats/open.js';
import { memorySource, readRange } from '../../src/io/byte-source.js';
import { openFileSource } from '../../src/io/file-source.js';
import { openZip } from '../../src/io/zip.js';
import { readPolicyFile } from '../../src/policy.js';
import { render } from '../../src/report/render.js';
import { f32 } from '../build/bytes.js';
import { safetensorsBytes } from '../build/safetensors.js';
import { checkReport, expectResultOrRefusal } from './oracle.js';

/** Reads a policy and audits a pair of fixtures by its rules. */
export async function runPolicy(path: string, fixtures: string): Promise<void> {
  const policy = await expectResultOrRefusal('read', () => readPolicyFile(path));
  if (policy === null) return;
  const [before, after] = ['locked/before', 'one-layer-leak/after'].map((name) =>
    join(fixtures, 'pairs', `${name}.safetensors`),
  );
  for (const rules of [policy, ...policy.pairs.values()].slice(0, 3)) {
    const { frozen, allow, minShift, epsilon, exact, map } = rules;
    await expectResultOrRefusal('audit', async () => {
      const report = await audit(before ?? '', after ?? '', { frozen, allow, minShift, epsilon, exact, map });
      checkReport('render', render(report));
    });
  }
}

/** Reads every array of an .npy or .npz file. */
export async function runNpy(path: string): Promise<void> {
  await expectResultOrRefusal('read', async () => {
    const source = openFileSource(path);
    try {
      const range = { source, offset: 0, byteLength: source.byteLength };
      const head = await readRange({ ...range, byteLength: Math.min(6, source.byteLength) });
      const arrays = looksLikeNpz(head)
        ? readNpz(await openZip(source))
        : new Map([['x', () => readNpy(range, 'x')]]);
      for (const read of arrays.values()) await readRange((await read()).range);
    } finally {
      await source.close();
    }
  });
}

/** Audits a checkpoint whose layers have the names of a file, with its globs as every option that takes some. */
export async function runGlobs(bytes: Uint8Array): Promise<void> {
  let texts: { readonly globs?: unknown; readonly names?: unknown };
  try {
    texts = JSON.parse(Buffer.from(bytes).toString());
  } catch {
    return;
  }
  const [globs, names] = [listTexts(texts?.globs), listTexts(texts?.names)];
  const [before, after] = [0, 1].map((shift) => makeCheckpoint(names, shift));
  await expectResultOrRefusal('globs', async () => {
    const [one, other] = await Promise.all([open('before', before), open('after', after)]);
    const [from = '', to = ''] = globs;
    for (const options of [{ allow: globs }, { frozen: globs }, { map: [{ from, to }] }])
      await expectResultOrRefusal('audit', async () => {
        checkReport('render', render(await auditCheckpoints(one, other, options)));
      });
  });
}

function open(name: string, bytes: Uint8Array = new Uint8Array(0)) {
  return openSource(memorySource(name, bytes), name);
}

function listTexts(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : [];
}

function makeCheckpoint(names: readonly string[], shift: number): Uint8Array {
  const vector = (value: number) => ({ dtype: 'F32', shape: [2], data: f32(value, value + 1) });
  const tensors = names.flatMap((name) => [
    [`${name}.running_mean`, vector(shift)],
    [`${name}.running_var`, vector(1)],
    [`${name}.weight`, vector(1)],
  ]);
  return safetensorsBytes(Object.fromEntries(tensors));
}
