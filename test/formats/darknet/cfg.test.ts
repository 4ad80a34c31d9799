import { describe, expect, test } from 'vitest';
import { readCfg } from '../../../src/formats/darknet/cfg.js';
import { failureOf } from '../../build/failure.js';

const NET = '[net]\nheight=9\nwidth=8\nchannels=4\n';

/** The arrays of the last section, as `name shape`, each without its layer. */
function arraysOf(sections: string): readonly string[] | null {
  const last = readCfg(NET + sections, 'x.cfg').at(-1);
  return (
    last?.arrays?.map(({ name, shape }) => `${name.replace(/^layers\.\d+\./, '')} ${shape.join('x')}`) ?? null
  );
}

const BN = (channels: number) =>
  ['bias', 'weight', 'running_mean', 'running_var'].map((leaf) => `bn.${leaf} ${channels}`);

describe('a section', () => {
  test.each([
    [
      'convolution with norm',
      '[convolutional]\nbatch_normalize=1\nfilters=6\nsize=3',
      [...BN(6), 'conv.weight 6x4x3x3'],
    ],
    ['convolution without', '[conv]\nfilters=6\nsize=3', ['conv.bias 6', 'conv.weight 6x4x3x3']],
    ['convolution in groups', '[conv]\nfilters=6\nsize=3\ngroups=2', ['conv.bias 6', 'conv.weight 6x2x3x3']],
    ['convolution with a norm over batches', '[conv]\ncbn=1\nfilters=6', [...BN(6), 'conv.weight 6x4x1x1']],
    ['convolution that shares weights', '[conv]\nfilters=6\n[conv]\nfilters=6\nshare_index=0', []],
    [
      'options with blanks, comments and odd ends',
      '[conv]\n# filters=1\n; size=2\n filters = 6 \nfilters=9\nsize=3px',
      ['conv.bias 6', 'conv.weight 6x4x3x3'],
    ],
    [
      'connected behind a convolution with stride and padding',
      '[conv]\nfilters=2\nsize=3\nstride=2\npad=1\n[connected]\noutput=5',
      ['connected.bias 5', 'connected.weight 5x40'],
    ],
    [
      'connected with norm',
      '[connected]\nbatch_normalize=1\noutput=5',
      ['bn.bias 5', 'connected.weight 5x288', 'bn.weight 5', 'bn.running_mean 5', 'bn.running_var 5'],
    ],
    [
      'connected behind a pool',
      '[maxpool]\nsize=2\nstride=2\n[connected]',
      ['connected.bias 1', 'connected.weight 1x80'],
    ],
    [
      'connected behind a pool of stride 1',
      '[maxpool]\nsize=2\nstride=1\n[connected]',
      ['connected.bias 1', 'connected.weight 1x288'],
    ],
    ['connected behind an average', '[avgpool]\n[connected]', ['connected.bias 1', 'connected.weight 1x4']],
    [
      'connected behind a crop',
      '[crop]\ncrop_height=2\ncrop_width=3\n[dropout]\n[connected]',
      ['connected.bias 1', 'connected.weight 1x24'],
    ],
    [
      'connected behind an upsampling',
      '[upsample]\nstride=2\n[connected]',
      ['connected.bias 1', 'connected.weight 1x1152'],
    ],
    [
      'convolution behind a reorganisation',
      '[reorg]\nstride=2\n[conv]',
      ['conv.bias 1', 'conv.weight 1x16x1x1'],
    ],
    [
      'convolution behind its reverse',
      '[reorg3d]\nstride=2\nreverse=1\n[conv]',
      ['conv.bias 1', 'conv.weight 1x1x1x1'],
    ],
    [
      'convolution behind a route',
      '[conv]\nfilters=2\n[conv]\nfilters=3\n[route]\nlayers=-1, 0\n[conv]',
      ['conv.bias 1', 'conv.weight 1x5x1x1'],
    ],
    [
      'convolution behind a part of a route',
      '[conv]\nfilters=6\n[route]\nlayers=-1\ngroups=2\ngroup_id=1\n[conv]',
      ['conv.bias 1', 'conv.weight 1x3x1x1'],
    ],
    [
      'convolution behind a pool of channels',
      '[maxpool]\nmaxpool_depth=1\nout_channels=7\n[conv]',
      ['conv.bias 1', 'conv.weight 1x7x1x1'],
    ],
    [
      'convolution behind scaled channels',
      '[conv]\nfilters=6\n[avgpool]\n[conv]\nfilters=6\n[scale_channels]\nfrom=-3\n[conv]',
      ['conv.bias 1', 'conv.weight 1x6x1x1'],
    ],
    ['norm of its own', '[batchnorm]', BN(4)],
    [
      'local layer',
      '[local]\nfilters=2\nsize=3\nstride=1\npad=1',
      ['local.bias 144', 'local.weight 72x2x4x3x3'],
    ],
    ['shortcut', '[conv]\n[shortcut]\nfrom=-1', []],
    ['weighted shortcut', '[conv]\n[shortcut]\nfrom=-1\nweights_type=per_feature', ['shortcut.weight 2']],
    [
      'shortcut weighted by channels',
      '[conv]\nfilters=3\n[shortcut]\nfrom=-1\nweights_type=per_channel',
      ['shortcut.weight 6'],
    ],
    ['head', '[yolo]\nmask=0\nclasses=80', []],
    ['layer that is not known', '[lstm]\noutput=9', null],
  ])('%s', (_, sections, arrays) => {
    expect(arraysOf(sections)).toEqual(arrays);
  });

  test('of a network without images has its inputs', () => {
    const [layer] = readCfg('[network]\ninputs=30\n[connected]\noutput=2', 'x.cfg');
    expect(layer?.arrays?.[1]?.shape).toEqual([2, 30]);
  });
});

