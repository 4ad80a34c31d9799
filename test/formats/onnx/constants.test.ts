import { describe, expect, test } from 'vitest';
import { bytesOf } from '../../build/bytes.js';
import {
  attribute,
  DOUBLE,
  FLOAT,
  FLOAT16,
  field,
  floats,
  INT8,
  INT64,
  int,
  integers,
  node,
  norm,
  normModel,
  normTensors,
  tensor,
  varint,
  vector,
} from './build-onnx.js';
import { openNorm, refusal, valuesOf } from './open.js';

const [GAMMA, BETA, , VARIANCE] = normTensors();
const OTHERS = [GAMMA, BETA, VARIANCE].filter((bytes) => bytes !== undefined);

interface Parts {
  readonly nodes?: readonly Uint8Array[];
  readonly initializers?: readonly Uint8Array[];
  readonly sparse?: readonly Uint8Array[];
  readonly opset?: number;
}

/** A norm model whose mean comes from `nodes`, initializers or sparse ones. */
function meanFrom({ nodes = [], initializers = [], sparse = [], opset = 17 }: Parts): Uint8Array {
  return normModel(
    { nodes: [...nodes, norm()], initializers: [...OTHERS, ...initializers], sparse },
    { opset },
  );
}

async function readMean(parts: Parts) {
  const { mean } = await openNorm(meanFrom(parts));
  return { values: await valuesOf(mean), source: mean.kind === 'constant' ? mean.source : mean.kind };
}

const makes = (op: string, inputs: readonly string[], ...attributes: readonly Uint8Array[]) =>
  node(op, inputs, ['bn.running_mean'], { name: 'made', attributes });

/** A SparseTensorProto. */
function sparseTensor(dims: readonly number[], values: Uint8Array, indices: Uint8Array): Uint8Array {
  return bytesOf(field(1, values), field(2, indices), ...dims.map((dim) => int(3, dim)));
}

describe('a Constant node', () => {
  test.each<[string, Uint8Array, readonly number[]]>([
    ['value', attribute.tensor('value', vector('', 3, -4)), [3, -4]],
    ['value_floats', attribute.floats('value_floats', 3, -4), [3, -4]],
    [
      'value_floats one by one',
      bytesOf(field(1, 'value_floats'), int(20, 6), ...[3, -4].map((v) => bytesOf(varint(61), floats(v)))),
      [3, -4],
    ],
    [
      'sparse_value',
      bytesOf(
        field(1, 'sparse_value'),
        field(22, sparseTensor([2], vector('', 7), integers('', 1))),
        int(20, 11),
      ),
      [0, 7],
    ],
  ])('supplies its %s', async (_form, bytes, values) => {
    expect((await readMean({ nodes: [makes('Constant', [], bytes)] })).values).toEqual(values);
  });

  test('supplies value_ints, value_int and value_float to operators', async () => {
    const ints = node('Constant', [], ['ints'], { attributes: [attribute.ints('value_ints', 3, -4)] });
    expect(await readMean({ nodes: [ints, makes('Cast', ['ints'], attribute.int('to', FLOAT))] })).toEqual({
      values: [3, -4],
      source: 'Cast of Constant',
    });
    const number = node('Constant', [], ['number'], { attributes: [attribute.float('value_float', 2.5)] });
    const two = node('Constant', [], ['two'], { attributes: [attribute.int('value_int', 2)] });
    const shape = node('Unsqueeze', ['two', 'zero'], ['shape']);
    const nodes = [number, two, shape, makes('Expand', ['number', 'shape'])];
    expect((await readMean({ nodes, initializers: [integers('zero', 0)] })).values).toEqual([2.5, 2.5]);
  });

  test('of a text supplies nothing', async () => {
    const nodes = [makes('Constant', [], bytesOf(field(1, 'value_string'), field(4, 'text'), int(20, 3)))];
    expect((await readMean({ nodes })).values).toBe('Constant "made" holds no value that can be read');
  });
});

