import { describe, expect, test } from 'vitest';
import { readConfiguredModules } from '../../../src/formats/torch/training-settings.js';

/** As mmengine prints it: yapf's layout, keys in alphabetical order. */
const TEXT = `data_preprocessor = dict(
    mean=[
        123.675,
        103.53,
    ],
    type='DetDataPreprocessor')
model = dict(
    backbone=dict(
        depth=50,
        frozen_stages=1,
        init_cfg=dict(checkpoint='torchvision://resnet50', type='Pretrained'),
        norm_cfg=dict(requires_grad=False, type='BN'),
        norm_eval=True,
        out_indices=(
            0,
            1,
        ),
        type='mmdet.ResNet'),
    decode_head=[
        dict(norm_cfg=dict(requires_grad=True, type='SyncBN'), type='FCNHead'),
    ],
    test_cfg=dict(rpn=dict(score_thr=-0.05)),
    type='MaskRCNN')
note = 'it\\'s a "quoted" text # model = dict(frozen_stages=9)'
odd = dict({3: dict(frozen_stages=4), 'a b': 1})
`;

const BACKBONE = { path: 'backbone', type: null, frozenStages: 2, normEval: null, normRequiresGrad: null };

test('the modules of the model tell their class, frozen stages, and how their norm layers train', () => {
  expect(readConfiguredModules(TEXT)).toEqual([
    { path: 'backbone', type: 'ResNet', frozenStages: 1, normEval: true, normRequiresGrad: false },
    { path: 'decode_head.0', type: 'FCNHead', frozenStages: null, normEval: null, normRequiresGrad: true },
  ]);
});

test.each([
  ['a dict of braces', `model = {'backbone': {'frozen_stages': 2}}`, [BACKBONE]],
  [
    'a model in a model',
    'model = dict(detector=dict(backbone=dict(frozen_stages=2)))',
    [{ ...BACKBONE, path: 'detector.backbone' }],
  ],
  [
    'long strings and comments',
    `model = dict( # dict(\n  a='''it's (''', backbone=dict(frozen_stages=2))`,
    [BACKBONE],
  ],
  ['minus one', 'model = dict(backbone=dict(frozen_stages=-1))', [{ ...BACKBONE, frozenStages: -1 }]],
  ['a value that has to be computed', 'model = dict(backbone=dict(frozen_stages=1 + 1, x=2))', []],
  ['a call', 'model = dict(backbone=dict(frozen_stages=int(2)))', []],
  ['settings of something else', 'trainer = dict(backbone=dict(frozen_stages=2))', []],
  ['no settings', '', []],
])('%s', (_, text, expected) => {
  expect(readConfiguredModules(text)).toEqual(expected);
});

describe('what is no configuration is not read', () => {
  test.each([
    ['a string without an end', `model = dict(a='`],
    ['a bracket without an end', 'model = dict('],
    ['an end without a bracket', 'model = 1)'],
    ['a long string without an end', `a = """${'x'.repeat(10)}`],
    ['a bomb of brackets', '('.repeat(1_000_000)],
    ['a bomb of escaped quotes', `"${'\\"'.repeat(1_000_000)}`],
    ['megabytes of text', `model = dict(${'a=1, '.repeat(1_000_000)})`],
    ['modules without end', `model = dict(${'dict(frozen_stages=1),'.repeat(2_000)})`],
  ])('%s', (_, text) => {
    expect(readConfiguredModules(text)).toBeNull();
  });
});
