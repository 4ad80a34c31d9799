import { describe, expect, test } from 'vitest';
import { looksLikeDarknet, looksLikeFlax } from '../../src/formats/sniff.js';
import { bytesOf } from '../build/bytes.js';

describe('the first bytes of', () => {
  test.each([
    ['a small map', bytesOf(0x82, 0xa6, 'params'), true],
    ['a map of 16 bits', bytesOf(0xde, 0, 20, 0xa6, 'params'), true],
    ['a map of 32 bits with a long key', bytesOf(0xdf, 0, 0, 0, 1, 0xd9, 40, 'k'.repeat(40)), true],
    ['a key of 16 bits', bytesOf(0x81, 0xda, 1, 0, 'k'.repeat(256)), true],
    ['an empty map', bytesOf(0x80), false],
    ['a pickle', bytesOf(0x80, 0x04, 0x95), false],
    ['a map by numbers', bytesOf(0x81, 1, 1), false],
    ['a key that is no text', bytesOf(0x81, 0xa2, 0xff, 0xfe), false],
    ['a list', bytesOf(0x91, 0xa1, 'a'), false],
    ['nothing', new Uint8Array(), false],
  ])('%s are of Flax or not', (_, head, isFlax) => {
    expect(looksLikeFlax(head)).toBe(isFlax);
  });
});

describe('the header of', () => {
  const numbers = (...values: readonly number[]) => new Uint8Array(Uint32Array.from(values).buffer);
  test.each([
    ['version 0.2.5', numbers(0, 2, 5, 1, 0), true],
    ['version 0.1.0', numbers(0, 1, 0, 0, 0), true],
    ['zeros', numbers(0, 0, 0, 0, 0), false],
    ['other numbers', numbers(1, 2, 5, 0, 0), false],
    ['another version', numbers(0, 2, 50, 0, 0), false],
    ['a file that is too short', numbers(0, 2, 5, 1), false],
  ])('%s are of Darknet or not', (_, head, isDarknet) => {
    expect(looksLikeDarknet(head)).toBe(isDarknet);
  });
});
