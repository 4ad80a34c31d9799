import { describe, expect, test } from 'vitest';
import { dict, global, int, list, none, op, orderedDict, type Piece, text } from './build/pickle-writer.js';
import { normLayer, open, zipCheckpoint } from './build/torch-files.js';

const STATE_DICT = orderedDict(normLayer('bn.'));

const frameworkOf = async (root: Piece) => (await open(zipCheckpoint(root))).framework;

/** A pickled module of a class, which holds a norm layer. */
function moduleOf(classModule: string, className: string): Piece {
  const attributes = dict({ _modules: dict({}), _parameters: STATE_DICT, _buffers: dict({}) });
  return op(global(classModule, className), ')', 0x81, attributes, 'b');
}

const YOLO = moduleOf('ultralytics.nn.tasks', 'DetectionModel');

describe('a framework is told by what its trainer saves beside the model', () => {
  test.each<[string, Piece]>([
    [
      'lightning',
      dict({ epoch: int(1), 'pytorch-lightning_version': text('2.6.0'), state_dict: STATE_DICT }),
    ],
    ['lightning', dict({ state_dict: STATE_DICT, optimizer_states: list(), callbacks: dict({}) })],
    ['ultralytics', dict({ epoch: int(1), model: none, ema: YOLO, train_args: dict({}) })],
    ['ultralytics', dict({ model: YOLO })],
    ['ultralytics', YOLO],
    ['mmengine', dict({ meta: dict({ mmengine_version: text('0.10.7') }), state_dict: STATE_DICT })],
    ['mmengine', dict({ state_dict: STATE_DICT, message_hub: dict({}) })],
    ['timm', dict({ arch: text('resnet50'), state_dict: STATE_DICT, version: int(2) })],
  ])('%s', async (framework, root) => {
    expect(await frameworkOf(root)).toBe(framework);
  });
});

describe('an average beside the model is audited in its place where the framework loads it', () => {
  const plain = moduleOf('models.yolo', 'Model');
  const copiesOf = async (root: Piece) =>
    ((await open(zipCheckpoint(root))).copies ?? []).map(({ path, of }) => `${path} of ${of}`);

  test.each<[string, Record<string, Piece>, string]>([
    ['Ultralytics does', { model: YOLO, ema: YOLO }, 'model of ema'],
    ['and YOLOv5', { model: plain, ema: plain, updates: int(3) }, 'model of ema'],
    ['nobody else', { model: plain, ema: plain }, 'ema of model'],
    ['nor with state dicts', { model: STATE_DICT, ema: STATE_DICT, updates: int(3) }, 'ema of model'],
  ])('%s', async (_, root, copy) => {
    expect(await copiesOf(dict(root))).toEqual([copy]);
  });
});

describe('no framework is told by what anyone saves', () => {
  test.each<[string, Piece]>([
    ['a state dict', STATE_DICT],
    [
      'the dict of the ImageNet example',
      dict({ epoch: int(1), arch: text('resnet50'), state_dict: STATE_DICT }),
    ],
    ['a dict with an optimizer', dict({ model: STATE_DICT, optimizer: dict({}), meta: text('a note') })],
    ['a pickled module', moduleOf('models', 'Net')],
  ])('%s', async (_, root) => {
    expect(await frameworkOf(root)).toBeUndefined();
  });
});
