import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../../src/audit.js';
import { openCheckpoint } from '../../../src/formats/open.js';
import { type RestoreOptions, restore } from '../../../src/restore/restore.js';
import { bytesOf } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { makeTempDirectory } from '../../build/sources.js';
import {
  attribute,
  call,
  FLOAT,
  FLOAT16,
  field,
  fixed32,
  floats,
  type GraphParts,
  graph,
  INT64,
  int,
  integers,
  localFunction,
  type ModelParts,
  model,
  node,
  norm,
  normTensors,
  tensor,
  varint,
  vector,
} from './build-onnx.js';
import { statisticsOf } from './open.js';

const directory = makeTempDirectory();
let runs = 0;

/** A norm node over names of the test's choice. */
function normOver(path: string, mean: string, variance = `${path}.running_var`): Uint8Array {
  return node('BatchNormalization', ['x', `${path}.weight`, `${path}.bias`, mean, variance], [`${path}.y`], {
    name: path,
  });
}

/** The affine and the variance of norm layers, which never move here. */
function still(...paths: readonly string[]): readonly Uint8Array[] {
  return paths.flatMap((path) => normTensors(path).filter((_, index) => index !== 2));
}

/** Before: the norm layers `a` and `b` with statistics of their own. */
const BEFORE = modelOf({
  nodes: [norm('a'), norm('b')],
  initializers: [...still('a', 'b'), vector('a.running_mean', 1, 2), vector('b.running_mean', 3, 4)],
});

function modelOf(parts: GraphParts, modelParts: ModelParts = {}): Uint8Array {
  return model(graph({ inputs: ['x'], outputs: ['a.y', 'b.y'], ...parts }), modelParts);
}

/** Writes both models, restores, and reads the means of the result by layer. */
async function restoreModel(after: Uint8Array, options: RestoreOptions = {}, before = BEFORE) {
  const place = join(directory, String(runs++));
  const paths = {
    before: `${place}-before.onnx`,
    after: `${place}-after.onnx`,
    fixed: `${place}-fixed.onnx`,
  };
  writeFileSync(paths.before, before);
  writeFileSync(paths.after, after);
  const report = await restore(paths.before, paths.after, paths.fixed, options);
  const fixed = await openCheckpoint(paths.fixed);
  const means = new Map<string, unknown>();
  for (const one of fixed.graph?.norms ?? []) means.set(one.nodeName, (await statisticsOf(one)).mean);
  await fixed.close();
  const { summary } = await audit(paths.before, paths.fixed);
  return {
    report,
    means: Object.fromEntries(means),
    drifted: summary.byStatus.drifted,
    bytes: readFileSync(paths.fixed),
    size: { after: after.byteLength, fixed: readFileSync(paths.fixed).byteLength },
  };
}

const RESTORED = { a: [1, 2], b: [3, 4] };

