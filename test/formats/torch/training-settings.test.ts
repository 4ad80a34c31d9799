import { describe, expect, test } from 'vitest';
import type { Declaration } from '../../../src/checkpoint/checkpoint.js';
import { dict, int, list, none, type Piece, text, yes } from './build/pickle-writer.js';
import { normLayer, open, zipCheckpoint } from './build/torch-files.js';

async function declarationsOf(entries: Record<string, Piece>): Promise<readonly Declaration[]> {
  const root = dict({ state_dict: dict(normLayer('bn.')), ...entries });
  return (await open(zipCheckpoint(root))).declarations ?? [];
}

describe('train_args of Ultralytics', () => {
  const freezeOf = (freeze: Piece) => declarationsOf({ train_args: dict({ freeze }) });
  const paths = (...names: readonly string[]) => [
    { kind: 'paths', by: 'ultralytics-freeze', where: 'train_args.freeze', paths: names },
  ];

  test.each([
    ['a number means the first modules', int(2), ['model.0', 'model.1']],
    ['a list means these modules', list(int(0), int(22)), ['model.0', 'model.22']],
    ['a list may name parts of modules', list(text('22.cv2')), ['model.22.cv2']],
  ])('%s', async (_, freeze, expected) => {
    expect(await freezeOf(freeze)).toEqual(paths(...expected));
  });

  test.each([
    ['None', none],
    ['zero', int(0)],
    ['less than zero', int(-3)],
    ['an empty list', list()],
    ['a truth', yes],
  ])('%s means nothing', async (_, freeze) => {
    expect(await freezeOf(freeze)).toEqual([]);
  });

  test.each([
    ['a number beyond all models', int(10_000_000)],
    ['a list of something else', list(none)],
  ])('%s is not understood, and is said so', async (_, freeze) => {
    expect(await freezeOf(freeze)).toEqual([
      expect.objectContaining({ kind: 'unread', of: 'settings', where: 'train_args.freeze' }),
    ]);
  });
});

describe('the configuration that mmengine keeps', () => {
  const configOf = (config: string) => declarationsOf({ meta: dict({ cfg: text(config) }) });

  test('frozen_stages of a ResNet means its stem and its first stages', async () => {
    expect(await configOf("model = dict(backbone=dict(type='ResNet', frozen_stages=2))")).toEqual([
      {
        kind: 'paths',
        by: 'frozen-stages',
        where: 'meta.cfg',
        paths: ['conv1', 'bn1', 'stem', 'layer1', 'layer2'].map((name) => `backbone.${name}`),
      },
    ]);
  });

  test('frozen_stages=0 means the stem, −1 nothing', async () => {
    expect(await configOf("model = dict(type='ResNetV1c', frozen_stages=0)")).toMatchObject([
      { paths: ['conv1', 'bn1', 'stem'] },
    ]);
    expect(await configOf("model = dict(type='ResNet', frozen_stages=-1)")).toEqual([]);
  });

  test('norm_eval and norm_cfg mean the norm layers', async () => {
    const backbone = "dict(type='Swin', norm_eval=True, norm_cfg=dict(requires_grad=False))";
    expect(await configOf(`model = dict(backbone=${backbone})`)).toMatchObject([
      { by: 'norm-cfg', paths: ['backbone'] },
      { by: 'norm-eval', paths: ['backbone'] },
    ]);
  });

  test('the stages of another backbone are not known, and that is said', async () => {
    expect(
      await configOf("model = dict(backbone=dict(type='SwinTransformer', frozen_stages=2))"),
    ).toMatchObject([{ kind: 'unread', reason: expect.stringContaining('frozen_stages=2') }]);
  });

  test('a text that is no configuration is a matter only where it speaks of a freeze', async () => {
    expect(await configOf("it's text")).toEqual([]);
    expect(await configOf("it's frozen_stages=1")).toMatchObject([{ kind: 'unread', where: 'meta.cfg' }]);
  });

  test('MMCV kept it as config', async () => {
    const config = text("model = dict(type='ResNet', norm_eval=True)");
    expect(await declarationsOf({ meta: dict({ config }) })).toMatchObject([{ where: 'meta.config' }]);
  });
});
