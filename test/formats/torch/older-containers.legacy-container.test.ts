import { describe, expect, test } from 'vitest';
import { bytesOf, f32, i64 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { dict, global, no, op, orderedDict, tensor, text, tuple } from './build/pickle-writer.js';
import { legacyCheckpoint, normLayer, open, STORAGES, valuesOf } from './build/torch-files.js';

const STATE_DICT = orderedDict(normLayer('bn.', { view: null }));
const BIG_ENDIAN = dict({ little_endian: no });

describe('a legacy checkpoint', () => {
  test('is read', async () => {
    const checkpoint = await open(legacyCheckpoint(STATE_DICT));
    expect(checkpoint.format).toBe('PyTorch');
    expect(await valuesOf(checkpoint, 'bn.running_mean')).toEqual([-1, 0.5, 0.25, 8]);
    expect(await valuesOf(checkpoint, 'bn.running_var')).toEqual([1, 2, 4, 0.5]);
  });

  test('whose pickle is longer than the first window is read', async () => {
    const root = dict({ log: text('x'.repeat(300_000)), state_dict: STATE_DICT });
    expect(await valuesOf(await open(legacyCheckpoint(root)), 'bn.running_var')).toEqual([1, 2, 4, 0.5]);
  });

  test('with views of storages is read', async () => {
    const piece = tensor({ key: 'root', elementCount: 6, view: ['view', 2, 4] });
    const checkpoint = await open(
      legacyCheckpoint(dict({ t: piece }), { storages: { root: f32(0, 1, 2, 3, 4, 5) } }),
    );
    expect(await valuesOf(checkpoint, 't')).toEqual([2, 3, 4, 5]);
  });

  test('of a big-endian machine is little-endian all the same, as PyTorch writes it', async () => {
    const checkpoint = await open(legacyCheckpoint(STATE_DICT, { systemInfo: BIG_ENDIAN }));
    expect(await valuesOf(checkpoint, 'bn.running_mean')).toEqual([-1, 0.5, 0.25, 8]);
  });

  test('whose counts are big-endian too is converted', async () => {
    const swapped = Object.entries(STORAGES).map(([key, bytes]) => [
      key,
      Uint8Array.from(Buffer.from(bytes).swap32()),
    ]);
    const counts = Object.fromEntries(
      Object.keys(STORAGES).map((key) => [key, Buffer.from(i64(4)).readBigInt64BE()]),
    );
    const bytes = legacyCheckpoint(STATE_DICT, {
      systemInfo: BIG_ENDIAN,
      storages: Object.fromEntries(swapped),
      counts,
    });
    expect(await valuesOf(await open(bytes), 'bn.running_mean')).toEqual([-1, 0.5, 0.25, 8]);
  });

  test('names classes by persistent ids', async () => {
    const named = op(
      tuple(text('module'), global('__main__', 'Net'), text('net.py'), text('class Net')),
      'Q',
    );
    const root = dict({ args: op(named, ')', 0x81), state_dict: STATE_DICT });
    expect((await open(legacyCheckpoint(root))).tensors.size).toBe(4);
  });
});

describe('a legacy checkpoint is refused', () => {
  test.each([
    [
      'another count than the object claims',
      { counts: { '2': 5 } },
      'expected 4 elements in the storage "2", found a count of 5',
    ],
    ['a count of 2^60', { counts: { '2': 2n ** 60n } }, 'found a count of 1152921504606846976'],
    ['a negative count', { counts: { '2': -1 } }, 'found a count of -1'],
    [
      'a key that is not listed',
      { keys: ['0', '1', '3'] },
      'the tensor "bn.running_mean": expected the storage key "2"',
    ],
    [
      'a listed key that no tensor uses',
      { keys: ['0', '1', '2', '3', '4'] },
      'expected the listed storage key "4"',
    ],
  ])('%s', async (_, options, message) => {
    expect((await failureOf(() => open(legacyCheckpoint(STATE_DICT, options)))).message).toContain(message);
  });

  test('truncated: the last storage is cut off', async () => {
    const bytes = legacyCheckpoint(STATE_DICT);
    const failure = await failureOf(() => open(bytes.subarray(0, -3)));
    expect(failure).toMatchObject({
      code: 'truncated',
      message: expect.stringContaining('the storage "3" of 16 bytes'),
    });
  });

  test('truncated: only the magic number', async () => {
    const failure = await failureOf(() => open(legacyCheckpoint(STATE_DICT).subarray(0, 15)));
    expect(failure.message).toBe('expected 1 byte, found the end of the pickle of the protocol version');
  });

  test('a view beyond its storage', async () => {
    const root = dict({ t: tensor({ key: 'root', elementCount: 4, view: ['view', 2, 4] }) });
    const bytes = legacyCheckpoint(root, { storages: { root: f32(1, 2, 3, 4) } });
    expect((await failureOf(() => open(bytes))).message).toContain(
      "expected a view within the storage's 4 elements",
    );
  });

  test('one storage under two types', async () => {
    const root = dict({ a: tensor({ key: 'x' }), b: tensor({ key: 'x', storage: 'ByteStorage' }) });
    const bytes = bytesOf(legacyCheckpoint(root, { storages: { x: f32(1) }, counts: { x: 4 } }));
    expect((await failureOf(() => open(bytes))).message).toContain(
      'expected its storage to hold 4 elements, found 4 bytes',
    );
  });
});
