import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { isAdapted, type JudgedTensors, planLearnedComparisons } from '../../src/compare/compare-learned.js';
import type { PrefixEdit } from '../../src/compare/pair-layers.js';
import { type ByteSource, memorySource, type OnProgress, runInFileOrder } from '../../src/io/byte-source.js';
import { stridedSource } from '../../src/io/views.js';
import { f32 } from '../build/bytes.js';
import { tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';
import { learnedOf } from '../build/layers.js';
import { countingSource } from '../build/sources.js';

const byName = (...tensors: readonly Tensor[]) => new Map(tensors.map((tensor) => [tensor.name, tensor]));
const IDENTITY: PrefixEdit = { from: '', to: '' };

async function compare(
  before: ReadonlyMap<string, Tensor>,
  after: ReadonlyMap<string, Tensor>,
  edits: readonly PrefixEdit[] = [IDENTITY],
  { onProgress, ...judged }: { onProgress?: OnProgress } & Partial<JudgedTensors> = {},
) {
  const folded = {
    learned: [],
    judgedBefore: new Set<string>(),
    judgedAfter: new Set<string>(),
    edits,
    ...judged,
  };
  const { works, conclude } = planLearnedComparisons(before, after, { folded, onProgress });
  await runInFileOrder(works);
  return conclude();
}

test('every tensor of both sides is compared, in the order of before', async () => {
  const before = byName(tensorOf('z', [1]), tensorOf('a', [1, 2]), tensorOf('q', [1], { dtype: 'F4' }));
  const after = byName(tensorOf('a', [1, 3]), tensorOf('z', [1]), tensorOf('q', [1]));
  expect((await compare(before, after)).compared).toEqual([
    { name: 'z', beforeName: 'z', afterName: 'z', elementCount: 1, equality: 'exact' },
    { name: 'a', beforeName: 'a', afterName: 'a', elementCount: 2, equality: 'changed' },
    { name: 'q', beforeName: 'q', afterName: 'q', elementCount: 1, equality: 'incomparable' },
  ]);
});

test('tensors of one side alone are listed', async () => {
  const { compared, onlyBefore, onlyAfter } = await compare(
    byName(tensorOf('both', [1]), tensorOf('old', [1])),
    byName(tensorOf('new', [1]), tensorOf('both', [1])),
  );
  expect([compared.length, onlyBefore, onlyAfter]).toEqual([1, ['old'], ['new']]);
});

test('edits that pair the layers pair the tensors', async () => {
  const { byBefore, byAfter } = await compare(
    byName(tensorOf('conv.weight', [1])),
    byName(tensorOf('m.conv.weight', [2])),
    [{ from: '', to: 'm' }, IDENTITY],
  );
  const comparison = {
    name: 'm.conv.weight',
    beforeName: 'conv.weight',
    afterName: 'm.conv.weight',
    elementCount: 1,
    equality: 'changed',
  };
  expect(byBefore.get('conv.weight')).toEqual(comparison);
  expect(byAfter.get('m.conv.weight')).toEqual(comparison);
});

test('no tensor of after is compared twice', async () => {
  const { compared, onlyBefore } = await compare(
    byName(tensorOf('m.w', [1]), tensorOf('w', [1])),
    byName(tensorOf('w', [1])),
    [{ from: 'm', to: '' }, IDENTITY],
  );
  expect([compared.map(({ beforeName }) => beforeName), onlyBefore]).toEqual([['m.w'], ['w']]);
});

test('the file of before is read from front to back', async () => {
  const positions: number[] = [];
  const inner = memorySource('file', f32(1, 2, 3, 4));
  const source: ByteSource = {
    ...inner,
    async readInto(target, position) {
      positions.push(position);
      await inner.readInto(target, position);
    },
  };
  const at = (name: string, offset: number): Tensor => ({
    ...tensorOf(name, [0]),
    range: { source, offset, byteLength: 4 },
  });
  await compare(
    byName(at('c', 12), at('a', 0), at('b', 8)),
    byName(tensorOf('a', [1]), tensorOf('b', [3]), tensorOf('c', [4])),
  );
  expect(positions).toEqual([0, 8, 12]);
});

test('nothing is concluded before all is done', () => {
  const folded = {
    learned: [],
    judgedBefore: new Set<string>(),
    judgedAfter: new Set<string>(),
    edits: [IDENTITY],
  };
  const { conclude } = planLearnedComparisons(byName(tensorOf('a', [1])), byName(tensorOf('a', [1])), {
    folded,
  });
  expect(conclude).toThrow('a is still to be compared');
});

test('progress counts the bytes of before and ends at all of them', async () => {
  const seen: { done: number; total: number }[] = [];
  const tensors = byName(tensorOf('a', [1, 2]), tensorOf('b', [1]), tensorOf('c', [1]));
  const other = byName(tensorOf('a', [1, 2]), tensorOf('b', [9]));
  await compare(tensors, other, [IDENTITY], { onProgress: (progress) => seen.push({ ...progress }) });
  expect(seen).toEqual([
    { done: 8, total: 12 },
    { done: 12, total: 12 },
  ]);
});

test('what folding has judged already is taken over, and not compared again', async () => {
  const [weightBefore, weightAfter] = [tensorOf('conv.weight', [1]), tensorOf('conv.weight', [2])];
  const { compared, byBefore, onlyBefore, onlyAfter } = await compare(
    byName(weightBefore, tensorOf('fc', [1])),
    byName(weightAfter, tensorOf('fc', [1])),
    [IDENTITY],
    {
      learned: [learnedOf('conv.weight', 'exact')],
      judgedBefore: new Set(['conv.weight']),
      judgedAfter: new Set(['conv.weight']),
    },
  );
  expect(compared.map(({ name, equality }) => [name, equality])).toEqual([
    ['fc', 'exact'],
    ['conv.weight', 'exact'],
  ]);
  expect([byBefore.get('conv.weight')?.equality, onlyBefore, onlyAfter]).toEqual(['exact', [], []]);
});

describe('a layer with an adapter that is new in after', () => {
  const before = byName(tensorOf('conv.weight', [1]));
  const isConvAdapted = async (after: readonly Tensor[]) => {
    const learned = await compare(before, new Map(after.map((tensor) => [dotted(tensor.name), tensor])));
    const conv = learned.byBefore.get('conv.weight');
    return conv !== undefined && isAdapted(conv, learned);
  };
  const dotted = (name: string) => name.replace('base_layer.', '');
  const adapter = tensorOf('conv.lora_A.default.weight', [1]);

  test('is told by the attribute that PEFT puts around it', async () => {
    expect(await isConvAdapted([tensorOf('conv.base_layer.weight', [1]), adapter])).toBe(true);
  });

  test('is none without that attribute, or without new tensors below', async () => {
    expect(await isConvAdapted([tensorOf('conv.weight', [1]), adapter])).toBe(false);
    expect(await isConvAdapted([tensorOf('conv.base_layer.weight', [1])])).toBe(false);
  });
});

describe('tensors that claim more than is stored', () => {
  /** A view of numbers in memory that counts what is read of them. */
  function viewOf(
    name: string,
    values: readonly number[],
    shape: readonly number[],
    strides: readonly number[],
  ) {
    const below = countingSource(name, f32(...values));
    const range = { source: below, offset: 0, byteLength: below.byteLength };
    const source = stridedSource(range, { shape, strides, firstElement: 0, elementByteLength: 4 });
    const elementCount = shape.reduce((product, size) => product * size, 1);
    const whole = { source, offset: 0, byteLength: source.byteLength };
    return { below, tensor: { ...tensorOf(name, [0]), shape, elementCount, range: whole } };
  }

  test('expanded ones are compared by what they store, whatever they claim', async () => {
    const [one, same, other] = [
      [1, 2],
      [1, 2],
      [1, 3],
    ].map((values) => viewOf('w', values, [2 ** 20, 2, 2 ** 20], [0, 1, 0]));
    const facts = { name: 'w', beforeName: 'w', afterName: 'w', elementCount: 2 ** 41 };
    const pair = (after = same) => compare(byName(one?.tensor as Tensor), byName(after?.tensor as Tensor));
    expect((await pair()).compared).toEqual([{ ...facts, equality: 'exact' }]);
    expect((await pair(other)).compared).toEqual([{ ...facts, equality: 'changed' }]);
    expect(one?.below.bytesRead).toBe(16);
  });

  test('transposed ones are read once, in the order of the file', async () => {
    const values = Array.from({ length: 60_000 }, (_, i) => i % 977);
    const [before, after] = [
      viewOf('w', values, [200, 300], [1, 200]),
      viewOf('w', values, [200, 300], [1, 200]),
    ];
    const { compared } = await compare(byName(before.tensor), byName(after.tensor));
    expect(compared).toMatchObject([{ equality: 'exact', elementCount: 60_000 }]);
    expect([before.below.bytesRead, after.below.bytesRead]).toEqual([240_000, 240_000]);
  });

  test('those of two layouts are compared as they read, and refused where that is too much', async () => {
    const columns = viewOf('w', [1, 3, 2, 4], [2, 2], [1, 2]).tensor;
    const rows = tensorOf('w', [1, 2, 3, 4], { shape: [2, 2] });
    expect((await compare(byName(columns), byName(rows))).compared).toMatchObject([{ equality: 'exact' }]);
    const huge = (strides: readonly number[]) =>
      viewOf('w', Array(4096).fill(1), [4096, 4096], strides).tensor;
    const failure = await failureOf(() => compare(byName(huge([0, 1])), byName(huge([1, 0]))));
    expect(failure).toMatchObject({ code: 'limit-exceeded', file: 'w' });
  });

  test('tied ones are read once for all of their names', async () => {
    const below = countingSource('m', f32(...Array(3000).fill(1)));
    const tied = (range = { source: below as ByteSource, offset: 0, byteLength: below.byteLength }) =>
      byName(...Array.from({ length: 50 }, (_, i) => ({ ...tensorOf(`w${i}`, Array(3000).fill(1)), range })));
    const { compared } = await compare(tied(), tied(tensorOf('w', Array(3000).fill(1)).range));
    expect(compared).toHaveLength(50);
    expect(compared.every(({ equality }) => equality === 'exact')).toBe(true);
    expect(below.bytesRead).toBe(12_000);
  });
});
