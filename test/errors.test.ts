import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CheckpointError, escapeControls, quote, quoteUnlessPlain, toShellWord } from '../src/errors.js';

describe('escapeControls', () => {
  test.each([
    ['a line end', 'a\nb', 'a\\nb'],
    ['a carriage return', 'a\rb', 'a\\rb'],
    ['a tab', 'a\tb', 'a\\tb'],
    ['an escape sequence', '\u001b[31mred', '\\x1b[31mred'],
    ['a C1 control, which some terminals obey', '\u009b31m', '\\x9b31m'],
    ['DEL', '\u007f', '\\x7f'],
    ['a right-to-left override', 'a\u202eb', 'a\\u{202e}b'],
    ['a zero-width joiner', 'a\u200db', 'a\\u{200d}b'],
    ['a line separator', '\u2028', '\\u{2028}'],
    ['a format character beyond the first plane', '\u{e0001}', '\\u{e0001}'],
    ['half of a surrogate pair', '\ud800', '\\u{d800}'],
  ])('escapes %s', (_, text, escaped) => {
    expect(escapeControls(text)).toBe(escaped);
  });

  test('leaves letters of every script and emoji alone', () => {
    expect(escapeControls('größe 層 слой 😀')).toBe('größe 層 слой 😀');
  });

  test('leaves nothing that breaks a line or steers a terminal, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(escapeControls(text)).not.toMatch(
          /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/,
        );
      }),
    );
  });
});

describe('quote', () => {
  test('puts a name in double quotes', () => {
    expect(quote('layer1.0.bn1')).toBe('"layer1.0.bn1"');
  });

  test('escapes quotes and backslashes, so that the end of the name is plain', () => {
    expect(quote('a"b\\c')).toBe('"a\\"b\\\\c"');
  });

  test('keeps a name of 160 characters whole', () => {
    expect(quote('x'.repeat(160))).toBe(`"${'x'.repeat(160)}"`);
  });

  test('keeps 80 characters of both ends of a longer one', () => {
    expect(quote(`${'a'.repeat(200)}${'z'.repeat(200)}`)).toBe(`"${'a'.repeat(80)}…${'z'.repeat(80)}"`);
  });
});

test.each([
  ['layer1.0.bn1', 'layer1.0.bn1'],
  ['a b', '"a b"'],
  ['a\u001b', '"a\\x1b"'],
  ['', '""'],
])('quoteUnlessPlain shows %j as %s', (name, shown) => {
  expect(quoteUnlessPlain(name)).toBe(shown);
});

test.each([
  ['state_dict.ema', 'state_dict.ema'],
  ['runs/model-1', 'runs/model-1'],
  ['a b', "'a b'"],
  ["a'; reboot '", "'a'\\''; reboot '\\'''"],
  ['$(reboot)`reboot`', "'$(reboot)`reboot`'"],
  ['a\nreboot', "'a\\nreboot'"],
  ['', "''"],
])('toShellWord makes one word of %j', (name, word) => {
  expect(toShellWord(name)).toBe(word);
});

test('a CheckpointError carries its cause, and none when there is none', () => {
  const cause = new Error('EIO');
  expect(new CheckpointError('m', { code: 'unreadable', file: 'f', cause }).cause).toBe(cause);
  expect('cause' in new CheckpointError('m', { code: 'unreadable', file: 'f' })).toBe(false);
});
