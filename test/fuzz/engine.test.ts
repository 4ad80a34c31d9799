import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makeTempDirectory } from '../build/sources.js';
import { type Coverage, CoverageMap, type RanFunction } from './coverage.js';
import { execute, type FoundFault, ReaderFuzzer } from './engine.js';
import { type Input, readInput, writeInput } from './input.js';
import { minimise } from './minimise.js';
import { mutateBytes } from './mutate-bytes.js';
import { expectResultOrRefusal, Fault } from './oracle.js';
import { Random } from './random.js';
import type { Reader } from './readers.js';

const inputOf = (bytes: readonly number[]): Input => ({
  main: 'x.bin',
  files: new Map([['x.bin', Uint8Array.from(bytes)]]),
  reference: '',
  draw: 0,
});

/** A reader that cannot stand one byte, once it is within brackets. */
const BRITTLE: Reader = {
  name: 'brittle',
  sources: /x/,
  listSeeds: () => [inputOf([...Buffer.from('((((((((0123456789))))))))')])],
  chooseMutator: () => mutateBytes,
  run: async (_, { files }) => {
    const bytes = files.get('x.bin') ?? new Uint8Array(0);
    await expectResultOrRefusal('read', () => {
      if (bytes[0] === 0x28 && bytes.includes(0xff)) throw new TypeError('cannot read a byte');
    });
  },
};

/** Knows of no code: every run looks like the one before. */
const BLIND: Coverage = {
  take: () => [],
  measure: () => ({ functions: 0, allFunctions: 0, code: 0 }),
};

async function fuzz(seed: number, batches: number): Promise<{ faults: FoundFault[]; executions: number }> {
  const directory = join(makeTempDirectory(), 'input');
  const faults: FoundFault[] = [];
  const fuzzer = new ReaderFuzzer(
    BRITTLE,
    { fixtures: '', directory, coverage: BLIND },
    {
      random: new Random(seed),
      listener: { onFault: (fault) => faults.push(fault), onKept: () => {}, onExecuted: () => {} },
    },
  );
  await fuzzer.start([]);
  for (let batch = 0; batch < batches; batch++) await fuzzer.runBatch();
  return { faults, executions: fuzzer.tally().executions };
}

test('an error that is no refusal is found, once, with the smallest input that shows it', async () => {
  const { faults } = await fuzz(1, 20);
  expect(faults.map(({ reader, message }) => [reader, message])).toEqual([
    ['brittle', 'read: TypeError: cannot read a byte'],
  ]);
  expect([...(faults[0]?.input.files.get('x.bin') ?? [])]).toEqual([0x28, 0xff]);
});

test('the same seed finds the same after as many executions', async () => {
  const [one, other] = [await fuzz(5, 10), await fuzz(5, 10)];
  expect(one).toEqual(other);
});

test.each([
  { slowRuns: 1, found: null },
  { slowRuns: Number.POSITIVE_INFINITY, found: 'slow' },
])('of an input that was slow in $slowRuns runs is said: $found', async ({ slowRuns, found }) => {
  let runs = 0;
  const run = async () => {
    if (++runs <= slowRuns) throw new Fault('took 9 s of the processor', 'slow');
  };
  const workplace = { fixtures: '', directory: join(makeTempDirectory(), 'input') };
  const fault = await execute({ ...BRITTLE, run }, inputOf([1]), workplace);
  expect(fault?.key ?? null).toBe(found);
});

test('a smaller input keeps what matters, and the rest becomes zeros', async () => {
  const needsLength = async ({ files }: Input) => (files.get('x.bin')?.length ?? 0) >= 3;
  const { files } = await minimise(inputOf([9, 8, 7, 6, 5]), needsLength, () => true);
  expect([...(files.get('x.bin') ?? [])]).toEqual([0, 0, 0]);
});

test('nothing is made smaller once the time is over', async () => {
  const input = inputOf([1, 2, 3]);
  expect(
    await minimise(
      input,
      async () => true,
      () => false,
    ),
  ).toEqual(input);
});

test('an input that was written is read back with all its files', () => {
  const directory = join(makeTempDirectory(), 'input');
  mkdirSync(directory);
  const input = {
    ...inputOf([1]),
    files: new Map([
      ['a', Uint8Array.of(1)],
      ['x.bin', Uint8Array.of(2)],
    ]),
    draw: 4,
  };
  writeInput(directory, 'npy', inputOf([3]));
  writeInput(directory, 'onnx', input);
  expect(readInput(directory)).toEqual({ reader: 'onnx', input });
});

test('what ran is news where a function or a part of one never ran before', () => {
  const ran = (...idle: readonly (readonly [number, number])[]): readonly RanFunction[] => [
    { start: 0, end: 100, idle: idle.map(([start, end]) => ({ start, end })) },
  ];
  const map = new CoverageMap();
  expect(map.hasNews(ran([10, 20]))).toBe(true);
  map.add(ran([10, 20], [50, 90]));
  expect(map.hasNews(ran([10, 20], [50, 90]))).toBe(false);
  expect(map.hasNews(ran([10, 30], [50, 95]))).toBe(false);
  map.add(ran([10, 15], [50, 90]));
  expect(map.countIdle({ start: 0, end: 100 })).toBe(45);
  expect(map.countIdle({ start: 200, end: 210 })).toBe(10);
});
