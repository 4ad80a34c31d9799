import { describe, expect, test } from 'vitest';
import { failureOf } from '../../build/failure.js';
import {
  dict,
  global,
  int,
  list,
  no,
  none,
  op,
  orderedDict,
  type Piece,
  tensor,
  text,
  yes,
} from './build/pickle-writer.js';
import { normLayer, open, valuesOf, zipCheckpoint } from './build/torch-files.js';

const STATE_DICT = orderedDict(normLayer('bn.'));
const HEAD = orderedDict({ 'fc.weight': tensor({ key: '0' }) });
const OPTIMIZER = dict({
  state: op('}K', 0, dict({ momentum_buffer: tensor({ key: '1' }), step: int(3) }), 's'),
  param_groups: list(dict({ lr: int(1) })),
});

const openRoot = (root: Piece, select?: string) => open(zipCheckpoint(root), select);
const namesOf = async (root: Piece, select?: string) => [...(await openRoot(root, select)).tensors.keys()];

const BN_NAMES = ['bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var'];

describe('the only part with norm layers is found by itself', () => {
  test.each<[string, Piece]>([
    ['a plain state dict', STATE_DICT],
    [
      'a Lightning checkpoint',
      dict({ epoch: int(3), 'pytorch-lightning_version': text('2.1'), state_dict: STATE_DICT }),
    ],
    ['a trainer dictionary', dict({ model: STATE_DICT, optimizer: OPTIMIZER, epoch: int(1) })],
    ['a deep one', dict({ checkpoint: dict({ state: dict({ network: STATE_DICT }) }) })],
    ['under a key that nobody knows', dict({ my_weights: STATE_DICT, note: none })],
    ['in a list', list(STATE_DICT)],
    [
      'an attribute of an unknown object',
      op(global('__main__', 'Trainer'), ')', 0x81, dict({ model_: STATE_DICT }), 'b'),
    ],
    ['beside another part without norm layers', dict({ head: HEAD, backbone: STATE_DICT })],
    ['with an optimizer that comes first', dict({ optimizer: OPTIMIZER, net: STATE_DICT })],
  ])('%s', async (_, root) => {
    expect(await namesOf(root)).toEqual(BN_NAMES);
  });

  test('prefixes of DataParallel and torch.compile stay in the names', async () => {
    expect((await namesOf(orderedDict(normLayer('module._orig_mod.bn.'))))[0]).toBe(
      'module._orig_mod.bn.weight',
    );
  });

  test('a single layer has the empty path', async () => {
    expect(await namesOf(orderedDict(normLayer('')))).toEqual([
      'weight',
      'bias',
      'running_mean',
      'running_var',
    ]);
  });

  test('nested dicts of layers are joined with dots, up to the model', async () => {
    const model = dict({
      encoder: dict({ conv: dict({ weight: tensor({ key: '0' }) }), bn: dict(normLayer('')) }),
    });
    const expected = ['encoder.conv.weight', ...BN_NAMES.map((name) => `encoder.${name}`)];
    expect(await namesOf(model)).toEqual(expected);
    expect(await namesOf(dict({ model, epoch: int(1) }))).toEqual(expected);
  });

  test('the same object under two keys is one part', async () => {
    expect(await namesOf(dict({ first: op(STATE_DICT, 'q', 9), second: op('h', 9) }))).toEqual(BN_NAMES);
  });
});

