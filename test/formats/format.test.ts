import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../src/formats/open.js';
import { bytesOf, f32, u64 } from '../build/bytes.js';
import { failureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';

/** A field of protobuf that holds bytes, with a tag of one or two bytes. */
function field(tag: readonly number[], ...content: readonly (Uint8Array | string | number)[]): Uint8Array {
  const bytes = bytesOf(...content);
  const length = bytes.length < 128 ? [bytes.length] : [0x80 + (bytes.length % 128), bytes.length >> 7];
  return bytesOf(...tag, ...length, bytes);
}

const NAME = 0x0a;

describe('a format that is not read is named, with the way out', () => {
  const tensor = (...dims: readonly number[]) =>
    field(
      [0x12],
      ...dims.flatMap((size) => [0x08, size]),
      field([0x12], 'Float32'),
      field([0x1a], f32(...Array(8).fill(1))),
    );
  const layer = (name: string, type: string) =>
    field([0xa2, 0x06], field([NAME], name), field([0x12], type), field([0x3a], f32(1)));
  const files: readonly (readonly [what: string, bytes: Uint8Array, found: RegExp, hint: RegExp])[] = [
    ['MXNet', bytesOf(u64(0x112), u64(0), u64(1)), /MXNet/, /save_file\(.*mx\.nd\.load/],
    [
      'MindSpore',
      field([NAME], field([NAME], 'bn1.moving_mean'), tensor(8)),
      /MindSpore/,
      /save_file\(.*load_checkpoint.*--epsilon 1e-5/,
    ],
    [
      'MindSpore, a scalar first',
      field([NAME], field([NAME], 'step'), tensor()),
      /MindSpore/,
      /load_checkpoint/,
    ],
    [
      'MindSpore, a long name first',
      field([NAME], field([NAME], 'backbone.'.repeat(20)), tensor(2, 4)),
      /MindSpore/,
      /load_checkpoint/,
    ],
    [
      'Caffe',
      bytesOf(field([NAME], 'net'), layer('bn_conv1', 'BatchNorm')),
      /Caffe/,
      /readNetFromCaffe.*convert/,
    ],
    ['Caffe, without a name', layer('data', 'Input'), /Caffe/, /readNetFromCaffe/],
    [
      'Caffe, with inputs',
      bytesOf(field([NAME], 'net'), field([0x1a], 'data'), 0x20, 1, 0x20, 3, layer('conv1', 'Convolution')),
      /Caffe/,
      /readNetFromCaffe/,
    ],
    [
      'Caffe of before 2014',
      bytesOf(
        field([NAME], 'CaffeNet'),
        field([0x12], field([0x1a], 'data'), field([0x22], 'data'), 0x28, 5),
      ),
      /Caffe/,
      /readNetFromCaffe/,
    ],
    [
      'Orbax, a file of it',
      bytesOf('{"tree_metadata": {}}'),
      /Orbax/,
      /StandardCheckpointer\(\)\.restore\(os\.path\.abspath/,
    ],
    [
      'OpenVINO',
      bytesOf('<?xml version="1.0"?>\n<net name="x" version="11">'),
      /OpenVINO/,
      /ONNX model that it was made from/,
    ],
    ['GGUF', bytesOf('GGUF', 3), /GGUF/, /made from/],
    ['TensorFlow Lite', bytesOf(0x1c, 0, 0, 0, 'TFL3'), /TensorFlow Lite/, /made from/],
    ['ncnn', bytesOf('7767517\n75 83\n'), /ncnn/, /made from/],
    ['TensorRT', bytesOf('ftrt', 0, 0, 0, 0), /TensorRT/, /made from/],
    ['ExecuTorch', bytesOf(0x30, 0, 0, 0, 'ET12', 'eh00'), /ExecuTorch/, /made from/],
    ['RKNN', bytesOf('RKNN', 0, 0, 0, 0), /RKNN/, /made from/],
    [
      'Core ML',
      bytesOf(8, 1, field([0x12], field([NAME], field([NAME], 'x'), field([0x1a], '*')))),
      /Core ML/,
      /made from/,
    ],
    [
      'a graph of TensorFlow',
      field([NAME], field([NAME], 'x'), field([0x12], 'Placeholder')),
      /frozen graph/,
      /made from/,
    ],
    [
      'the state of a TensorFlow training',
      bytesOf('model_checkpoint_path: "model-1"\n'),
      /list of the checkpoints/,
      /lie beside it/,
    ],
    [
      'PaddlePaddle, a program',
      field([NAME], bytesOf(8, 0, 0x10, ...Array(9).fill(0xff), 1)),
      /program of a PaddlePaddle/,
      /\.pdparams/,
    ],
    ['PaddlePaddle, a newer program', bytesOf('{"base_code":{"magic":"pir"'), /PaddlePaddle/, /\.pdparams/],
    [
      'PaddlePaddle for inference',
      bytesOf(...Array(16).fill(0), 4, 0, 0, 0, 8, 5, 16, 4),
      /PaddlePaddle model for inference, without their names/,
      /\.pdparams/,
    ],
    ['joblib, compressed', bytesOf('x', 0x5e, 0xcd, 0x51), /zlib-compressed/, /joblib\.load/],
    ['what a server says', bytesOf('Not Found\n'), /text, which begins with "Not Found"/, /convert/],
  ];

  test.each(files)('%s', async (_, bytes, found, hint) => {
    const path = join(makeTempDirectory(), 'model.bin');
    writeFileSync(path, bytes);
    const failure = await failureOf(() => openCheckpoint(path));
    expect(failure.code).toBe('unrecognised-format');
    expect(failure.message).toMatch(found);
    expect(failure.hint).toMatch(hint);
  });

  test('a model of MNN, which has no signature, by its name', async () => {
    const path = join(makeTempDirectory(), 'model.mnn');
    writeFileSync(path, bytesOf(0x20, 0, 0, 0, 1, 2, 3));
    expect((await failureOf(() => openCheckpoint(path))).message).toContain('an MNN model');
  });

  test('a package of Core ML', async () => {
    const directory = makeTempDirectory();
    const inner = join(directory, 'Data', 'com.apple.CoreML');
    mkdirSync(inner, { recursive: true });
    const input = field([NAME], field([NAME], 'x'), field([0x1a], '*'));
    writeFileSync(join(inner, 'model.mlmodel'), bytesOf(8, 8, field([0x12], input)));
    expect((await failureOf(() => openCheckpoint(directory))).message).toContain('a Core ML model');
  });

  test.each(['_METADATA', '_CHECKPOINT_METADATA'])('a directory of Orbax with %s', async (name) => {
    const directory = makeTempDirectory();
    writeFileSync(join(directory, name), '{"item_handlers": null}');
    expect((await failureOf(() => openCheckpoint(directory))).message).toContain('Orbax');
  });

  test('what only begins like one of them is not taken for it', async () => {
    const path = join(makeTempDirectory(), 'model.bin');
    const others = [
      bytesOf(field([NAME], 'init'), field([0x12], field([0x12], 'w'), field([0x22], 'GivenTensorFill'))), // of Caffe2
      bytesOf('\n\n\n', '\x12\x12'.repeat(400)),
    ];
    for (const bytes of others) {
      writeFileSync(path, bytes);
      expect((await failureOf(() => openCheckpoint(path))).message).toContain('unknown content');
    }
  });
});