describe('a constant that two layers share', () => {
  const shared = modelOf({
    nodes: [
      node('Identity', ['a.running_mean'], ['b.running_mean'], { name: 'Identity_0' }),
      norm('a'),
      norm('b'),
    ],
    initializers: [...still('a', 'b'), vector('a.running_mean', 0, 0)],
  });

  test('through Identity is split where before has two values', async () => {
    const { means, drifted, bytes } = await restoreModel(shared);
    expect(means).toEqual(RESTORED);
    expect(drifted).toBe(0);
    expect(bytes.includes('Identity_0')).toBe(false);
  });

  test('through Identity is changed in place where before has one value', async () => {
    const equal = modelOf({
      nodes: [norm('a'), norm('b')],
      initializers: [...still('a', 'b'), vector('a.running_mean', 7, 8), vector('b.running_mean', 7, 8)],
    });
    const { means, bytes, size } = await restoreModel(shared, {}, equal);
    expect(means).toEqual({ a: [7, 8], b: [7, 8] });
    expect(bytes.includes('Identity_0')).toBe(true);
    expect(size.fixed).toBe(size.after);
  });

  test.each([
    ['a', { a: [1, 2], b: [0, 0] }],
    ['b', { a: [0, 0], b: [3, 4] }],
  ])('keeps its value for the other when %s alone is restored', async (layer, expected) => {
    const { means } = await restoreModel(shared, { layers: [layer] });
    expect(means).toEqual(expected);
  });

  test('is split at every place where one of them runs', async () => {
    const bn = (name: string, path: string, from: string, to: string) =>
      node(
        'BatchNormalization',
        [from, `${path}.weight`, `${path}.bias`, 'a.running_mean', `${path}.running_var`],
        [to],
        {
          name: `/${name}/BatchNormalization`,
        },
      );
    const after = modelOf({
      nodes: [bn('a', 'a', 'x', 'z'), bn('a_1', 'a', 'z', 'a.y'), bn('b', 'b', 'x', 'b.y')],
      initializers: [...still('a', 'b'), vector('a.running_mean', 0, 0)],
    });
    const { means, drifted } = await restoreModel(after);
    // Were one of the places left out, it would be a layer of its own.
    expect(means).toEqual({ '/a/BatchNormalization': [1, 2], '/b/BatchNormalization': [3, 4] });
    expect(drifted).toBe(0);
  });

  test('by one name gets a name for each', async () => {
    const after = modelOf({
      nodes: [normOver('a', 'mean'), normOver('b', 'mean')],
      initializers: [...still('a', 'b'), vector('mean', 0, 0)],
    });
    const { means, drifted, bytes } = await restoreModel(after);
    expect(means).toEqual(RESTORED);
    expect(drifted).toBe(0);
    expect(bytes.includes('b.running_mean')).toBe(true);
  });

  test('with a node that is no norm layer keeps its value for that', async () => {
    const after = modelOf({
      nodes: [norm('a'), norm('b'), node('Add', ['x', 'a.running_mean'], ['sum'], { name: 'reader' })],
      initializers: [...still('a', 'b'), vector('a.running_mean', 0, 0), vector('b.running_mean', 3, 4)],
    });
    const { means, bytes } = await restoreModel(after);
    expect(means).toEqual(RESTORED);
    expect(bytes.includes(Buffer.from(vector('a.running_mean', 0, 0)))).toBe(true);
    expect(bytes.includes('a.running_mean.restored_1')).toBe(true);
  });

  test('cannot be split before IR version 4, whose initializers are all inputs', async () => {
    const old = modelOf(
      {
        nodes: [normOver('a', 'mean'), normOver('b', 'mean')],
        initializers: [...still('a', 'b'), vector('mean', 0, 0)],
      },
      { irVersion: 3 },
    );
    const failure = await failureOf(() => restoreModel(old));
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain('IR version 3');
  });
});

