import { describe, expect, test } from 'vitest';
import { takesDirectWrites, writeAll } from '../../src/cli/terminal.js';

describe('takesDirectWrites', () => {
  const kinds = ['isFile', 'isFIFO', 'isSocket'] as const;
  const statOf = (kind: string) =>
    Object.fromEntries(kinds.map((each) => [each, () => each === kind])) as Record<
      (typeof kinds)[number],
      () => boolean
    >;

  test.each<readonly [kind: string, onLinux: boolean, onWindows: boolean]>([
    ['isFile', true, true],
    ['isFIFO', true, false],
    ['isSocket', true, false],
    ['isCharacterDevice', false, false],
  ])('%s: %j on Linux, %j on Windows', (kind, onLinux, onWindows) => {
    expect(takesDirectWrites(statOf(kind), 'linux')).toBe(onLinux);
    expect(takesDirectWrites(statOf(kind), 'win32')).toBe(onWindows);
  });

  test('not a descriptor that is closed', () => {
    expect(takesDirectWrites(null, 'linux')).toBe(false);
  });
});

describe('writeAll', () => {
  const bytes = Uint8Array.from({ length: 10 }, (_, i) => i);

  /** Takes so many bytes at a time, and fails when asked for more than there are entries. */
  const writer = (taken: readonly (number | string)[]) => {
    const written: number[] = [];
    const left = [...taken];
    const write = (rest: Uint8Array) => {
      const next = left.shift();
      if (typeof next !== 'number') throw Object.assign(new Error('no'), { code: next });
      written.push(...rest.subarray(0, next));
      return next;
    };
    return { written, write };
  };

  test('writes piece by piece', () => {
    const { written, write } = writer([3, 6, 1]);
    expect(writeAll(bytes, write)).toBeNull();
    expect(written).toEqual([...bytes]);
  });

  test('gives back what would have to wait', () => {
    const { written, write } = writer([4, 'EAGAIN']);
    expect(writeAll(bytes, write)).toEqual(bytes.subarray(4));
    expect(written).toEqual([0, 1, 2, 3]);
  });

  test('passes other errors on', () => {
    expect(() => writeAll(bytes, writer([4, 'EPIPE']).write)).toThrow(
      expect.objectContaining({ code: 'EPIPE' }),
    );
  });
});
