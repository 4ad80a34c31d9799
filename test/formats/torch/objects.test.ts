import { describe, expect, test } from 'vitest';
import {
  dict,
  float,
  global,
  list,
  no,
  none,
  op,
  orderedDict,
  type Piece,
  reduce,
  tensor,
  text,
  tuple,
  yes,
} from './build/pickle-writer.js';
import { open, valuesOf, zipCheckpoint } from './build/torch-files.js';

interface ModulePiece {
  readonly parameters?: Record<string, Piece>;
  readonly buffers?: Record<string, Piece>;
  readonly modules?: Record<string, Piece>;
  readonly attributes?: Record<string, Piece>;
}

/** A pickled nn.Module, as torch.save(model) writes it. */
function module(
  type: Piece,
  { parameters = {}, buffers = {}, modules = {}, attributes = {} }: ModulePiece,
): Piece {
  const state = dict({
    training: no,
    _parameters: orderedDict(parameters),
    _buffers: orderedDict(buffers),
    _modules: orderedDict(modules),
    ...attributes,
  });
  return op(type, ')', 0x81, state, 'b');
}

const parameter = (key: string, requiresGrad: boolean) =>
  reduce(
    global('torch._utils', '_rebuild_parameter'),
    tuple(tensor({ key }), requiresGrad ? yes : no, orderedDict({})),
  );

function batchNorm(attributes: Record<string, Piece>): Piece {
  return module(global('torch.nn.modules.batchnorm', 'BatchNorm2d'), {
    parameters: { weight: parameter('0', false), bias: parameter('1', true) },
    buffers: { running_mean: tensor({ key: '2' }), running_var: tensor({ key: '3' }) },
    attributes: { eps: float(0.001), momentum: none, track_running_stats: yes, ...attributes },
  });
}

const net = (layer: Piece) =>
  module(global('__main__', 'Net'), { parameters: { scale: none }, modules: { stem: layer, act: none } });

describe('a whole pickled module', () => {
  test('gives the names that its state dict would have', async () => {
    const checkpoint = await open(zipCheckpoint(net(batchNorm({}))));
    expect([...checkpoint.tensors.keys()]).toEqual([
      'stem.weight',
      'stem.bias',
      'stem.running_mean',
      'stem.running_var',
    ]);
    expect(await valuesOf(checkpoint, 'stem.running_mean')).toEqual([-1, 0.5, 0.25, 8]);
  });

  test('tells class, epsilon, momentum, tracking and mode of each module', async () => {
    const checkpoint = await open(zipCheckpoint(net(batchNorm({ training: yes, momentum: float(0.25) }))));
    expect(checkpoint.modules.get('stem')).toEqual({
      className: 'BatchNorm2d',
      epsilon: 0.001,
      momentum: 0.25,
      trackRunningStats: true,
      training: true,
      version: null,
    });
    expect(checkpoint.modules.get('')?.className).toBe('Net');
  });

  test('momentum None is a cumulative average', async () => {
    const checkpoint = await open(zipCheckpoint(net(batchNorm({}))));
    expect(checkpoint.modules.get('stem')?.momentum).toBe('cumulative');
  });

  test('tells which parameters were frozen, and which tensors are buffers', async () => {
    const { tensors } = await open(zipCheckpoint(net(batchNorm({}))));
    expect(tensors.get('stem.weight')).toMatchObject({ requiresGrad: false, isBuffer: false });
    expect(tensors.get('stem.bias')).toMatchObject({ requiresGrad: true, isBuffer: false });
    expect(tensors.get('stem.running_mean')).toMatchObject({ isBuffer: true });
  });

  test('leaves out buffers that a state dict would not hold', async () => {
    const excluded = reduce(global('__builtin__', 'set'), tuple(list(text('cache'))));
    const layer = module(global('__main__', 'Cached'), {
      buffers: { cache: tensor({ key: '0' }), kept: tensor({ key: '1' }) },
      attributes: { _non_persistent_buffers_set: excluded },
    });
    expect([...(await open(zipCheckpoint(net(layer)))).tensors.keys()]).toEqual(['stem.kept']);
  });

  test('a module that is used twice has both names', async () => {
    const shared = module(global('__main__', 'Net'), {
      modules: { a: op(batchNorm({}), 'q', 77), b: op('h', 77) },
    });
    const names = [...(await open(zipCheckpoint(shared))).tensors.keys()];
    expect(names.filter((name) => name.endsWith('running_mean'))).toEqual([
      'a.running_mean',
      'b.running_mean',
    ]);
  });

  test('a module that contains itself ends', async () => {
    const cyclic = op(
      op(global('__main__', 'Net'), ')', 0x81, 'q', 78),
      dict({
        _parameters: orderedDict({}),
        _buffers: orderedDict({}),
        _modules: orderedDict({ bn: batchNorm({}), me: op('h', 78) }),
      }),
      'b',
    );
    expect((await open(zipCheckpoint(cyclic))).tensors.size).toBe(4);
  });

  test('beside its optimizer in a dictionary', async () => {
    const checkpoint = await open(zipCheckpoint(dict({ model: net(batchNorm({})), optimizer: dict({}) })));
    expect(checkpoint.tensors.has('stem.running_var')).toBe(true);
  });
});
