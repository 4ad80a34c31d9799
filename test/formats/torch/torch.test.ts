import { describe, expect, test } from 'vitest';
import { looksLikeTorch } from '../../../src/formats/torch/sniff.js';
import { openTorch } from '../../../src/formats/torch/torch.js';
import { bytesOf, f32, i64, utf8 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { countingSource } from '../../build/sources.js';
import {
  dict,
  float,
  global,
  int,
  no,
  none,
  orderedDict,
  pickle,
  reduce,
  storage,
  tensor,
  text,
  tuple,
} from './build/pickle-writer.js';
import {
  asSource,
  legacyCheckpoint,
  normLayer,
  open,
  STORAGES,
  valuesOf,
  zipCheckpoint,
} from './build/torch-files.js';

const STATE_DICT = orderedDict(normLayer('bn.'), { '': 1, bn: 2 });

describe('recognising a PyTorch file by its first bytes', () => {
  test.each([
    ['a zip archive', bytesOf('PK', 3, 4)],
    ['an empty zip archive', bytesOf('PK', 5, 6)],
    ['the magic number of the legacy format', legacyCheckpoint(STATE_DICT).subarray(0, 16)],
    ['a bare pickle', bytesOf(0x80, 4, 0x95)],
    ['a pickle of protocol 0', utf8('cposix\nsystem\n(')],
    ['an INST of protocol 0', utf8("(S'ls'\nios\nsystem\n.")],
    ['a tar archive of torch 0.1', bytesOf('sys_info', new Uint8Array(92))],
  ])('%s is one', (_, head) => {
    expect(looksLikeTorch(head)).toBe(true);
  });

  test.each([
    [
      'a safetensors header whose length looks like protocol 2',
      bytesOf(0x80, 2, 0, 0, 0, 0, 0, 0, '{"__metadata__"'),
    ],
    ['an ONNX model', bytesOf(8, 8, 0x12, 7)],
    ['a pickle of a protocol that does not exist', bytesOf(0x80, 200)],
    ['prose', utf8('Version 1.0\nof the notes')],
    ['nothing', new Uint8Array(0)],
  ])('%s is none', (_, head) => {
    expect(looksLikeTorch(head)).toBe(false);
  });
});

describe('opening a state dict', () => {
  test('keeps its tensors in module order, with their values and the versions of its modules', async () => {
    const checkpoint = await open(zipCheckpoint(STATE_DICT));
    expect(checkpoint.format).toBe('PyTorch');
    expect(checkpoint.inModuleOrder).toBe(true);
    expect([...checkpoint.tensors.keys()]).toEqual([
      'bn.weight',
      'bn.bias',
      'bn.running_mean',
      'bn.running_var',
    ]);
    expect(await valuesOf(checkpoint, 'bn.running_mean')).toEqual([-1, 0.5, 0.25, 8]);
    expect(checkpoint.modules.get('bn')?.version).toBe(2);
    expect(checkpoint.warnings).toEqual([]);
  });

  test('gives ranges of the file itself, so that values can be patched in place', async () => {
    const bytes = zipCheckpoint(STATE_DICT);
    const source = asSource(bytes);
    const checkpoint = await openTorch(source, { path: 'file.pt' });
    const range = checkpoint.tensors.get('bn.running_var')?.range;
    expect(range?.source).toBe(source);
    expect(range?.byteLength).toBe(16);
  });

  test('reads no storage but the small ones of statistics', async () => {
    const megabytes = new Uint8Array(8 * 1024 * 1024);
    const root = orderedDict({
      'conv.weight': tensor({ key: '9', elementCount: megabytes.length / 4, size: [megabytes.length / 4] }),
      ...normLayer('bn.'),
    });
    const bytes = zipCheckpoint(root, { storages: { '9': megabytes, ...STORAGES } });
    const source = countingSource('file.pt', bytes);
    await openTorch(source, { path: 'file.pt' });
    expect(source.bytesRead).toBeLessThan(256 * 1024);
  });

  test('closes the source with the checkpoint, and leaves it open on failure', async () => {
    const source = countingSource('file.pt', zipCheckpoint(STATE_DICT));
    await (await openTorch(source, { path: 'file.pt' })).close();
    expect(source.isClosed).toBe(true);
    const broken = countingSource('file.pt', zipCheckpoint(int(1)));
    await failureOf(() => openTorch(broken, { path: 'file.pt' }));
    expect(broken.isClosed).toBe(false);
  });

  test('a file with tensors but no norm layer is no error', async () => {
    const checkpoint = await open(zipCheckpoint(dict({ 'fc.weight': tensor({ key: '0' }) })));
    expect([...checkpoint.tensors.keys()]).toEqual(['fc.weight']);
  });
});

describe('a quantised tensor', () => {
  const codes = { ...STORAGES, codes: Uint8Array.of(4, 8, 252, 2), zeros: bytesOf(i64(0n, 1n)) };
  const quantised = (...quantiser: readonly Uint8Array[]) =>
    reduce(
      global('torch._utils', '_rebuild_qtensor'),
      tuple(
        storage({ key: 'codes', storage: 'QInt8Storage' }),
        int(0),
        tuple(int(2), int(2)),
        tuple(int(2), int(1)),
        tuple(...quantiser),
        no,
        orderedDict({}),
      ),
    );
  const ofAll = quantised(global('torch', 'per_tensor_affine'), float(0.5), int(2));
  const vector = (key: string, type: string) => tensor({ key, storage: type, elementCount: 2, size: [2] });
  const perChannel = (axis: number) =>
    quantised(
      global('torch', 'per_channel_affine'),
      vector('1', 'FloatStorage'),
      vector('zeros', 'LongStorage'),
      int(axis),
    );
  const openWith = (entries: Record<string, Uint8Array>) =>
    open(
      zipCheckpoint(orderedDict({ ...entries, ...normLayer('bn.') }), {
        storages: { ...codes, '1': f32(0.5, 0.25, 0, 0) },
      }),
    );

  test('holds what its codes stand for, by one scale or one for each channel', async () => {
    const checkpoint = await openWith({ 'a.weight': ofAll, 'b.weight': perChannel(1) });
    expect(await valuesOf(checkpoint, 'a.weight')).toEqual([1, 3, -3, 0]);
    expect(await valuesOf(checkpoint, 'b.weight')).toEqual([2, 1.75, -2, 0.25]);
    expect(checkpoint.tensors.get('b.weight')).toMatchObject({
      dtype: 'F32',
      quantised: { axis: 1, codes: { dtype: 'I8' } },
    });
    expect(checkpoint.warnings).toEqual([]);
  });

  test('stands with the bias in one tuple in a linear layer', async () => {
    const checkpoint = await openWith({
      'fc._packed_params._packed_params': tuple(ofAll, tensor({ key: '0' })),
    });
    expect(checkpoint.tensors.get('fc.weight')?.quantised).toBeDefined();
    expect(await valuesOf(checkpoint, 'fc.bias')).toEqual([1, 2, 3, 4]);
  });

  test("is three in torchao's classes, as others name them in files without objects", async () => {
    const weight = reduce(
      global('torch._tensor', '_rebuild_from_type_v2'),
      tuple(
        global('torch._utils', '_rebuild_wrapper_subclass'),
        global('torchao.quantization', 'Int8Tensor'),
        tuple(),
        dict({
          qdata: tensor({ key: 'codes', storage: 'CharStorage', size: [2, 2], stride: [2, 1] }),
          scale: vector('1', 'FloatStorage'),
          zero_point: vector('zeros', 'LongStorage'),
        }),
      ),
    );
    const { tensors, warnings } = await openWith({ 'fc.weight': weight });
    expect([...tensors.keys()].slice(0, 3)).toEqual([
      'fc.weight._data',
      'fc.weight._scale',
      'fc.weight._zero_point',
    ]);
    expect(warnings).toEqual([]);
  });

  test('says nothing of freezing, nor do the biases beside it, which no optimizer ever sees', async () => {
    const bias = reduce(
      global('torch._utils', '_rebuild_parameter'),
      tuple(tensor({ key: '0' }), no, orderedDict({})),
    );
    const { tensors } = await openWith({ 'conv.weight': ofAll, 'conv.bias': bias });
    expect(tensors.get('conv.bias')?.requiresGrad).toBeUndefined();
  });

  test.each([
    ['an axis that it has not', perChannel(2)],
    ['scales that are no tensor', quantised(global('torch', 'per_channel_affine'), float(1), int(0), int(0))],
    ['a scale that is no number', quantised(global('torch', 'per_tensor_affine'), text('1'), int(0))],
  ])('with %s is refused', async (_, weight) => {
    expect(await failureOf(() => openWith({ weight }))).toMatchObject({
      code: 'malformed',
      message: expect.stringContaining('expected a scale and a zero point'),
    });
  });
});

describe('a tensor without plain elements', () => {
  const quantized = reduce(
    global('torch._utils', '_rebuild_qtensor'),
    tuple(text('storage'), int(0), tuple(int(4)), tuple(int(1)), none),
  );

  test('is left out with a warning that names it', async () => {
    const checkpoint = await open(
      zipCheckpoint(orderedDict({ 'fc.weight': quantized, ...normLayer('bn.') })),
    );
    expect(checkpoint.tensors.has('fc.weight')).toBe(false);
    expect(checkpoint.warnings).toEqual(['"fc.weight" is quantized in a way that is not read: not compared']);
  });

  test('is refused by name as a statistic', async () => {
    const root = orderedDict({ ...normLayer('bn.'), 'bn.running_var': quantized });
    const failure = await failureOf(() => open(zipCheckpoint(root)));
    expect(failure).toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('"bn.running_var"'),
    });
  });

  test('is refused by name where nothing else remains', async () => {
    const failure = await failureOf(() => open(zipCheckpoint(dict({ weight: quantized }))));
    expect(failure.message).toBe(
      'expected a plain tensor at "weight", found one that is quantized in a way that is not read',
    );
  });
});

