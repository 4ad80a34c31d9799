import { describe, expect, test } from 'vitest';
import { looksLikeOnnx } from '../../../src/formats/onnx/sniff.js';
import { bytesOf, utf8 } from '../../build/bytes.js';
import { field, int, normModel, tag, varint } from './build-onnx.js';

describe('a file may be an ONNX model', () => {
  test('when it begins with ir_version', () => {
    expect(looksLikeOnnx(normModel().subarray(0, 64))).toBe(true);
  });

  test.each([1, 2, 3, 12])('when it was cut off after %i bytes', (byteLength) => {
    expect(looksLikeOnnx(normModel().subarray(0, byteLength))).toBe(true);
  });

  test('when the version is written in more bytes than it needs', () => {
    expect(looksLikeOnnx(bytesOf(tag(1, 0), varint(8, 9)))).toBe(true);
  });

  test('when it begins with its graph or its operator sets', () => {
    expect(looksLikeOnnx(field(7, field(1, 'node')))).toBe(true);
    expect(looksLikeOnnx(field(8, field(1, ''), int(2, 17)))).toBe(true);
  });

  test('when unknown fields come first', () => {
    expect(looksLikeOnnx(bytesOf(field(1000, 'future'), int(1, 8)))).toBe(true);
  });
});

describe('a file is no ONNX model', () => {
  test.each([
    ['nothing', ''],
    ['JSON', '{"a": 1}'],
    ['text', 'this is not a valid model'],
    ['a Git LFS pointer', 'version https://git-lfs.github.com/spec/v1\n'],
    ['HTML', '<!DOCTYPE html><html><body>404</body></html>'],
    ['BN as a text', 'BN layers\n'],
    ['a text that begins with a line break', '\nhello'],
  ])('when it is %s', (_kind, text) => {
    expect(looksLikeOnnx(utf8(text))).toBe(false);
  });

  test('when it is all zeros, gzip or a version that no model has', () => {
    expect(looksLikeOnnx(new Uint8Array(64))).toBe(false);
    expect(looksLikeOnnx(Uint8Array.of(0x1f, 0x8b, 8, 0))).toBe(false);
    expect(looksLikeOnnx(int(1, 0))).toBe(false);
    expect(looksLikeOnnx(int(1, 1_000_000))).toBe(false);
  });
});
