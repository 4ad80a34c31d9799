import { describe, expect, test } from 'vitest';
import { bytesOf, f32, i64, utf8 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { dict, global, int, list, op, orderedDict, pickle, text, tuple, u32 } from './build/pickle-writer.js';
import { tar } from './build/tar-writer.js';
import { normLayer, open, valuesOf } from './build/torch-files.js';

const FLOAT = global('torch', 'FloatStorage');
const storages = bytesOf(
  pickle(int(1)),
  ...[pickle(tuple(int(7), text('cpu'), FLOAT)), i64(6), f32(0, 1, 2, 3, 4, 5)],
  pickle(list(tuple(int(8), int(7), int(2), int(4)))),
);
const tensorRecord = (key: number, storage: number, size: number, offset: number) =>
  bytesOf(
    pickle(tuple(int(key), int(storage), global('torch', 'FloatTensor'))),
    u32(1),
    u32(0),
    i64(size, 1, offset),
  );
const tensors = bytesOf(pickle(int(2)), tensorRecord(70, 7, 3, 1), tensorRecord(80, 8, 2, 1));
const object = pickle(orderedDict({ a: op(text('70'), 'Q'), b: op(text('80'), 'Q') }));
const sysInfo = pickle(dict({ protocol_version: int(1000) }));
const members = { sys_info: sysInfo, pickle: object, tensors, storages };

describe('a tar archive of torch 0.1', () => {
  test('is read, views of storages included', async () => {
    const checkpoint = await open(tar(members));
    expect(await valuesOf(checkpoint, 'a')).toEqual([1, 2, 3]);
    expect(await valuesOf(checkpoint, 'b')).toEqual([3, 4]);
  });

  test.each([
    ['another tar archive', tar({ 'model.pth': utf8('x') }), 'found a tar archive without it'],
    [
      'a persistent id of a later format',
      tar({ ...members, pickle: pickle(orderedDict(normLayer('bn.'))) }),
      'of the tar archive, found a tuple',
    ],
    [
      'a tensor that is not listed',
      tar({ ...members, pickle: pickle(op(text('71'), 'Q')) }),
      'found the key "71", which is none',
    ],
    [
      'a member beyond the file',
      tar(members).subarray(0, 1560),
      'expected the tar member "pickle" within the file',
    ],
    [
      'a storage beyond its member',
      tar({ ...members, storages: storages.subarray(0, 60) }),
      'expected a storage of 24 bytes',
    ],
    ['a huge count of tensors', tar({ ...members, tensors: pickle(int(2 ** 30)) }), 'found 1073741824'],
  ])('%s is refused', async (_, bytes, message) => {
    const failure = await failureOf(() => open(bytes));
    expect(failure.message).toContain(message);
  });

  test('a tensor beyond its storage is refused by name', async () => {
    const beyond = bytesOf(pickle(int(2)), tensorRecord(70, 7, 7, 0), tensorRecord(80, 8, 2, 1));
    expect((await failureOf(() => open(tar({ ...members, tensors: beyond })))).message).toMatch(
      /^the tensor "a": /,
    );
  });
});
