import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import type { ScaleComparison } from '../../src/compare/channel-scales.js';
import { compareAllScales, type WeightPair } from '../../src/compare/compare-all-scales.js';
import type { ByteRange } from '../../src/io/byte-source.js';
import { type FileSource, openFileSource } from '../../src/io/file-source.js';
import { tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';
import { toHashed } from '../build/hashed-tensor.js';
import { makeTempDirectory } from '../build/sources.js';
import { watchThreads } from '../build/threads.js';

const CONV = { outputAxis: 0, groups: 1 };
const CHANNELS = 3;
const WIDTH = 2048;

/** Every pair is a multiple of its own. */
const factorOf = (index: number) => index + 2;

const open: FileSource[] = [];

const threads = watchThreads();

afterEach(async () => {
  await Promise.all(open.splice(0).map((source) => source.close()));
});

/** Two files of so many weights each, and the pairs that stand in them. */
function makeFiles(count: number) {
  const directory = makeTempDirectory();
  const weights = Array.from({ length: count }, (_, index) =>
    Array.from({ length: CHANNELS * WIDTH }, (_, i) => Math.fround(Math.sin(1 + i + 31 * index))),
  );
  const write = (name: string, values: readonly number[]) => {
    const path = join(directory, name);
    writeFileSync(path, Float32Array.from(values));
    const source = openFileSource(path);
    open.push(source);
    return { path, source };
  };
  const before = write('before', weights.flat());
  const after = write(
    'after',
    weights.flatMap((values, index) => values.map((value) => value * factorOf(index))),
  );
  const tensorAt = (source: FileSource, index: number): Tensor => {
    const byteLength = 4 * CHANNELS * WIDTH;
    const range: ByteRange = { source, offset: index * byteLength, byteLength };
    return { ...tensorOf('weight', []), shape: [CHANNELS, WIDTH], elementCount: CHANNELS * WIDTH, range };
  };
  const pairs = weights.map((_, index) => ({
    before: tensorAt(before.source, index),
    after: tensorAt(after.source, index),
    layout: CONV,
  }));
  return { before, after, pairs };
}

async function collect(
  pairs: readonly WeightPair[],
  threadBytes?: number,
): Promise<readonly ScaleComparison[]> {
  const found: ScaleComparison[] = [];
  for await (const [pair, compared] of compareAllScales(pairs, { threadBytes })) {
    expect(pair).toBe(pairs[found.length]);
    found.push(compared);
  }
  return found;
}

const ALONE = Number.POSITIVE_INFINITY;
const TOGETHER = 0;

/** Asks for the first two pairs, with the second of which a second thread is told of the others. */
async function startTogether(pairs: readonly WeightPair[]) {
  const all = compareAllScales(pairs, { threadBytes: TOGETHER });
  await all.next();
  await all.next();
  expect(threads.taskCount).toBe(1);
  return all;
}

/** How often an action has a second thread help. */
async function countTasks(action: () => Promise<unknown>): Promise<number> {
  const before = threads.taskCount;
  await action();
  return threads.taskCount - before;
}

const scaleOf = (compared: ScaleComparison) =>
  compared.kind === 'proportional' ? Math.round(compared.scales[0] ?? Number.NaN) : compared.kind;

describe('weights that are compared by two threads', () => {
  test('give what they give alone, in their order', async () => {
    const { pairs } = makeFiles(12);
    const alone = await collect(pairs, ALONE);
    expect(alone.map(scaleOf)).toEqual(pairs.map((_, index) => factorOf(index)));
    expect(await collect(pairs, TOGETHER)).toEqual(alone);
  });

  test('are taken up from the last one on while the first thread is busy', async () => {
    const { before, after, pairs } = makeFiles(6);
    const all = await startTogether(pairs);
    // With this thread at rest, all the others are the second one's.
    await threads.untilAnswered(4);
    const read = [before.source.bytesRead, after.source.bytesRead];
    const rest: ScaleComparison[] = [];
    for await (const [, compared] of all) rest.push(compared);
    expect(rest.map(scaleOf)).toEqual([4, 5, 6, 7]);
    expect([before.source.bytesRead, after.source.bytesRead]).toEqual(read);
  });

  test('include those that one thread alone can read', async () => {
    const { pairs } = makeFiles(4);
    const [first, second] = pairs;
    if (first === undefined || second === undefined) throw new Error('expected pairs');
    const [values, zeros] = [
      [1, -2, 3, 4],
      [0, 0, 0, 0],
    ];
    const small = { shape: [2, 2] };
    const hashed = await toHashed(second.before, CONV);
    const mixed: readonly WeightPair[] = [
      first,
      { before: tensorOf('a', values, small), after: tensorOf('b', values, small), layout: CONV },
      { before: first.before, after: second.after, layout: CONV },
      { before: hashed, after: second.after, layout: CONV },
      // Values that are there all the same are not what a baseline goes by.
      { before: { ...hashed, range: first.before.range }, after: second.after, layout: CONV },
      { before: tensorOf('a', values, small), after: tensorOf('b', zeros, { shape: [4] }), layout: CONV },
      ...pairs,
    ];
    const alone = await collect(mixed, ALONE);
    expect(alone.slice(0, 6).map(scaleOf)).toEqual([2, 1, 'changed', 3, 3, 'incomparable']);
    expect(await collect(mixed, TOGETHER)).toEqual(alone);
  });

  test('fail as they do alone, and not before their turn', async () => {
    const { after, pairs } = makeFiles(5);
    truncateSync(after.path, 3 * 4 * CHANNELS * WIDTH + 1024);
    const fail = async (all: AsyncIterable<readonly [WeightPair, ScaleComparison]>) => {
      const found: ScaleComparison[] = [];
      const failure = await failureOf(async () => {
        for await (const [, compared] of all) found.push(compared);
      });
      return { failure, scales: found.map(scaleOf) };
    };
    const alone = await fail(compareAllScales(pairs, { threadBytes: ALONE }));
    expect(alone).toMatchObject({ failure: { code: 'truncated', file: after.path }, scales: [2, 3, 4] });
    const all = await startTogether(pairs);
    // It meets the end of the file with the last pair.
    await threads.untilAnswered(3);
    expect(await fail(all)).toEqual({ ...alone, scales: [4] });
  });

  test('are not read any more once no one asks', async () => {
    const { pairs } = makeFiles(6);
    const all = await startTogether(pairs);
    let hasExited = false;
    threads.last.once('exit', () => {
      hasExited = true;
    });
    await all.return();
    expect(hasExited).toBe(true);
  });
});

describe('a second thread', () => {
  test('helps from the first pair on that was not trained', async () => {
    const { pairs } = makeFiles(5);
    expect(await countTasks(() => collect([...mismatch(pairs), ...pairs], TOGETHER))).toBe(1);
  });

  test('does not help with weights that were trained: of them, little is read', async () => {
    const { pairs } = makeFiles(5);
    expect(await countTasks(() => collect(mismatch(pairs), TOGETHER))).toBe(0);
  });

  test('does not help with few weights', async () => {
    const { pairs } = makeFiles(5);
    const bytes = 2 * 5 * 4 * CHANNELS * WIDTH;
    expect(await countTasks(() => collect(pairs, bytes))).toBe(0);
    expect(await countTasks(() => collect(pairs))).toBe(0);
  });

  test('does not help with what it cannot read', async () => {
    const pair = {
      before: tensorOf('a', [1, -2, 3, 4], { shape: [2, 2] }),
      after: tensorOf('b', [1, -2, 3, 4], { shape: [2, 2] }),
      layout: CONV,
    };
    expect(await countTasks(() => collect([pair, pair, pair], TOGETHER))).toBe(0);
  });

  test('does not count what a baseline has left out', async () => {
    const { pairs } = makeFiles(4);
    const hashed: WeightPair[] = [];
    for (const pair of pairs) hashed.push({ ...pair, before: await toHashed(pair.before, CONV) });
    expect(await countTasks(() => collect([...pairs.slice(0, 2), ...hashed], 4 * 4 * CHANNELS * WIDTH))).toBe(
      0,
    );
  });

  test('helps the next comparison as well', async () => {
    const { pairs } = makeFiles(5);
    await collect(pairs, TOGETHER);
    const first = threads.last;
    await collect(pairs, TOGETHER);
    expect([threads.taskCount, threads.last === first]).toEqual([2, true]);
  });

  test('helps from so many bytes on as are left once a pair was found frozen', async () => {
    const { pairs } = makeFiles(5);
    const bytes = 2 * 4 * 4 * CHANNELS * WIDTH;
    expect(await countTasks(() => collect(pairs, bytes))).toBe(1);
    expect(await countTasks(() => collect(pairs, bytes + 1))).toBe(0);
  });
});

/** Pairs of weights that are no multiples of each other. */
function mismatch(pairs: readonly WeightPair[]): readonly WeightPair[] {
  return pairs
    .slice(1)
    .map(({ after, layout }, index) => ({ before: pairs[index]?.before ?? after, after, layout }));
}