describe('a sparse initializer', () => {
  test.each<[string, Uint8Array]>([
    ['linear', integers('', 1)],
    ['per dimension', tensor('', [1, 1], INT64, int(7, 1))],
  ])('is written out, with %s indices', async (_form, indices) => {
    const sparse = [sparseTensor([2], vector('bn.running_mean', 9), indices)];
    expect(await readMean({ sparse })).toEqual({ values: [0, 9], source: 'sparse initializer' });
  });

  test.each<[string, Uint8Array, string]>([
    [
      'an index outside',
      sparseTensor([2], vector('bn.running_mean', 9), integers('', 2)),
      'expected indices within its 2 elements',
    ],
    [
      'a negative index',
      sparseTensor([2], vector('bn.running_mean', 9), integers('', -1)),
      'expected indices within its 2 elements',
    ],
    [
      'an index twice',
      sparseTensor([3], vector('bn.running_mean', 9, 8), integers('', 2, 2)),
      'expected each index once, found one twice (duplicate)',
    ],
    [
      'too few indices',
      sparseTensor([2], vector('bn.running_mean', 9, 8), integers('', 1)),
      'expected an index for each of 2 values',
    ],
    [
      'a shape that must not be allocated',
      sparseTensor([2 ** 40], vector('bn.running_mean', 9), integers('', 0)),
      'expected at most 1048576 elements, found 1099511627776',
    ],
  ])('with %s is refused', async (_case, bytes, message) => {
    expect(await refusal(meanFrom({ sparse: [bytes] }))).toContain(
      `the mean of BatchNormalization "bn": sparse tensor "bn.running_mean": ${message}`,
    );
  });
});

describe('ConstantOfShape', () => {
  const make = (shape: readonly number[], ...attributes: readonly Uint8Array[]) => ({
    nodes: [makes('ConstantOfShape', ['shape'], ...attributes)],
    initializers: [integers('shape', ...shape)],
  });

  test('repeats zero, or its value', async () => {
    expect((await readMean(make([2]))).values).toEqual([0, 0]);
    const ones = attribute.tensor('value', vector('', 1));
    expect(await readMean(make([2], ones))).toEqual({ values: [1, 1], source: 'ConstantOfShape' });
  });

  test('of a negative or a huge size is refused', async () => {
    expect(await refusal(meanFrom(make([-2])))).toContain('found the negative dim -2');
    expect(await refusal(meanFrom(make([2 ** 40])))).toContain(
      'limit-exceeded: the mean of BatchNormalization "bn": expected at most',
    );
  });
});

