import { describe, expect, test } from 'vitest';
import { JsonReader, type JsonValue } from '../../../src/checkpoint/json-reader.js';
import { openSource } from '../../../src/formats/open.js';
import { readExportedWeights } from '../../../src/formats/torch/exported-program.js';
import { readLayout, type TensorLayout } from '../../../src/formats/torch/tensors.js';
import { memorySource } from '../../../src/io/byte-source.js';
import { utf8 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { zip } from './build/zip-writer.js';

const SIZE = (...sizes: number[]) => sizes.map((size) => ({ as_int: size }));

/** A weight as torch.export lists it. */
const weightOf = (changes: object = {}, meta: object = {}) => ({
  path_name: 'weight_0',
  is_param: true,
  use_pickle: false,
  tensor_meta: {
    dtype: 7,
    sizes: SIZE(2, 3),
    strides: SIZE(1, 2),
    storage_offset: { as_int: 1 },
    requires_grad: false,
    ...meta,
  },
  ...changes,
});

const records = {
  file: 'm.pt2',
  keyOf: (record: string) => `weights/${record}`,
  byteLengthOf: (key: string) => (key === 'weights/weight_0' ? 64 : undefined),
};

function parse(value: unknown): JsonValue | undefined {
  let found: JsonValue | undefined;
  new JsonReader(utf8(JSON.stringify({ config: value })), 'm.pt2').readTopObject((_, config) => {
    found = config;
  });
  return found;
}

function read(weights: unknown) {
  const root = readExportedWeights(parse(weights), records);
  if (typeof root !== 'object' || root === null || !('kind' in root) || root.kind !== 'dict')
    throw new Error('expected a dict');
  return new Map(
    [...root.entries].map(([name, call]) => {
      if (typeof call !== 'object' || call === null || !('kind' in call) || call.kind !== 'object')
        throw new Error('expected a call');
      return [name, readLayout(call, String(name), 'm.pt2')];
    }),
  );
}

describe('the weights of an exported program', () => {
  test('are parameters with their sizes, strides, offset and flag', () => {
    const layout = read({ 'conv.weight': weightOf() }).get('conv.weight');
    expect(layout).toMatchObject({
      kind: 'layout',
      dtype: 'F32',
      shape: [2, 3],
      strides: [1, 2],
      firstElement: 1,
      parameterRequiresGrad: false,
    });
    expect((layout as TensorLayout).storage).toMatchObject({ key: 'weights/weight_0', elementCount: 64 });
  });

  test('are buffers without a flag', () => {
    expect(read({ mean: weightOf({ is_param: false }) }).get('mean')).toMatchObject({
      parameterRequiresGrad: null,
    });
  });

  test('that are pickled, or of a type without a name here, are named and not read', () => {
    const found = read({ a: weightOf({ use_pickle: true }), b: weightOf({}, { dtype: 11 }) });
    expect([...found.values()].map(({ kind }) => kind)).toEqual(['unreadable', 'unreadable']);
  });

  test.each<[string, weights: unknown, said: string]>([
    ['without a config', undefined, 'expected a "config" of weights'],
    ['that are numbers', { w: 3 }, 'expected a record, sizes and strides for the weight "w"'],
    ['without a record', { w: weightOf({ path_name: null }) }, 'expected a record, sizes and strides'],
    [
      'whose sizes are symbols',
      { w: weightOf({}, { sizes: [{ as_expr: 's0' }] }) },
      'expected a record, sizes',
    ],
    [
      'that begin before their record',
      { w: weightOf({}, { storage_offset: { as_int: -4 } }) },
      'expected where the weight "w" begins',
    ],
    ['whose record is missing', { w: weightOf({ path_name: 'weight_9' }) }, 'expected the record "weight_9"'],
  ])('%s are refused', async (_, weights, said) => {
    expect(await failureOf(() => readExportedWeights(parse(weights), records))).toMatchObject({
      code: 'malformed',
      file: 'm.pt2',
      message: expect.stringContaining(said),
    });
  });
});

describe('an archive', () => {
  const config = (...names: readonly string[]) =>
    utf8(JSON.stringify({ config: Object.fromEntries(names.map((name) => [name, weightOf()])) }));
  const openArchive = (files: Readonly<Record<string, Uint8Array>>) =>
    openSource(
      memorySource(
        'm.pt2',
        zip(Object.entries(files).map(([name, data]) => ({ name: `m/${name}`, bytes: data }))),
      ),
      'm.pt2',
    );

  test('of several programs holds the weights of all', async () => {
    const { tensors } = await openArchive({
      'data/weights/weight_0': new Uint8Array(64),
      'data/weights/a_weights_config.json': config('bn.running_mean', 'bn.running_var'),
      'data/weights/b_weights_config.json': config('bn.running_mean', 'bn.running_var'),
    });
    expect([...tensors.keys()]).toEqual(
      ['a', 'b'].flatMap((name) => [`${name}.bn.running_mean`, `${name}.bn.running_var`]),
    );
  });

  test('of several state dicts is refused', async () => {
    const files = { 'data/weights/a.pt': utf8('a'), 'data/weights/b.pt': utf8('b') };
    expect((await failureOf(() => openArchive(files))).message).toContain('expected one state dict');
  });
});