describe('a constant that is stored', () => {
  const halves = (name: string, ...bits: readonly number[]) =>
    tensor(name, [bits.length], FLOAT16, field(5, ...bits.map((value) => varint(value))));

  test.each([
    ['in float_data, packed', tensor('a.running_mean', [2], FLOAT, field(4, floats(9, 9)))],
    ['in raw_data', vector('a.running_mean', 9, 9)],
  ])('%s is changed in place', async (_, mean) => {
    const { means, size } = await restoreModel(
      modelOf({
        nodes: [norm('a'), norm('b')],
        initializers: [...still('a', 'b'), mean, vector('b.running_mean', 3, 4)],
      }),
    );
    expect(means).toEqual(RESTORED);
    expect(size.fixed).toBe(size.after);
  });

  test('in float_data, one by one, gives way to an initializer of the same name', async () => {
    const mean = tensor('a.running_mean', [2], FLOAT, fixed32(4, floats(9)), fixed32(4, floats(9)));
    const { means, drifted } = await restoreModel(
      modelOf({
        nodes: [norm('a'), norm('b')],
        initializers: [...still('a', 'b'), mean, vector('b.running_mean', 3, 4)],
      }),
    );
    expect(means).toEqual(RESTORED);
    expect(drifted).toBe(0);
  });

  test('as varints is written anew, in its own type', async () => {
    const after = modelOf({
      nodes: [
        node('Cast', ['half'], ['a.running_mean'], { attributes: [attribute.int('to', FLOAT)] }),
        norm('a'),
        norm('b'),
      ],
      initializers: [...still('a', 'b'), halves('half', 0x3c00, 0xbc00), vector('b.running_mean', 3, 4)],
    });
    const { means, drifted } = await restoreModel(after);
    expect(means).toEqual(RESTORED);
    expect(drifted).toBe(0);
  });

  test('as half-precision varints without a Cast', async () => {
    const typed = (path: string, ...bits: readonly number[]) =>
      ['weight', 'bias', 'running_mean', 'running_var'].map((leaf, index) =>
        halves(`${path}.${leaf}`, ...(index === 2 ? bits : [0x3e00, 0x4200])),
      );
    const before = modelOf({
      nodes: [norm('a'), norm('b')],
      initializers: [...typed('a', 0x4000, 0xc900), ...typed('b', 1, 2)],
    });
    const after = modelOf({
      nodes: [norm('a'), norm('b')],
      initializers: [...typed('a', 1, 2), ...typed('b', 1, 2)],
    });
    const { means, drifted, size } = await restoreModel(after, {}, before);
    expect(means['a']).toEqual([2, -10]);
    expect(drifted).toBe(0);
    expect(size.fixed).not.toBe(size.after);
  });

  test.each([
    [
      'a Constant',
      [
        node('Constant', [], ['a.running_mean'], {
          attributes: [attribute.tensor('value', vector('', 9, 9))],
        }),
      ],
      [],
    ],
    [
      'the floats of a Constant',
      [node('Constant', [], ['a.running_mean'], { attributes: [attribute.floats('value_floats', 9, 9)] })],
      [],
    ],
    ['a ConstantOfShape', [node('ConstantOfShape', ['shape'], ['a.running_mean'])], [integers('shape', 2)]],
    [
      'a Concat',
      [node('Concat', ['one', 'one'], ['a.running_mean'], { attributes: [attribute.int('axis', 0)] })],
      [vector('one', 9)],
    ],
    [
      'a Reshape',
      [node('Reshape', ['flat', 'shape'], ['a.running_mean'])],
      [vector('flat', 9, 9), integers('shape', 2)],
    ],
  ] as const)('in %s', async (_, nodes, initializers) => {
    const { means, drifted } = await restoreModel(
      modelOf({
        nodes: [...nodes, norm('a'), norm('b')],
        initializers: [...still('a', 'b'), ...initializers, vector('b.running_mean', 3, 4)],
      }),
    );
    expect(means).toEqual(RESTORED);
    expect(drifted).toBe(0);
  });

  test('sparse is refused with the reason', async () => {
    const sparse = bytesOf(
      field(1, tensor('a.running_mean', [1], FLOAT, field(9, floats(9)))),
      field(2, tensor('', [1], INT64, field(7, varint(0)))),
      int(3, 2),
    );
    const after = modelOf({
      nodes: [norm('a'), norm('b')],
      initializers: [...still('a', 'b'), vector('b.running_mean', 3, 4)],
      sparse: [sparse],
    });
    const failure = await failureOf(() => restoreModel(after));
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain('sparse initializer');
  });
});