describe('operators over constants', () => {
  const dims = (name: string, ...values: readonly number[]) => integers(name, ...values);
  const half = (value: number) => varint(value);

  test.each<[string, Parts, readonly number[]]>([
    ['Identity', { nodes: [makes('Identity', ['m'])], initializers: [vector('m', 3, -4)] }, [3, -4]],
    [
      'Cast from halves',
      {
        nodes: [makes('Cast', ['m'], attribute.int('to', FLOAT))],
        initializers: [tensor('m', [2], FLOAT16, field(5, half(0x4200), half(0xc400)))],
      },
      [3, -4],
    ],
    [
      'Cast from doubles rounds',
      {
        nodes: [makes('Cast', ['m'], attribute.int('to', FLOAT))],
        initializers: [tensor('m', [2], DOUBLE, field(9, new Uint8Array(Float64Array.of(0.1, 1).buffer)))],
      },
      [Math.fround(0.1), 1],
    ],
    [
      'DequantizeLinear per tensor',
      {
        nodes: [makes('DequantizeLinear', ['m', 'scale', 'zero'])],
        initializers: [
          tensor('m', [2], INT8, field(9, 7, 253)),
          tensor('scale', [], FLOAT, field(9, floats(0.5))),
          tensor('zero', [], INT8, field(9, 1)),
        ],
      },
      [3, -2],
    ],
    [
      'DequantizeLinear per axis',
      {
        nodes: [makes('DequantizeLinear', ['m', 'scale'], attribute.int('axis', 0))],
        initializers: [tensor('m', [2], INT8, field(9, 3, 4)), vector('scale', 2, 0.25)],
      },
      [6, 1],
    ],
    [
      'Reshape',
      {
        nodes: [makes('Reshape', ['m', 'shape'])],
        initializers: [tensor('m', [1, 2, 1], FLOAT, field(9, floats(3, -4))), dims('shape', -1)],
      },
      [3, -4],
    ],
    [
      'Reshape that copies a dimension',
      {
        nodes: [node('Reshape', ['m', 'shape'], ['n']), makes('Flatten', ['n'], attribute.int('axis', 0))],
        initializers: [vector('m', 3, -4), dims('shape', 0, 1)],
      },
      [3, -4],
    ],
    [
      'Reshape by attribute',
      {
        opset: 1,
        nodes: [makes('Reshape', ['m'], attribute.ints('shape', 2))],
        initializers: [tensor('m', [2, 1], FLOAT, field(9, floats(3, -4)))],
      },
      [3, -4],
    ],
    [
      'Unsqueeze and Squeeze by attribute',
      {
        opset: 11,
        nodes: [
          node('Unsqueeze', ['m'], ['n'], { attributes: [attribute.ints('axes', 0, 2)] }),
          makes('Squeeze', ['n'], attribute.ints('axes', 0, -1)),
        ],
        initializers: [vector('m', 3, -4)],
      },
      [3, -4],
    ],
    [
      'Squeeze of every 1',
      {
        nodes: [makes('Squeeze', ['m'])],
        initializers: [tensor('m', [1, 2, 1], FLOAT, field(9, floats(3, -4)))],
      },
      [3, -4],
    ],
    [
      'Unsqueeze by input',
      { nodes: [makes('Unsqueeze', ['m', 'axes'])], initializers: [vector('m', 3, -4), dims('axes', 0)] },
      [3, -4],
    ],
    [
      'Transpose of a column',
      {
        nodes: [makes('Transpose', ['m'], attribute.ints('perm', 1, 0))],
        initializers: [tensor('m', [2, 1], FLOAT, field(9, floats(3, -4)))],
      },
      [3, -4],
    ],
    [
      'Transpose and Flatten of a matrix',
      {
        nodes: [node('Transpose', ['m'], ['n']), makes('Reshape', ['n', 'shape'])],
        initializers: [tensor('m', [1, 2], FLOAT, field(9, floats(3, -4))), dims('shape', 2)],
      },
      [3, -4],
    ],
    [
      'Expand',
      { nodes: [makes('Expand', ['m', 'shape'])], initializers: [vector('m', 3), dims('shape', 2)] },
      [3, 3],
    ],
    [
      'Concat',
      {
        nodes: [makes('Concat', ['a', 'b'], attribute.int('axis', 0))],
        initializers: [vector('a', 3), vector('b', -4)],
      },
      [3, -4],
    ],
    [
      'Shape as a shape',
      {
        nodes: [node('Shape', ['bn.bias'], ['shape']), makes('Expand', ['m', 'shape'])],
        initializers: [vector('m', 3)],
      },
      [3, 3],
    ],
  ])('%s', async (_operator, parts, values) => {
    expect((await readMean(parts)).values).toEqual(values);
  });

  test('a transposed matrix moves its elements', async () => {
    const matrix = tensor('m', [2, 3], FLOAT, field(9, floats(1, 2, 3, 4, 5, 6)));
    const nodes = [node('Transpose', ['m'], ['t']), makes('Reshape', ['t', 'shape'])];
    const five = (name: string) => vector(`bn.${name}`, 1, 1, 1, 1, 1, 1);
    const initializers = [matrix, integers('shape', 6), five('weight'), five('bias'), five('running_var')];
    const { mean } = await openNorm(normModel({ nodes: [...nodes, norm()], initializers }));
    expect(await valuesOf(mean)).toEqual([1, 4, 2, 5, 3, 6]);
  });

  describe('chains of transposes', () => {
    const chain = (length: number) =>
      Array.from({ length }, (_, i) => node('Transpose', [i === 0 ? 'm' : `t${i}`], [`t${i + 1}`]));

    test.each([1, 2, 3, 4])('of %d move the elements as often', async (length) => {
      const matrix = tensor('m', [2, 3], FLOAT, field(9, floats(1, 2, 3, 4, 5, 6)));
      const nodes = [...chain(length), makes('Reshape', [`t${length}`, 'shape'])];
      const six = (name: string) => vector(`bn.${name}`, 1, 1, 1, 1, 1, 1);
      const initializers = [matrix, integers('shape', 6), six('weight'), six('bias'), six('running_var')];
      const { mean } = await openNorm(normModel({ nodes: [...nodes, norm()], initializers }));
      expect(await valuesOf(mean)).toEqual(length % 2 === 0 ? [1, 2, 3, 4, 5, 6] : [1, 4, 2, 5, 3, 6]);
    });

    test('are not computed where all of a model together need too much memory', async () => {
      const initializers = [tensor('m', [1024, 1024], FLOAT, field(9, new Uint8Array(4 * 1024 * 1024)))];
      const nodes = [...chain(40), makes('Transpose', ['t40'])];
      expect((await readMean({ nodes, initializers })).values).toContain('(too much to compute here)');
    });
  });

  test('say how the value came about', async () => {
    const nodes = [
      node('Identity', ['m'], ['i']),
      node('Identity', ['i'], ['j']),
      makes('Cast', ['j'], attribute.int('to', DOUBLE)),
    ];
    const { source, values } = await readMean({ nodes, initializers: [vector('m', 3, -4)] });
    expect(source).toBe('Cast of Identity of initializer');
    expect(values).toEqual([3, -4]);
  });

  test('whose shape is known at run time only leave one value as it is', async () => {
    const zero = node('Constant', [], ['zero'], { attributes: [attribute.floats('value_floats', 0)] });
    const like = node('CastLike', ['zero', 'x'], ['zeros']);
    const nodes = [zero, like, node('Shape', ['x'], ['shape']), makes('Expand', ['zeros', 'shape'])];
    expect((await readMean({ nodes })).values).toEqual([0, 0]);
    const many = [node('Shape', ['x'], ['shape']), makes('Expand', ['m', 'shape'])];
    expect((await readMean({ nodes: many, initializers: [vector('m', 3, -4)] })).values).toBe(
      'Expand "made" computes it at run time (its shape is no constant)',
    );
  });

  test.each<[string, Parts, string]>([
    [
      'Reshape',
      { nodes: [makes('Reshape', ['m', 'shape'])], initializers: [vector('m', 1, 2), integers('shape', 3)] },
      'Reshape "made": expected a shape of 2 elements, found [3]',
    ],
    [
      'Squeeze',
      { nodes: [makes('Squeeze', ['m', 'axes'])], initializers: [vector('m', 1, 2), integers('axes', 0)] },
      'Squeeze "made": expected dims of 1 to drop, found [2]',
    ],
    [
      'Transpose',
      { nodes: [makes('Transpose', ['m'], attribute.ints('perm', 0, 0))], initializers: [vector('m', 1, 2)] },
      'Transpose "made": expected a permutation of 1 axes, found [0, 0]',
    ],
    [
      'Expand',
      { nodes: [makes('Expand', ['m', 'shape'])], initializers: [vector('m', 1, 2), integers('shape', 3)] },
      'Expand "made": expected shapes that broadcast',
    ],
    [
      'a shape of floats',
      { nodes: [makes('Reshape', ['m', 'm'])], initializers: [vector('m', 1, 2)] },
      'Reshape "made": expected integers as a shape, found F32',
    ],
  ])('that cannot be right are refused: %s', async (_operator, parts, message) => {
    expect(await refusal(meanFrom(parts))).toContain(message);
  });
});