describe('several parts with norm layers', () => {
  test('the model is plain beside its running average, which a warning names', async () => {
    const averaged = orderedDict(normLayer('bn.', { key: '3' }));
    const root = dict({ state_dict: STATE_DICT, state_dict_ema: averaged });
    const checkpoint = await openRoot(root);
    expect(await valuesOf(checkpoint, 'bn.running_mean')).toEqual([-1, 0.5, 0.25, 8]);
    expect(checkpoint.warnings).toEqual([
      'state_dict was audited; state_dict_ema (1 norm layer) holds norm layers too and was left aside (--select state_dict_ema audits it)',
    ]);
    expect(await valuesOf(await openRoot(root, 'state_dict_ema'), 'bn.running_mean')).toEqual([1, 2, 4, 0.5]);
  });

  test('a generator and a discriminator are audited both, each under its key', async () => {
    const root = dict({
      generator: STATE_DICT,
      discriminator: orderedDict(normLayer('d.bn.')),
      epoch: int(1),
    });
    const checkpoint = await openRoot(root);
    expect([...checkpoint.tensors.keys()]).toEqual([
      ...BN_NAMES.map((name) => `generator.${name}`),
      ...BN_NAMES.map((name) => `discriminator.d.${name}`),
    ]);
    expect(checkpoint).toMatchObject({ parts: ['generator', 'discriminator'], warnings: [] });
    expect((await namesOf(root, 'discriminator'))[0]).toBe('d.bn.weight');
    expect((await openRoot(root, 'discriminator')).parts).toBeUndefined();
  });

  test('generators of nested dicts stay apart', async () => {
    const root = dict({
      generator: dict({ bn: dict(normLayer('')) }),
      discriminator: dict({ bn: dict(normLayer('')) }),
    });
    expect((await openRoot(root)).parts).toEqual(['generator', 'discriminator']);
    expect(await namesOf(root, 'generator')).toEqual(BN_NAMES);
  });

  test('a teacher that starts as the very object of the student is a network of its own', async () => {
    const root = dict({ student: op(STATE_DICT, 'q', 9), teacher: op('h', 9) });
    expect((await openRoot(root)).parts).toEqual(['student', 'teacher']);
  });

  test('an average of other tensors is no copy', async () => {
    const root = dict({ state_dict: STATE_DICT, state_dict_ema: orderedDict(normLayer('x.')) });
    expect(await openRoot(root)).toMatchObject({ parts: ['state_dict', 'state_dict_ema'], warnings: [] });
  });

  test('the wrapper of an averaged copy, and what it counts, make no difference', async () => {
    const averagedWith = (count: string) =>
      orderedDict({ [count]: tensor({ key: '0' }), ...normLayer('module.bn.') });
    const [torch, mmengine] = [averagedWith('n_averaged'), averagedWith('steps')];
    const { parts, copies } = await openRoot(dict({ model: STATE_DICT, torch_ema: torch, ema: mmengine }));
    expect(parts).toBeUndefined();
    expect(copies).toMatchObject([
      { path: 'torch_ema', of: 'model' },
      { path: 'ema', of: 'model' },
    ]);
  });

  test('a copy is opened in the place of its network, the others beside it', async () => {
    const root = dict({
      G: STATE_DICT,
      D: orderedDict(normLayer('d.')),
      G_ema: orderedDict(normLayer('bn.', { key: '3' })),
    });
    const { tensors, copies = [] } = await openRoot(root);
    const copy = await copies[0]?.open();
    expect([...(copy?.tensors.keys() ?? [])]).toEqual([...tensors.keys()]);
    expect(copy && (await valuesOf(copy, 'G.bn.running_mean'))).toEqual([1, 2, 4, 0.5]);
    expect(copy?.copies).toBeUndefined();
  });

  test('more networks than anyone trains at once are listed, and one must be chosen', async () => {
    const networks = Array.from({ length: 33 }, (_, at) => [`n${at}`, orderedDict(normLayer(`${at}.`))]);
    const failure = await failureOf(() => openRoot(dict(Object.fromEntries(networks))));
    expect(failure).toMatchObject({
      code: 'limit-exceeded',
      message: expect.stringContaining(
        'expected at most 32 parts with norm layers, found 33: n0 (1 norm layer)',
      ),
      hint: 'Name one with --select, such as --select n0.',
    });
  });

  const averagedAs = (key: string) =>
    dict({ model: STATE_DICT, [key]: orderedDict(normLayer('bn.', { key: '3' })) });

  test('names that could steer a terminal are quoted', async () => {
    expect((await openRoot(averagedAs('ema-\x1b[2J'))).warnings.join()).toContain(
      '"ema-\\x1b[2J" (1 norm layer)',
    );
  });

  test('a name is one word of the command that is proposed, whatever is in it', async () => {
    expect((await openRoot(averagedAs("ema-'; reboot '"))).warnings.join()).toContain(
      "--select 'ema-'\\''; reboot '\\'''",
    );
  });
});

describe('--select', () => {
  const root = dict({
    models: dict({ 'net.v1': STATE_DICT, 'net.v2': orderedDict(normLayer('v2.')) }),
    lr: int(1),
  });

  test('joins keys by dots or slashes, and finds keys that contain dots', async () => {
    expect(await namesOf(root, 'models.net.v1')).toEqual(BN_NAMES);
    expect(await namesOf(root, 'models/net.v2')).toEqual(BN_NAMES.map((name) => name.replace('bn', 'v2')));
  });

  test('an empty path is the whole checkpoint', async () => {
    expect((await namesOf(root, '.'))[0]).toBe('models.net.v1.bn.weight');
  });

  test('a path that leads nowhere lists what there is', async () => {
    expect(await failureOf(() => openRoot(root, 'model'))).toMatchObject({
      code: 'not-found',
      message: 'expected tensors at "model", found none there',
      hint: 'These parts hold norm layers: models.net.v1 (1 norm layer), models.net.v2 (1 norm layer).',
    });
  });

  test('a path that leads nowhere is passed over with a warning where there is no choice', async () => {
    const checkpoint = await openRoot(STATE_DICT, 'generator');
    expect(checkpoint.warnings).toEqual([
      'nothing with tensors is at "generator"; the checkpoint as a whole, the only part with norm layers, was audited',
    ]);
    expect(checkpoint.unselected).toEqual([]);
  });

  test('the one part that it could have named is told, and none where it named one', async () => {
    const nested = dict({ net: STATE_DICT, lr: int(1) });
    expect((await openRoot(nested, 'generator')).unselected).toEqual(['net']);
    expect((await openRoot(nested, 'net')).unselected).toBeUndefined();
    expect((await openRoot(nested)).unselected).toBeUndefined();
  });

  describe.each(['loss', 'scaler', 'criterion', 'metrics', 'history', 'lr_scheduler'])(
    'a part called %s',
    (name) => {
      const network = dict({ net: STATE_DICT, [name]: orderedDict(normLayer('vgg.')) });

      test('belongs to what was selected', async () => {
        const names = await namesOf(dict({ model: network, optimizer: OPTIMIZER }), 'model');
        expect(names).toEqual([
          ...BN_NAMES.map((leaf) => `net.${leaf}`),
          ...BN_NAMES.map((leaf) => `${name}.${leaf.replace('bn', 'vgg')}`),
        ]);
      });

      test('belongs to what was selected without norm layers too', async () => {
        const model = dict({ net: STATE_DICT, [name]: dict({ fc: HEAD }) });
        expect(await namesOf(dict({ model }), 'model')).toContain(`${name}.fc.fc.weight`);
      });

      test('belongs to a state dict that nobody selected where it holds norm layers', async () => {
        const root = { ...normLayer('bn.'), [name]: orderedDict(normLayer('vgg.')) };
        expect(await namesOf(orderedDict(root))).toContain(`${name}.vgg.running_mean`);
        const figures = { ...normLayer('bn.'), [name]: list(tensor({ key: '0' })) };
        expect(await namesOf(orderedDict(figures))).toEqual(BN_NAMES);
      });
    },
  );

  test('an optimizer is left out of what was selected', async () => {
    const run = dict({ net: STATE_DICT, optimizer: dict({ exp_avg: dict({ a: tensor({ key: '0' }) }) }) });
    expect(await namesOf(dict({ run }), 'run')).toEqual(BN_NAMES.map((leaf) => `net.${leaf}`));
  });
});

