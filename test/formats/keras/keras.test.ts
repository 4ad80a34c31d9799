import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deflateSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { audit } from '../../../src/audit.js';
import { openCheckpoint, openSource } from '../../../src/formats/open.js';
import { inspect } from '../../../src/inspect.js';
import { holdBytes, memorySource, readRange } from '../../../src/io/byte-source.js';
import { restore } from '../../../src/restore/restore.js';
import { bytesOf, f32, u64 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { floats, type Hdf5Message, hdf5Bytes, link, textAttribute } from '../../build/hdf5.js';
import { makeTempDirectory } from '../../build/sources.js';
import { zip } from '../torch/build/zip-writer.js';

const fixtures = fileURLToPath(new URL('../../../fixtures/keras/', import.meta.url));
const open = (name: string) => openCheckpoint(`${fixtures}${name}`);
const openBytes = (bytes: Uint8Array, name = 'm.h5') => openSource(memorySource(name, bytes), name);

describe('one model, saved in every way that Keras knows', () => {
  test.each(['before.keras', 'before.h5', 'after.keras', 'after.h5'])(
    '%s holds the tensors that its variables are, by their paths',
    async (name) => {
      const [found, wanted] = await Promise.all([open(name), open(`${name.split('.')[0]}.safetensors`)]);
      expect([...found.tensors.keys()].sort()).toEqual([...wanted.tensors.keys()].sort());
      for (const [path, { range, dtype, shape }] of wanted.tensors) {
        const tensor = found.tensors.get(path);
        expect(tensor).toMatchObject({ dtype, shape });
        expect(tensor && (await readRange(tensor.range))).toEqual(await readRange(range));
      }
    },
  );

  test('weights alone tell the same; whether a lone affine is γ or β, its values do', async () => {
    const [found, wanted] = await Promise.all([open('before.weights.h5'), open('before.safetensors')]);
    expect([...found.tensors.keys()].sort()).toEqual([...wanted.tensors.keys()].sort());
    expect(found.warnings).toEqual([
      'whether the lone affine of 3 norm layers is γ or β was told from its values, such as "bn_b/beta"',
    ]);
  });

  test.each(['.keras', '.h5', '.weights.h5', '-ckpt'])(
    'the leak is found in before%s as in safetensors, layer by layer',
    async (ending) => {
      // ε is known in some of the files only.
      const run = async (end: string) => {
        const { layers } = await audit(`${fixtures}before${end}`, `${fixtures}after${end}`, {
          epsilon: 1e-3,
        });
        return layers.map(({ name, status, outputShift }) => `${name} ${status} ${outputShift}`).sort();
      };
      const found = await run(ending);
      // What Keras does not show to TensorFlow: norm layers in a plain list.
      const wanted = (await run('.safetensors')).filter(
        (row) => ending !== '-ckpt' || !row.startsWith('block'),
      );
      expect(found.length).toBeGreaterThan(2);
      expect(found.every((row) => row.includes('drifted'))).toBe(true);
      expect(found).toEqual(wanted);
    },
  );

  test.each([
    ['h5', 'keras'],
    ['weights.h5', 'keras'],
    ['keras', 'weights.h5'],
  ])('.%s before and .%s after', async (one, other) => {
    const { layers, verdict } = await audit(`${fixtures}before.${one}`, `${fixtures}after.${other}`);
    expect(layers.map(({ status }) => status)).toEqual(Array(5).fill('drifted'));
    expect(verdict).toBe('drifted');
  });

  test.each(['before.keras', 'before.h5'])(
    '%s: the configuration tells ε, momentum and what is frozen',
    async (name) => {
      const { layers } = await inspect(`${fixtures}${name}`);
      const facts = layers.map((layer) => [layer.name, layer.epsilon, layer.momentum]);
      expect(facts).toContainEqual(['bn_b', 1e-5, 0.1]);
      expect(facts).toContainEqual(['bn_c', 1e-3, 0.2]);
      expect((await open(name)).declarations).toEqual([
        expect.objectContaining({ kind: 'paths', by: 'keras-trainable', paths: ['conv_b', 'sep'] }),
      ]);
    },
  );

  test('a freeze that the file declares is said', async () => {
    const report = await audit(`${fixtures}before.keras`, `${fixtures}after.keras`, { frozen: ['auto'] });
    expect(report.warnings).toContain('declared frozen: 4 of 16 parameters (trainable=False)');
  });
});

describe('weights in shards', () => {
  const named = (name: string) => readFileSync(`${fixtures}sharded/${name}`);
  /** A copy of the fixture with another index, and other files if need be. */
  function writeShards(weightMap: unknown, files: Readonly<Record<string, Uint8Array>> = {}): string {
    const directory = makeTempDirectory();
    const shards = { 'a.weights.h5': named(SHARD_NAMES[0]), 'b.weights.h5': named(SHARD_NAMES[1]), ...files };
    for (const [name, bytes] of Object.entries(shards)) writeFileSync(join(directory, name), bytes);
    writeFileSync(join(directory, 'model.weights.json'), JSON.stringify({ weight_map: weightMap }));
    return directory;
  }
  const SHARD_NAMES = ['model_00000.weights.h5', 'model_00001.weights.h5'] as const;
  const [dense, norm, last] = ['dense', 'batch_normalization', 'dense_1'].map(
    (layer) => `/layers/${layer}/vars`,
  ) as [string, string, string];
  const [a, b] = ['a.weights.h5', 'b.weights.h5'];
  const whole = { [dense]: a, [norm]: [a, b], [last]: [b] };

  test.each(['sharded', 'sharded/model.weights.json'])('%s holds the tensors of the model', async (name) => {
    const [found, wanted] = [await open(name), await open('sharded/expected.safetensors')];
    expect([...found.tensors.keys()].sort()).toEqual([...wanted.tensors.keys()].sort());
    for (const [path, { range }] of wanted.tensors) {
      const tensor = found.tensors.get(path);
      expect(tensor && (await readRange(tensor.range))).toEqual(await readRange(range));
    }
    expect(found).toMatchObject({ format: 'Keras', framework: 'keras', warnings: [] });
    await found.close();
  });

  test('restore writes the shards that hold statistics, and copies the others', async () => {
    const after = writeShards(whole, { [b]: named(SHARD_NAMES[1]) });
    const bytes = Uint8Array.from(named(SHARD_NAMES[1]));
    const mean = f32(2.5, 3.5, 4.5, 5.5);
    const at = Buffer.from(bytes).indexOf(mean);
    bytes.set(f32(9, 9, 9, 9), at);
    writeFileSync(join(after, b), bytes);
    const output = join(makeTempDirectory(), 'fixed');
    await restore(`${fixtures}sharded`, after, output);
    const restored = await openCheckpoint(output);
    const tensor = restored.tensors.get('sequential/bn/moving_mean');
    expect(tensor && (await readRange(tensor.range))).toEqual(mean);
    await restored.close();
  });

  test.each<readonly [what: string, weightMap: unknown, words: string]>([
    ['a group that is not there', { ...whole, '/layers/x/vars': [a] }, 'expected "/layers/x/vars" in shard'],
    ['another shard', { ...whole, [last]: [a] }, 'expected "/layers/dense_1/vars" in shard "a.weights.h5"'],
    ['a shard that is no file name', { [dense]: [7] }, 'expected a file name for tensor'],
    ['a shard outside', { [dense]: '../a.weights.h5' }, 'leads out of the directory by ".."'],
    ['an absolute path', { [dense]: '/etc/a.h5' }, 'has an absolute path'],
    ['another kind of file', { [dense]: a, [norm]: 'x.weights.h5".bin' }, 'another extension than .h5'],
    ['no shard', { [dense]: [], [norm]: [] }, 'expected a file name for tensor'],
  ])('an index that names %s', async (_, weightMap, words) => {
    const run = () => inspect(writeShards(weightMap));
    expect((await failureOf(run)).message).toContain(words);
  });

  test('a variable in two shards, and one in none that the index names', async () => {
    const first = named(SHARD_NAMES[0]);
    const twice = writeShards({ [dense]: [a, b], [norm]: a }, { [a]: first, [b]: first });
    expect((await failureOf(() => openCheckpoint(twice))).message).toContain(
      'expected "layers/dense/vars/0" in one shard, found it in several',
    );
    const { warnings, tensors, close } = await openCheckpoint(writeShards({ [norm]: [a, b] }));
    await close();
    expect(tensors.size).toBe(4);
    expect(warnings).toEqual([
      '4 tensors in the shards are not in the index and were left out: "layers/dense/vars/0", "layers/dense/vars/1", "layers/dense_1/vars/0", …',
    ]);
  });

  test('what a group is in one shard and a dataset in the other', async () => {
    const group = hdf5Bytes({ root: [link('x', 'x')], x: [link('y', 'y')], y: floats([1], f32(1)) });
    const dataset = hdf5Bytes({ root: [link('x', 'x')], x: floats([1], f32(1)) });
    const directory = writeShards({ '': [b], '/x': [a] }, { [a]: group, [b]: dataset });
    expect((await failureOf(() => openCheckpoint(directory))).message).toContain(
      'to be one thing, found two',
    );
  });

  test('limits hold for all shards together', async () => {
    const long = 'x'.repeat(60_000);
    const shard = hdf5Bytes({
      root: Array.from({ length: 20 }, (_, index) => link(`${index}`, 'a')),
      a: [textAttribute(long.slice(0, 10), [long])],
    });
    const names = Array.from({ length: 60 }, (_, index) => `s${index}.weights.h5`);
    const directory = writeShards({ '': names }, Object.fromEntries(names.map((name) => [name, shard])));
    expect((await failureOf(() => openCheckpoint(directory))).message).toContain(
      'expected attributes of at most 67108864 bytes in all',
    );
  });
});

test('weights of Keras 2 alone: a group a layer, long lists of names in several attributes', async () => {
  const bytes = hdf5Bytes({
    root: [
      textAttribute('layer_names0', ['a']),
      textAttribute('layer_names1', ['b']),
      link('a', 'a'),
      link('b', 'b'),
    ],
    a: [textAttribute('weight_names', ['bn/gamma:0']), link('bn', 'bnA')],
    bnA: [link('gamma:0', 'gamma')],
    b: [textAttribute('weight_names', ['bn/gamma:0', 'out/bias:0']), link('bn', 'bnB'), link('out', 'out')],
    bnB: [link('gamma:0', 'gamma')],
    out: [link('bias:0', 'gamma')],
    gamma: floats([1], f32(1)),
  });
  expect([...(await openBytes(bytes)).tensors.keys()]).toEqual([
    'a/bn/gamma:0',
    'b/bn/gamma:0',
    'out/bias:0',
  ]);
});

test.each([
  [
    'a layer that is not there',
    ['a', 'b'],
    ['gamma:0'],
    'expected a group "b", which the file lists, found none',
  ],
  ['a variable that is not there', ['a'], ['gamma:0', 'beta:0'], 'expected a dataset "beta:0", which'],
  [
    'a layer twice',
    ['a', '/a'],
    ['gamma:0'],
    'group "/a", which the file lists, found it under another name',
  ],
  ['a variable twice', ['a'], ['gamma:0', '/gamma:0'], 'dataset "/gamma:0", which the file lists, found it'],
])('weights of Keras 2 that list %s are refused', async (_, layers, names, words) => {
  const bytes = hdf5Bytes({
    root: [textAttribute('layer_names', layers), link('a', 'a')],
    a: [textAttribute('weight_names', names), link('gamma:0', 'gamma')],
    gamma: floats([1], f32(1)),
  });
  expect((await failureOf(() => openBytes(bytes))).message).toContain(words);
});

test('layers whose names are long as texts may be', async () => {
  const root = Array.from(
    { length: 28 },
    (_, index) => [`layers/${'d/layers/'.repeat(index)}d`, [1]] as const,
  );
  const names = Object.fromEntries(root.map(([path]) => [path, 'x'.repeat(60_000)]));
  const failure = await failureOf(() => openBytes(numberedBytes(Object.fromEntries(root), names)));
  expect(failure.message).toContain('paths of variables of at most 16777216 characters in all');
});

test('values that tell γ from β are not inflated from next to nothing', async () => {
  const count = 2 ** 24;
  const packed = deflateSync(new Uint8Array(4 * count), { level: 9 });
  const [, type] = floats([1], f32(1));
  if (type === undefined) throw new Error('no message');
  const vector = (address: number): Hdf5Message[] => [
    [0x01, bytesOf(2, 1, 0, 1, u64(count))],
    type,
    [0x08, bytesOf(4, 2, 2, 2, 8, u64(count), u64(4), 1, u64(packed.length), 0, 0, 0, 0, u64(address))],
    [0x0b, bytesOf(2, 1, 1, 0, 0, 0, 1, 0, 9, 0, 0, 0)],
  ];
  const objects = (address: number) => ({
    root: [link('layers', 'layers')],
    layers: [link('batch_normalization', 'layer')],
    layer: [link('vars', 'vars')],
    vars: [link('0', 'vector'), link('1', 'vector'), link('2', 'vector')],
    vector: vector(address),
  });
  const bytes = bytesOf(hdf5Bytes(objects(hdf5Bytes(objects(0)).length)), packed);
  expect((await failureOf(() => openBytes(bytes))).code).toBe('limit-exceeded');
});

describe('Keras 2', () => {
  test('.h5', async () => {
    const { tensors } = await open('keras2.h5');
    expect([...tensors.keys()].sort()).toEqual([
      'bn_in/beta:0',
      'bn_in/gamma:0',
      'bn_in/moving_mean:0',
      'bn_in/moving_variance:0',
      'fc_in/bias:0',
      'fc_in/kernel:0',
      'out/bias:0',
      'out/kernel:0',
    ]);
  });

  test('.keras: numbered variables, layers by class', async () => {
    const { tensors, inModuleOrder } = await open('keras2.keras');
    expect([...tensors.keys()]).toEqual([
      'fc_in/kernel',
      'fc_in/bias',
      'bn_in/gamma',
      'bn_in/beta',
      'bn_in/moving_mean',
      'bn_in/moving_variance',
      'out/kernel',
      'out/bias',
    ]);
    expect(inModuleOrder).toBe(true);
  });

  test('what was frozen in a model within the model', async () => {
    const { declarations } = await open('keras2.h5');
    expect(declarations).toEqual([expect.objectContaining({ where: 'model_config', paths: ['fc_in'] })]);
  });
});

/** A file of numbered variables: for each layer, by its path in the file, the lengths of its vectors. */
function numberedBytes(
  layers: Readonly<Record<string, readonly number[]>>,
  names: Readonly<Record<string, string>> = {},
) {
  const objects: Record<string, Hdf5Message[]> = { root: [] };
  const groupAt = (path: string): Hdf5Message[] => {
    const known = objects[path === '' ? 'root' : path];
    if (known !== undefined) return known;
    const slash = path.lastIndexOf('/');
    groupAt(path.slice(0, Math.max(0, slash))).push(link(path.slice(slash + 1), path));
    const made: Hdf5Message[] = [[0x0a, Uint8Array.of(0, 0)]];
    objects[path] = made;
    return made;
  };
  for (const [path, lengths] of Object.entries(layers)) {
    const vars = groupAt(path === '' ? 'vars' : `${path}/vars`);
    if (names[path] !== undefined) vars.push(textAttribute('name', [names[path]]));
    for (const [index, length] of lengths.entries()) {
      vars.push(link(String(index), `${path}#${index}`));
      objects[`${path}#${index}`] = [...floats([length], f32(...Array(length).fill(1)))];
    }
  }
  return hdf5Bytes(objects);
}

describe('names of numbered variables', () => {
  const namesIn = async (bytes: Uint8Array) => [...(await openBytes(bytes)).tensors.keys()];

  test('layers of one name in two models are told apart by these', async () => {
    const names = { 'layers/functional': 'left', 'layers/functional_1': 'right', '': 'both' };
    const inner = (model: string) => ({
      [`layers/${model}/layers/batch_normalization`]: [2, 2, 2, 2],
      [`layers/${model}`]: [],
    });
    const bytes = numberedBytes({ '': [], ...inner('functional'), ...inner('functional_1') }, names);
    expect((await namesIn(bytes)).filter((name) => name.endsWith('mean'))).toEqual([
      'left/batch_normalization/moving_mean',
      'right/batch_normalization/moving_mean',
    ]);
  });

  test('without names, layers bear those of the file', async () => {
    const bytes = numberedBytes({
      'layers/batch_normalization_1': [3, 3, 3, 3],
      'layers/layer_normalization': [3, 3],
    });
    expect(await namesIn(bytes)).toEqual([
      'batch_normalization_1/gamma',
      'batch_normalization_1/beta',
      'batch_normalization_1/moving_mean',
      'batch_normalization_1/moving_variance',
      'layer_normalization/gamma',
      'layer_normalization/beta',
    ]);
  });

  test('a norm layer without affine is told by its class', async () => {
    const bytes = numberedBytes({ 'layers/batch_normalization': [3, 3] });
    expect(await namesIn(bytes)).toEqual([
      'batch_normalization/moving_mean',
      'batch_normalization/moving_variance',
    ]);
  });

  test('a class of one’s own with a norm layer’s variables is one', async () => {
    const bytes = numberedBytes({ 'layers/frozen_norm': [3, 3, 3, 3] });
    expect((await namesIn(bytes)).slice(2)).toEqual([
      'frozen_norm/moving_mean',
      'frozen_norm/moving_variance',
    ]);
  });

  test('a Normalization is no norm layer', async () => {
    const bytes = numberedBytes({ 'layers/normalization': [3, 3, 1] });
    expect(await namesIn(bytes)).toEqual([
      'normalization/mean',
      'normalization/variance',
      'normalization/count',
    ]);
  });

  test('attributes of a class of one’s own', async () => {
    const bytes = numberedBytes(
      { 'net/norm': [2, 2, 2, 2], net: [], 'net/items/thing': [5] },
      { net: 'net', 'net/norm': 'bn_7', 'net/items/thing': 'thing' },
    );
    expect(await namesIn(bytes)).toEqual([
      'net/bn_7/gamma',
      'net/bn_7/beta',
      'net/bn_7/moving_mean',
      'net/bn_7/moving_variance',
      'net/thing/0',
    ]);
  });

  test('batch renormalisation keeps three statistics more, which no optimizer changes', async () => {
    const bytes = numberedBytes({ 'layers/batch_normalization': [2, 2, 2, 2, 2, 2, 2] });
    expect((await namesIn(bytes)).slice(4)).toEqual([
      'batch_normalization/moving_stddev',
      'batch_normalization/renorm_mean',
      'batch_normalization/renorm_stddev',
    ]);
  });

  test('a layer with dots in its name has dotted names', async () => {
    const bytes = numberedBytes(
      { 'layers/batch_normalization': [2, 2, 2, 2] },
      { 'layers/batch_normalization': 'block1.bn' },
    );
    expect((await namesIn(bytes))[0]).toBe('block1.bn.gamma');
  });

  test('the optimizer is left out', async () => {
    const bytes = numberedBytes({ 'layers/dense': [2], optimizer: [1, 1] });
    expect(await namesIn(bytes)).toEqual(['dense/0']);
  });
});

describe('a .keras archive', () => {
  const archive = (config: string, weights = numberedBytes({ 'layers/batch_normalization': [2, 2, 2] })) =>
    zip([
      { name: 'metadata.json', bytes: Buffer.from('{}') },
      { name: 'config.json', bytes: Buffer.from(config) },
      { name: 'model.weights.h5', bytes: weights },
    ]);
  const layer = (settings: object) =>
    JSON.stringify({
      class_name: 'Functional',
      config: {
        name: 'net',
        layers: [{ class_name: 'BatchNormalization', config: { name: 'bn', ...settings } }],
      },
    });

  test('scale=False and center=False are told apart', async () => {
    const first = async (settings: object) =>
      [...(await openBytes(archive(layer(settings)))).tensors.keys()][0];
    expect(await first({ scale: false, center: true })).toBe('bn/beta');
    expect(await first({ scale: true, center: false })).toBe('bn/gamma');
  });

  test.each([
    '{',
    '[]',
    '{"class_name": 7}',
    '"text"',
    '{"class_name": "Functional", "config": null}',
    '{"x": NaN}',
  ])('whose configuration is %s is read without it', async (config) => {
    const { tensors } = await openBytes(archive(config));
    expect([...tensors.keys()][0]).toBe('batch_normalization/gamma');
  });

  test('an ε that is no number is not known', async () => {
    const { modules } = await openBytes(
      archive(layer({}).replace('"name":"bn"', '"name":"bn","epsilon":1e999')),
    );
    expect(modules.size).toBe(0);
  });

  test('a model that is frozen as a whole declares nothing: so is one for inference', async () => {
    expect((await openBytes(archive(layer({ trainable: false })))).declarations).toEqual([]);
  });
});

test('an HDF5 file that Keras did not write is read by the paths of its datasets', async () => {
  const bytes = hdf5Bytes({
    root: [link('net', 'net')],
    net: [link('running_mean', 'mean'), link('running_var', 'var')],
    mean: floats([2], f32(1, 2)),
    var: floats([2], f32(1, 2)),
  });
  const { tensors } = await openBytes(bytes);
  expect([...tensors.keys()]).toEqual(['net/running_mean', 'net/running_var']);
});

describe('restore', () => {
  test.each(['keras', 'h5'])(
    'writes .%s with the statistics of before and all else of after',
    async (ending) => {
      const directory = makeTempDirectory();
      const output = `${directory}/fixed.${ending}`;
      await restore(`${fixtures}before.${ending}`, `${fixtures}after.${ending}`, output);
      const [before, after, fixed] = await Promise.all(
        [`${fixtures}before.${ending}`, `${fixtures}after.${ending}`, output].map((path) =>
          openCheckpoint(path),
        ),
      );
      for (const [name, { range }] of fixed?.tensors ?? []) {
        const wanted = name.includes('moving_') ? before : after;
        const tensor = wanted?.tensors.get(name);
        expect(tensor && (await readRange(tensor.range))).toEqual(await readRange(range));
      }
    },
  );

  test('not where they are put together of chunks', async () => {
    const { planEdits, tensors } = await open('storage/gzip.h5');
    const tensor = tensors.get('layer/kernel');
    if (tensor === undefined) throw new Error('no kernel');
    const content = holdBytes(new Uint8Array(tensor.range.byteLength));
    const failure = await failureOf(() => planEdits?.([{ tensor, content, preferredName: 'kernel' }]));
    expect(failure.message).toContain('is computed and stands in no file as such');
  });
});
