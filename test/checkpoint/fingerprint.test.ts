import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { encodeFloats } from '../../src/checkpoint/dtype.js';
import { TensorSummarizer } from '../../src/checkpoint/fingerprint.js';
import { memorySource } from '../../src/io/byte-source.js';
import { tensorOf, tensorOfBytes } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';
import { countingSource } from '../build/sources.js';

const summarizer = new TensorSummarizer();
const hash = async (tensor: Tensor) => (await summarizer.summarize(tensor, null)).sha256;
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

test('the hash is SHA-256 of the bytes, as sha256sum prints it', async () => {
  expect(await hash(tensorOf('t', [1, 2, 3]))).toBe(sha256(encodeFloats([1, 2, 3], 'F32')));
  expect(await hash(tensorOf('t', [], { shape: [0] }))).toBe(sha256(new Uint8Array()));
});

describe('negative zeros', () => {
  test.each(['F64', 'F32', 'F16', 'BF16', 'F8_E5M2', 'F8_E4M3'] as const)(
    'of %s hash as zeros',
    async (dtype) => {
      expect(await hash(tensorOf('t', [1, -0, -1, 0], { dtype }))).toBe(
        sha256(encodeFloats([1, 0, -1, 0], dtype)),
      );
    },
  );

  test('hash as zeros wherever they stand', async () => {
    for (let at = 0; at < 21; at++) {
      const values = Array.from({ length: 21 }, (_, i) => (i === at ? -0 : 1));
      const folded = values.map((value) => value + 0);
      for (const dtype of ['F32', 'F64', 'F16'] as const)
        expect(await hash(tensorOf('t', values, { dtype }))).toBe(sha256(encodeFloats(folded, dtype)));
    }
  });

  test('of either part of C64 hash as zeros', async () => {
    const bytes = encodeFloats([-0, 1, 2, -0], 'F32');
    expect(await hash(tensorOfBytes('t', bytes, { dtype: 'C64', shape: [2] }))).toBe(
      sha256(encodeFloats([0, 1, 2, 0], 'F32')),
    );
  });

  test('do not exist in types whose pattern means something else', async () => {
    for (const dtype of ['F8_E5M2FNUZ', 'F8_E4M3FNUZ', 'F8_E8M0', 'I8', 'U8', 'F4'] as const) {
      const bytes = Uint8Array.of(0x80, 0x00);
      const shape = [dtype === 'F4' ? 4 : 2];
      expect(await hash(tensorOfBytes('t', bytes, { dtype, shape })), dtype).toBe(sha256(bytes));
    }
    const low = Uint8Array.of(0, 0, 0, 0x80, 0, 0, 0, 0);
    expect(await hash(tensorOfBytes('t', low, { dtype: 'F64', shape: [1] }))).toBe(sha256(low));
  });

  test('are folded in the buffer, not in the source', async () => {
    const bytes = encodeFloats([-0], 'F32');
    await hash(tensorOfBytes('t', bytes, { dtype: 'F32', shape: [1] }));
    expect([...bytes]).toEqual([0, 0, 0, 0x80]);
  });
});

test('a tensor longer than the buffers is read once, from front to back', async () => {
  const bytes = new Uint8Array(Float32Array.from({ length: 300_000 }, (_, i) => Math.sin(i)).buffer);
  const source = countingSource('big', bytes);
  const tensor: Tensor = {
    name: 't',
    dtype: 'F32',
    shape: [3, 100_000],
    elementCount: 300_000,
    range: { source, offset: 0, byteLength: bytes.byteLength },
  };
  const { sha256: found, projections } = await summarizer.summarize(tensor, { outputAxis: 0, groups: 1 });
  expect(found).toBe(sha256(bytes));
  expect(source.bytesRead).toBe(bytes.byteLength);
  expect(projections).toEqual(await summarizer.project(tensor, { outputAxis: 0, groups: 1 }));
  const single = await summarizer.project(
    {
      ...tensor,
      shape: [1, 100_000],
      elementCount: 100_000,
      range: { source, offset: 400_000, byteLength: 400_000 },
    },
    { outputAxis: 0, groups: 1 },
  );
  expect(projections?.norms[1]).toBe(single?.norms[0]);
  expect([...(projections?.sums.slice(3, 6) ?? [])]).toEqual([...(single?.sums ?? [])]);
});

test('halves and doubles are projected by their values', async () => {
  const layout = { outputAxis: 0, groups: 1 };
  const expected = await summarizer.project(tensorOf('t', [1, 0.5, -2, 4], { shape: [2, 2] }), layout);
  for (const dtype of ['F64', 'F16', 'BF16'] as const)
    expect(
      await summarizer.project(tensorOf('t', [1, 0.5, -2, 4], { dtype, shape: [2, 2] }), layout),
    ).toEqual(expected);
});

test('types without readable floats are hashed and not projected', async () => {
  const tensor = tensorOf('t', [1, 2], { dtype: 'I32' });
  expect((await summarizer.summarize(tensor, { outputAxis: 0, groups: 1 })).projections).toBeNull();
});

test('a source that ends early is an error', async () => {
  const range = { source: memorySource('short', new Uint8Array(600_000)), offset: 0, byteLength: 800_000 };
  const tensor: Tensor = { name: 't', dtype: 'F32', shape: [200_000], elementCount: 200_000, range };
  expect(await failureOf(() => hash(tensor))).toMatchObject({ code: 'truncated', file: 'short' });
});
