import { describe, expect, test } from 'vitest';
import { f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import {
  dict,
  global,
  int,
  no,
  none,
  op,
  orderedDict,
  reduce,
  storage,
  tensor,
  tuple,
  yes,
} from './build/pickle-writer.js';
import { normLayer, open, STORAGES, valuesOf, zipCheckpoint } from './build/torch-files.js';

const MATRIX = { m: f32(...Array.from({ length: 12 }, (_, i) => i)) };

const openMatrix = (piece: Parameters<typeof tensor>[0]) =>
  open(zipCheckpoint(dict({ t: tensor({ ...piece, elementCount: 12 }) }), { storages: MATRIX }));

describe('views', () => {
  test('a slice starts at its offset', async () => {
    const checkpoint = await openMatrix({ key: 'm', offset: 4, size: [2, 3], stride: [3, 1] });
    expect(await valuesOf(checkpoint, 't')).toEqual([4, 5, 6, 7, 8, 9]);
  });

  test('a transposed matrix is read row by row', async () => {
    const checkpoint = await openMatrix({ key: 'm', size: [4, 3], stride: [1, 4] });
    expect(await valuesOf(checkpoint, 't')).toEqual([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
  });

  test('every third element', async () => {
    const checkpoint = await openMatrix({ key: 'm', offset: 1, size: [4], stride: [3] });
    expect(await valuesOf(checkpoint, 't')).toEqual([1, 4, 7, 10]);
  });

  test('an expanded view repeats its elements', async () => {
    const checkpoint = await openMatrix({ key: 'm', offset: 5, size: [3], stride: [0] });
    expect(await valuesOf(checkpoint, 't')).toEqual([5, 5, 5]);
  });

  test('axes of one element may have any stride and stay ranges of the file', async () => {
    const checkpoint = await openMatrix({ key: 'm', size: [1, 4], stride: [99, 1] });
    expect(checkpoint.tensors.get('t')?.range.source.name).toBe('file.pt');
    expect(await valuesOf(checkpoint, 't')).toEqual([0, 1, 2, 3]);
  });

  test('scalars and empty tensors', async () => {
    const scalar = await openMatrix({ key: 'm', offset: 7, size: [], stride: [] });
    expect(scalar.tensors.get('t')).toMatchObject({ shape: [], elementCount: 1 });
    expect(await valuesOf(scalar, 't')).toEqual([7]);
    const empty = await openMatrix({ key: 'm', size: [0, 4], stride: [4, 1] });
    expect(empty.tensors.get('t')?.range.byteLength).toBe(0);
  });
});

describe('bounds: the error names the tensor', () => {
  test.each<[string, Parameters<typeof normLayer>[1]]>([
    ['a storage of 5 elements in the zip record "archive/data/2", found 16 bytes', { elementCount: 5 }],
    ['a count of elements, found 1152921504606846976', { elementCount: 2n ** 60n }],
    ['a count of elements, found -1', { elementCount: -1 }],
    ['size [5] and stride [1], which reach element 4', { size: [5] }],
    ['which reach element 7', { offset: 4 }],
    ['which reach element 6', { stride: [2] }],
    ['an offset of 0 or more elements, found -1', { offset: -1 }],
    ['found a negative stride in [-1]', { stride: [-1] }],
    ['found a negative size in [-4]', { size: [-4] }],
    ['found 2 strides and 1 sizes', { stride: [1, 1] }],
    ['a shape that fits into memory', { size: [2 ** 40, 2 ** 40], stride: [0, 0] }],
    ['expected at most 64 dimensions, found 65', { size: Array(65).fill(1), stride: Array(65).fill(1) }],
    ['in the zip record "data/../data.pkl", found no such record', { key: '../data.pkl' }],
    ['in the zip record "data//etc/passwd", found no such record', { key: '/etc/passwd' }],
  ])('%s', async (message, mean) => {
    const failure = await failureOf(() => open(zipCheckpoint(orderedDict(normLayer('layer.bn.', mean)))));
    expect(failure.message).toMatch(/^the tensor "layer\.bn\.running_mean": /);
    expect(failure.message).toContain(message);
    expect(failure.offset).toBeTypeOf('number');
  });

  test('a record that was cut', async () => {
    const storages = { ...STORAGES, '2': f32(1, 2, 3, 4).subarray(0, 14) };
    const failure = await failureOf(() => open(zipCheckpoint(orderedDict(normLayer('bn.')), { storages })));
    expect(failure.message).toContain('"bn.running_mean"');
  });
});

describe('rebuild functions', () => {
  const rebuild = (name: string, ...args: Uint8Array[]) =>
    reduce(global('torch._utils', name), tuple(...args));
  const plain = tensor({ key: '2' });
  const hooks = orderedDict({});
  const size = tuple(int(4));
  const stride = tuple(int(1));

  test.each([
    ['_rebuild_tensor', rebuild('_rebuild_tensor', storage({ key: '2' }), int(0), size, stride), undefined],
    ['_rebuild_tensor_v2', plain, undefined],
    ['_rebuild_parameter', rebuild('_rebuild_parameter', plain, yes, hooks), true],
    ['_rebuild_parameter of a frozen one', rebuild('_rebuild_parameter', plain, no, hooks), false],
    [
      '_rebuild_parameter_with_state',
      rebuild('_rebuild_parameter_with_state', plain, no, hooks, none),
      false,
    ],
    [
      '_rebuild_tensor_v3 of an untyped storage',
      rebuild(
        '_rebuild_tensor_v3',
        ...[
          storage({ key: '2', storage: 'UntypedStorage', elementCount: 16 }),
          int(0),
          size,
          stride,
          no,
          hooks,
        ],
        global('torch', 'float32'),
      ),
      undefined,
    ],
    [
      '_rebuild_from_type_v2 of a subclass',
      reduce(
        global('torch._tensor', '_rebuild_from_type_v2'),
        tuple(
          global('torch._utils', '_rebuild_tensor_v2'),
          global('__main__', 'Labelled'),
          tuple(storage({ key: '2' }), int(0), size, stride, no, hooks),
          dict({}),
        ),
      ),
      undefined,
    ],
    [
      'a size that is a torch.Size',
      rebuild(
        '_rebuild_tensor_v2',
        ...[storage({ key: '2' }), int(0), reduce(global('torch', 'Size'), tuple(size)), stride, no, hooks],
      ),
      undefined,
    ],
  ])('%s', async (_, piece, requiresGrad) => {
    const checkpoint = await open(zipCheckpoint(dict({ t: piece })));
    expect(await valuesOf(checkpoint, 't')).toEqual([-1, 0.5, 0.25, 8]);
    expect(checkpoint.tensors.get('t')?.requiresGrad).toBe(requiresGrad);
  });

  test.each([
    ['_rebuild_sparse_tensor', 'sparse'],
    ['_rebuild_meta_tensor_no_storage', 'a meta tensor'],
    ['_rebuild_nested_tensor', 'nested'],
    ['_rebuild_wrapper_subclass', 'of a tensor subclass'],
  ])('%s makes a tensor that is left out as %s', async (name, words) => {
    const root = dict({ t: rebuild(name, none), u: plain });
    expect((await open(zipCheckpoint(root))).warnings[0]).toContain(`"t" is ${words}`);
  });

  const dtensor = (whole: number) =>
    reduce(
      global('torch._tensor', '_rebuild_from_type_v2'),
      tuple(
        global('torch._utils', '_rebuild_wrapper_subclass'),
        global('torch.distributed.tensor', 'DTensor'),
        tuple(
          global('torch.distributed.tensor', 'DTensor'),
          global('torch', 'float32'),
          tuple(int(whole)),
          stride,
        ),
        tuple(none, dict({ _local_tensor: plain })),
      ),
    );

  test('a DTensor is read where one rank holds all of it', async () => {
    const checkpoint = await open(zipCheckpoint(dict({ t: dtensor(4), u: dtensor(8) })));
    expect(await valuesOf(checkpoint, 't')).toEqual([-1, 0.5, 0.25, 8]);
    expect(checkpoint.warnings).toEqual([
      '"u" is one rank’s shard of a distributed tensor (DTensor): not compared',
    ]);
  });

  test('a storage type that PyTorch does not have is left out', async () => {
    const root = dict({ t: tensor({ key: '0', storage: 'OddStorage' }), u: plain });
    expect((await open(zipCheckpoint(root))).warnings).toEqual([
      '"t" is of the type "OddStorage": not compared',
    ]);
  });

  test('wrappers without a tensor inside are malformed', async () => {
    const failure = await failureOf(() =>
      open(zipCheckpoint(dict({ t: rebuild('_rebuild_parameter', none, yes, hooks) }))),
    );
    expect(failure.message).toBe('the tensor "t": expected a tensor inside its wrapper, found none');
  });

  test.each([
    ['DoubleStorage', 'F64', 8],
    ['HalfStorage', 'F16', 2],
    ['BFloat16Storage', 'BF16', 2],
    ['LongStorage', 'I64', 8],
    ['BoolStorage', 'BOOL', 1],
    ['ComplexFloatStorage', 'C64', 8],
    ['Float8_e4m3fnStorage', 'F8_E4M3', 1],
  ])('%s holds %s', async (type, dtype, byteLength) => {
    const root = dict({ t: tensor({ key: 's', storage: type, elementCount: 2, size: [2] }) });
    const checkpoint = await open(zipCheckpoint(root, { storages: { s: new Uint8Array(2 * byteLength) } }));
    expect(checkpoint.tensors.get('t')).toMatchObject({ dtype, range: { byteLength: 2 * byteLength } });
  });
});

test('several tensors share one storage', async () => {
  const root = op(
    dict({ a: tensor({ key: '2', size: [2] }), b: tensor({ key: '2', offset: 2, size: [2] }) }),
  );
  const checkpoint = await open(zipCheckpoint(root));
  expect(await valuesOf(checkpoint, 'a')).toEqual([-1, 0.5]);
  expect(await valuesOf(checkpoint, 'b')).toEqual([0.25, 8]);
});