describe('chains of any length', () => {
  const chain = (length: number) =>
    Array.from({ length }, (_, i) => node('Identity', [i === 0 ? 'm' : `i${i}`], [`i${i + 1}`]));

  test('are followed to their end', async () => {
    const nodes = [...chain(20_000), makes('Identity', ['i20000'])];
    expect((await readMean({ nodes, initializers: [vector('m', 3, -4)] })).values).toEqual([3, -4]);
  });

  test('that lead in a circle are refused', async () => {
    const circle = [node('Identity', ['b'], ['a']), node('Identity', ['a'], ['b'], { name: 'back' })];
    expect(
      await refusal(meanFrom({ nodes: [...circle, makes('Cast', ['a'], attribute.int('to', FLOAT))] })),
    ).toContain('computed from itself: a cycle');
    const own = node('Identity', ['bn.running_mean'], ['bn.running_mean'], { name: 'self' });
    expect(await refusal(meanFrom({ nodes: [own] }))).toContain('a cycle (Identity "self")');
  });

  test('that lead in a circle through a second input are refused', async () => {
    const nodes = [
      makes('Concat', ['part'], attribute.int('axis', 0)),
      node('Reshape', ['bn.running_mean', 's'], ['part']),
    ];
    expect(await refusal(meanFrom({ nodes, initializers: [integers('s', 2)] }))).toContain('a cycle');
  });

  test('that double at every step stop at a limit', async () => {
    const double = Array.from({ length: 40 }, (_, i) =>
      node('Concat', [`d${i}`, `d${i}`], [`d${i + 1}`], { attributes: [attribute.int('axis', 0)] }),
    );
    const nodes = [...double, makes('Identity', ['d40'])];
    expect(await refusal(meanFrom({ nodes, initializers: [vector('d0', 1)] }))).toContain(
      'expected at most 1048576 elements',
    );
  });
});