describe('a hostile .cfg', () => {
  test.each([
    ['nothing', '', /begins with \[net\], found something else/],
    ['no [net]', '[convolutional]\n', /begins with \[net\]/],
    ['text', 'hello', /expected a line of a \.cfg of Darknet, found "hello"/],
    ['a line without =', `${NET}[conv]\n\u001b[2J`, /found "\\x1b\[2J"/],
    ['a million sections', `${NET}${'[conv]\n'.repeat(1_000_000)}`, /at most 10000 layers/],
    [
      'a route to what comes later',
      `${NET}[route]\nlayers=3`,
      /layer 0: expected layers before it at "layers"/,
    ],
    ['a route to nothing', `${NET}[route]`, /expected layers before it/],
    [
      'routes without end',
      `${NET}[conv]\n[route]\nlayers=${'0,'.repeat(200_000)}0`,
      /at most 100000 layers to be named/,
    ],
    [
      'channels that double without end',
      `${NET}${'[route]\nlayers=-1,-1\n'.repeat(100).replace('-1,-1', '0').replace('[route]\nlayers=0', '[conv]\nfilters=2')}`,
      /layer \d+: expected sizes of up to 2147483647/,
    ],
    ['no channels', '[net]\n[conv]\nfilters=3', /sizes that leave none/],
    ['no filters', `${NET}[conv]\nfilters=x`, /sizes that leave none/],
    ['filters below zero', `${NET}[conv]\nfilters=-3`, /sizes that leave none/],
    ['groups that leave nothing', `${NET}[conv]\ngroups=9`, /sizes that leave none/],
    ['groups of none', `${NET}[conv]\ngroups=0`, /expected sizes of up to/],
    ['strides of none', `${NET}[maxpool]\nstride=0`, /expected sizes of up to/],
    [
      'filters that overflow',
      `${NET}[conv]\nfilters=99999999999`,
      /expected sizes of up to 2147483647, found 99999999999/,
    ],
    ['a reorganisation of none', `${NET}[reorg]\nstride=0`, /expected sizes of up to/],
  ])('%s', async (_, text, message) => {
    expect((await failureOf(() => readCfg(text, 'x.cfg'))).message).toMatch(message);
  });
});
