import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isMemoryUnlimited } from '../../src/io/memory-limits.js';
import { makeTempDirectory } from '../build/sources.js';

const directory = makeTempDirectory();

/** The limits of a process as proc(5) has them, with these soft ones. */
function write({ addressSpace = 'unlimited', dataSize = 'unlimited' } = {}): string {
  const path = join(directory, `limits-${addressSpace}-${dataSize}`);
  const line = (name: string, soft: string, unit: string) =>
    `${name.padEnd(26)}${soft.padEnd(21)}${'unlimited'.padEnd(21)}${unit.padEnd(10)}\n`;
  const lines = [
    line('Limit', 'Soft Limit', 'Units'),
    line('Max cpu time', 'unlimited', 'seconds'),
    line('Max data size', dataSize, 'bytes'),
    line('Max stack size', '8388608', 'bytes'),
    line('Max address space', addressSpace, 'bytes'),
    line('Max realtime timeout', 'unlimited', 'us'),
  ];
  writeFileSync(path, lines.join(''));
  return path;
}

test('memory is unlimited where the limits of the process say so, whatever else is limited', () => {
  expect(isMemoryUnlimited('linux', write())).toBe(true);
});

test.each([{ addressSpace: '2560000000' }, { dataSize: '65000000' }])('memory is limited by %o', (limits) => {
  expect(isMemoryUnlimited('linux', write(limits))).toBe(false);
});

test('memory counts as limited where the limits cannot be read', () => {
  expect(isMemoryUnlimited('linux', join(directory, 'gone'))).toBe(false);
  expect(isMemoryUnlimited('freebsd', join(directory, 'gone'))).toBe(false);
});

test.each(['darwin', 'win32'] as const)('memory is unlimited on %s', (system) => {
  expect(isMemoryUnlimited(system, join(directory, 'gone'))).toBe(true);
});