describe('what PyTorch writes besides checkpoints', () => {
  test('a bare pickle without tensors is refused', async () => {
    const failure = await failureOf(() => open(pickle(dict({ lr: int(1) }))));
    expect(failure.message).toBe(
      'expected a checkpoint of torch.save, found a bare pickle of a dict, without tensors',
    );
  });

  test('the data.pkl of an unpacked checkpoint is refused', async () => {
    expect((await failureOf(() => open(pickle(STATE_DICT)))).message).toContain(
      'the data.pkl of an unpacked checkpoint',
    );
  });
});

describe('big-endian storages', () => {
  test('are converted while they are read', async () => {
    const swapped = Object.fromEntries(
      Object.entries(STORAGES).map(([key, bytes]) => [key, Uint8Array.from(Buffer.from(bytes).swap32())]),
    );
    const checkpoint = await open(zipCheckpoint(STATE_DICT, { storages: swapped, byteOrder: 'big' }));
    expect(await valuesOf(checkpoint, 'bn.running_mean')).toEqual([-1, 0.5, 0.25, 8]);
  });

  test('a byte order that is neither is refused', async () => {
    const failure = await failureOf(() => open(zipCheckpoint(STATE_DICT, { byteOrder: 'middle' })));
    expect(failure.message).toBe('expected the byteorder record to say "little" or "big", found "middle"');
  });
});