describe('inside of', () => {
  const initializers = [...still('a', 'b'), vector('a.running_mean', 9, 9), vector('b.running_mean', 3, 4)];

  test('a local function, what the call passes is changed', async () => {
    const body = localFunction('Norm', {
      inputs: ['x', 'w', 'b', 'm', 'v'],
      outputs: ['y'],
      nodes: [node('BatchNormalization', ['x', 'w', 'b', 'm', 'v'], ['y'], { name: 'a' })],
    });
    const names = ['weight', 'bias', 'running_mean', 'running_var'].map((leaf) => `a.${leaf}`);
    const { means, size } = await restoreModel(
      modelOf(
        { nodes: [call('Norm', ['x', ...names], ['a.y']), norm('b')], initializers },
        { functions: [body] },
      ),
    );
    expect(means).toEqual(RESTORED);
    expect(size.fixed).toBe(size.after);
  });

  test('a subgraph, its own initializers are changed', async () => {
    const branch = (mean: number) =>
      graph({
        nodes: [norm('a')],
        initializers: [...still('a'), vector('a.running_mean', mean, mean)],
        outputs: ['a.y'],
      });
    const conditional = node('If', ['x'], ['a.y'], {
      name: 'if',
      attributes: [attribute.graph('then_branch', branch(9))],
    });
    const { drifted } = await restoreModel(
      modelOf({
        nodes: [conditional, norm('b')],
        initializers: [...still('b'), vector('b.running_mean', 3, 4)],
      }),
    );
    expect(drifted).toBe(0);
  });

  describe('a subgraph, beside external data of the main graph', () => {
    writeFileSync(join(directory, 'v.bin'), floats(5, 6));
    const external = (name: string, type: number) =>
      tensor(name, [2], type, field(13, field(1, 'location'), field(2, 'v.bin')), int(14, 1));
    const restoreWith = (outer: Uint8Array, inner: readonly Uint8Array[] = []) => {
      const own = [...still('a'), vector('a.running_mean', 9, 9)];
      const branch = graph({ nodes: [norm('a'), ...inner], initializers: own, outputs: ['a.y'] });
      const attributes = [attribute.graph('then_branch', branch)];
      const nodes = [
        node('If', ['x'], ['a.y'], { name: 'if', attributes }),
        node('Relu', ['a.running_mean'], ['r']),
        norm('b'),
      ];
      const initializers = [...still('b'), vector('b.running_mean', 3, 4), outer];
      return restoreModel(modelOf({ nodes, initializers }), { dataName: `v${runs}.bin` });
    };

    test('its own initializer is changed, and none of that name around it', async () => {
      const { means, drifted } = await restoreWith(external('a.running_mean', FLOAT));
      expect([means, drifted]).toEqual([{ ...RESTORED }, 0]);
    });

    test('what else reads its initializer is seen, whatever else has no values', async () => {
      const INT2 = 26;
      const reader = node('Relu', ['a.running_mean'], ['s']);
      expect((await failureOf(() => restoreWith(external('other', INT2), [reader]))).message).toContain(
        'shares its value with others inside a subgraph or function',
      );
    });
  });

  test('a function that is called twice with one constant, two values are refused', async () => {
    const body = localFunction('Norm', {
      inputs: ['x', 'w', 'b', 'v'],
      outputs: ['y'],
      nodes: [
        node('Constant', [], ['m'], { attributes: [attribute.tensor('value', vector('', 9, 9))] }),
        node('BatchNormalization', ['x', 'w', 'b', 'm', 'v'], ['y'], { name: 'bn' }),
      ],
    });
    const callOf = (path: string) =>
      call('Norm', ['x', `${path}.weight`, `${path}.bias`, `${path}.running_var`], [`${path}.y`], {
        name: path,
      });
    const after = modelOf(
      { nodes: [callOf('a'), callOf('b')], initializers: still('a', 'b') },
      { functions: [body] },
    );
    const failure = await failureOf(() => restoreModel(after));
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain('inside a subgraph or function');
  });

  test('a function, a value that is computed there is refused', async () => {
    const body = localFunction('Norm', {
      inputs: ['x', 'w', 'b', 'v'],
      outputs: ['y'],
      nodes: [
        node('Constant', [], ['i'], { attributes: [attribute.tensor('value', integers('', 9, 9))] }),
        node('Cast', ['i'], ['m'], { attributes: [attribute.int('to', FLOAT)] }),
        node('BatchNormalization', ['x', 'w', 'b', 'm', 'v'], ['y'], { name: 'bn' }),
      ],
    });
    const names = ['a.weight', 'a.bias', 'a.running_var'];
    const after = modelOf(
      {
        nodes: [call('Norm', ['x', ...names], ['a.y'], { name: 'a' }), norm('b')],
        initializers: [...still('a', 'b'), vector('b.running_mean', 3, 4)],
      },
      { functions: [body] },
    );
    const failure = await failureOf(() => restoreModel(after));
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain('is computed by a Cast node inside a subgraph or function');
  });
});

test('an operator of another order of weights is refused, whatever it is called', async () => {
  const path = join(directory, 'reordered.onnx');
  const reordered = node('Conv\n\u001b[2J', ['x', 'w'], ['a.y'], { domain: 'com.microsoft.nchwc' });
  writeFileSync(path, modelOf({ nodes: [reordered, norm('b')], initializers: still('b') }));
  const failure = await failureOf(() => openCheckpoint(path));
  expect(failure.code).toBe('unsupported');
  expect(failure.message).toContain(String.raw`found "Conv\n\x1b[2J" of com.microsoft.nchwc`);
});