describe('bombs and cycles', () => {
  const beside = (bomb: Piece) => dict({ bomb, state_dict: STATE_DICT });

  test('a dict that holds itself', async () => {
    expect(
      await namesOf(op('}q', 98, '(', text('me'), 'h', 98, text('state_dict'), STATE_DICT, 'u')),
    ).toEqual(BN_NAMES);
  });

  test('a list that holds itself', async () => {
    expect(await namesOf(beside(op(']q', 98, 'h', 98, 'a')))).toEqual(BN_NAMES);
  });

  test('a billion laughs of lists', async () => {
    let bomb = op(']q', 100);
    for (let level = 1; level <= 30; level++)
      bomb = op(bomb, '0](', ...Array(10).fill(op('h', 99 + level)), 'eq', 100 + level);
    expect(await namesOf(beside(bomb))).toEqual(BN_NAMES);
  });

  test('a billion laughs of tensors ends at a limit', async () => {
    let bomb = op(dict({ t: tensor({ key: '0' }) }), 'q', 100);
    for (let level = 1; level <= 30; level++) {
      const copies = Array.from({ length: 10 }, (_, i) => op(text(`k${i}`), 'h', 99 + level));
      bomb = op(bomb, '0}(', ...copies, 'uq', 100 + level);
    }
    expect((await failureOf(() => openRoot(bomb))).code).toBe('limit-exceeded');
  }, 60_000);

  test('lists nested a hundred thousand deep', async () => {
    const deep = op(']'.repeat(100_000), 'a'.repeat(99_999));
    expect(await namesOf(beside(deep))).toEqual(BN_NAMES);
  });
});

describe('what is no norm layer does not compete', () => {
  test('normalisers of observations', async () => {
    const normaliser = dict({
      running_mean: tensor({ key: '2' }),
      running_var: tensor({ key: '3' }),
      count: tensor({ key: '0' }),
    });
    expect(await namesOf(dict({ running_mean_std: normaliser, model: STATE_DICT }))).toEqual(BN_NAMES);
  });

  test('without any norm layer, the part under a well-known key is taken, never the optimizer', async () => {
    expect(
      await namesOf(dict({ optimizer: OPTIMIZER, model: HEAD, extra: dict({ x: tensor({ key: '1' }) }) })),
    ).toEqual(['fc.weight']);
  });

  test('keys that are no strings stay out', async () => {
    expect(await namesOf(op(orderedDict(normLayer('bn.')), 'K', 5, tensor({ key: '0' }), 's'))).toEqual(
      BN_NAMES,
    );
  });

  test('a checkpoint without tensors is refused', async () => {
    expect((await failureOf(() => openRoot(dict({ a: yes, b: no })))).message).toBe(
      'expected tensors in the PyTorch checkpoint, found none',
    );
  });
});

test('the originals beside modules that PEFT trains are counted in no copy', async () => {
  const named = orderedDict({
    ...normLayer('bn1.original_module.'),
    ...normLayer('bn1.modules_to_save.default.'),
    ...normLayer('bn2.'),
  });
  const wrapper = dict({
    original_module: orderedDict(normLayer('')),
    modules_to_save: dict({ default: orderedDict(normLayer('')) }),
  });
  const tree = dict({ bn1: wrapper, bn2: orderedDict(normLayer('')) });
  for (const network of [named, tree]) {
    const { warnings } = await openRoot(dict({ model: network, model_ema: network }));
    expect(warnings[0]).toContain('model_ema (2 norm layers) holds norm layers too');
  }
});