describe('TorchScript', () => {
  const batchNorm = bytesOf(
    global('__torch__.torch.nn.modules.batchnorm.___torch_mangle_4', 'BatchNorm2d'),
    ')',
    0x81,
    dict({ training: Uint8Array.of(0x89), ...normLayer('') }),
    'b',
  );
  const net = bytesOf(global('__torch__', 'Net'), ')', 0x81, dict({ bn: batchNorm }), 'b');
  const source = [
    'class BatchNorm2d(Module):',
    '  weight : Tensor',
    '  eps : Final[float] = 0.001',
    '  momentum : Final[float] = 0.25',
    '  track_running_stats : Final[bool] = True',
    '  def forward(self, x):',
    '    return x',
  ].join('\n');

  test('attributes give the names, and the class source the constants', async () => {
    const checkpoint = await open(
      zipCheckpoint(net, {
        extra: [
          { name: 'archive/constants.pkl', bytes: pickle(tuple()) },
          {
            name: 'archive/code/__torch__/torch/nn/modules/batchnorm/___torch_mangle_4.py',
            bytes: utf8(source),
            deflate: true,
          },
        ],
      }),
    );
    expect(checkpoint.format).toBe('TorchScript');
    expect(await valuesOf(checkpoint, 'bn.running_var')).toEqual([
      ...new Float32Array(f32(1, 2, 4, 0.5).buffer),
    ]);
    expect(checkpoint.modules.get('bn')).toEqual({
      className: 'BatchNorm2d',
      epsilon: 0.001,
      momentum: 0.25,
      trackRunningStats: true,
      training: false,
      version: null,
    });
  });

  test('an archive without tensors says what it is', async () => {
    const empty = bytesOf(global('__torch__', 'M'), ')', 0x81, dict({}), 'b');
    const extra = [{ name: 'archive/constants.pkl', bytes: pickle(tuple()) }];
    const failure = await failureOf(() => open(zipCheckpoint(empty, { extra })));
    expect(failure.message).toBe('expected tensors in the TorchScript checkpoint, found none');
    expect(failure.hint).toContain('audit the module from before');
  });
});

describe('a file of DeepSpeed', () => {
  const stateOf = (size: readonly number[]) =>
    dict({
      module: orderedDict({
        ...normLayer('bn.'),
        'conv.weight': tensor({ key: '0', size, elementCount: 4 }),
      }),
      ds_version: text('0.16.2'),
    });

  test('is read where it holds the parameters', async () => {
    const checkpoint = await open(zipCheckpoint(stateOf([4])));
    expect(checkpoint.tensors.has('bn.running_mean')).toBe(true);
  });

  test('is refused with the way out where ZeRO-3 has partitioned them', async () => {
    expect(await failureOf(() => open(zipCheckpoint(stateOf([0]))))).toMatchObject({
      code: 'unsupported',
      message: 'expected whole parameters, found those that ZeRO-3 of DeepSpeed has partitioned',
      hint: expect.stringContaining('python zero_to_fp32.py DIRECTORY joined'),
    });
  });
});
