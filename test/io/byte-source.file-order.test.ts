import { expect, test } from 'vitest';
import { type ByteSource, type FileWork, memorySource, runInFileOrder } from '../../src/io/byte-source.js';

const one = memorySource('one', new Uint8Array(100));
const other = memorySource('other', new Uint8Array(100));

/** Works that note their names when they are done, from `source@offset`; `-` reads nothing. */
function makeWorks(names: readonly string[]) {
  const done: string[] = [];
  const works = names.map((name): FileWork => {
    const [file, offset] = name.split('@');
    const source: ByteSource = file === 'one' ? one : other;
    return {
      range: name === '-' ? null : { source, offset: Number(offset), byteLength: 1 },
      run: async () => {
        await Promise.resolve();
        done.push(name);
      },
    };
  });
  return { works, done };
}

test('each file is worked through from front to back, in the order in which files are named', async () => {
  const { works, done } = makeWorks(['other@9', 'one@5', 'other@2', '-', 'one@50', 'other@30', 'one@0']);
  await runInFileOrder(works);
  expect(done).toEqual(['-', 'other@2', 'other@9', 'other@30', 'one@0', 'one@5', 'one@50']);
});

test('works at one place keep their order, and nothing is done at once', async () => {
  const order: string[] = [];
  const work = (name: string): FileWork => ({
    range: { source: one, offset: 4, byteLength: 1 },
    run: async () => {
      order.push(`${name} begins`);
      await new Promise(setImmediate);
      order.push(`${name} ends`);
    },
  });
  await runInFileOrder([work('a'), work('b')]);
  expect(order).toEqual(['a begins', 'a ends', 'b begins', 'b ends']);
});

test('what a work throws is thrown, and those behind it are not done', async () => {
  const { works, done } = makeWorks(['one@1', 'one@3']);
  const failing: FileWork = {
    range: { source: one, offset: 2, byteLength: 1 },
    run: () => Promise.reject(new Error('cannot be read')),
  };
  await expect(runInFileOrder([...works, failing])).rejects.toThrow('cannot be read');
  expect(done).toEqual(['one@1']);
});
