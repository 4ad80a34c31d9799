import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isAddressSpaceUnlimited } from '../../src/io/address-space.js';
import { makeTempDirectory } from '../build/sources.js';

const LIMITS = `Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max address space         SOFT            unlimited            bytes     
Max realtime timeout      unlimited            unlimited            us        
`;

const directory = makeTempDirectory();
const write = (soft: string) => {
  const path = join(directory, `limits-${soft}`);
  writeFileSync(path, LIMITS.replace('SOFT', soft.padEnd(9)));
  return path;
};

test('address space is unlimited where the limits of the process say so', () => {
  expect(isAddressSpaceUnlimited('linux', write('unlimited'))).toBe(true);
});

test('address space is limited where they name a number, whatever else is unlimited', () => {
  expect(isAddressSpaceUnlimited('linux', write('2560000000'))).toBe(false);
});

test('address space counts as limited where the limits cannot be read', () => {
  expect(isAddressSpaceUnlimited('linux', join(directory, 'gone'))).toBe(false);
  expect(isAddressSpaceUnlimited('freebsd', join(directory, 'gone'))).toBe(false);
});

test.each(['darwin', 'win32'] as const)('address space is unlimited on %s', (system) => {
  expect(isAddressSpaceUnlimited(system, join(directory, 'gone'))).toBe(true);
});
