import { describe, expect, test } from 'vitest';
import { failureOf } from '../../build/failure.js';
import {
  attribute,
  FLOAT,
  field,
  floats,
  graph,
  INT8,
  model,
  node,
  tensor,
  varint,
  vector,
} from './build-onnx.js';
import { open, valuesOf } from './open.js';

const INT32 = 6;
const scalar = (name: string, value: number) => tensor(name, [], FLOAT, field(9, floats(value)));
const zero = (name: string) => tensor(name, [], INT8, field(9, Uint8Array.of(0)));
const codes = (name: string) => tensor(name, [2, 2, 1, 1], INT8, field(9, Uint8Array.of(4, 8, 252, 2)));
const bias = tensor('b_quantized', [2], INT32, field(9, new Uint8Array(Int32Array.of(10, -20).buffer)));

async function readLinear(nodes: readonly Uint8Array[], initializers: readonly Uint8Array[]) {
  const { graph: read, tensors } = await open(model(graph({ nodes, initializers, inputs: ['x'] })));
  const [linear] = read.linears;
  if (linear === undefined) throw new Error('there is no linear node');
  return { linear, tensors };
}

describe('a quantised convolution', () => {
  test('in QDQ form holds what its codes stand for, per channel, under the name from before', async () => {
    const { linear, tensors } = await readLinear(
      [
        node('DequantizeLinear', ['w_quantized', 'w_scale'], ['w_dequantised']),
        node('Conv', ['x', 'w_dequantised'], ['y']),
      ],
      [codes('w_quantized'), scalar('w_scale', 0.5)],
    );
    expect(await valuesOf(linear.weight)).toEqual([2, 4, -2, 1]);
    expect(linear.weightName).toBe('w');
    expect(tensors.get('w')?.quantised).toMatchObject({ axis: null, codes: { dtype: 'I8' } });
    expect(tensors.get('w_scale')?.isBuffer).toBe(true);
  });

  test("of PyTorch's exporter holds biases that were cut off, by up to a step", async () => {
    const { linear } = await readLinear(
      [
        node('DequantizeLinear', ['w_quantized', 'w_scale'], ['w_dequantised']),
        node('DequantizeLinear', ['b_quantized', 'w_scale'], ['b']),
        node('Conv', ['x', 'w_dequantised', 'b'], ['y']),
      ],
      [codes('w_quantized'), scalar('w_scale', 0.5), bias],
    );
    expect(linear.bias).toMatchObject({ tensor: { quantised: { margin: 1 } } });
    expect(linear.weight).not.toMatchObject({ tensor: { quantised: { margin: 1 } } });
  });

  test('holds codes of float8 too, which are no floats by themselves', async () => {
    const eighth = tensor('w_quantized', [2, 1, 1, 1], 17, field(9, Uint8Array.of(0x38, 0xc0)));
    const { linear, tensors } = await readLinear(
      [
        node('DequantizeLinear', ['w_quantized', 'w_scale'], ['w_dequantised']),
        node('Conv', ['x', 'w_dequantised'], ['y']),
      ],
      [eighth, scalar('w_scale', 0.5)],
    );
    expect(await valuesOf(linear.weight)).toEqual([0.5, -1]);
    expect(tensors.get('w')?.quantised).toMatchObject({ codes: { dtype: 'F8_E4M3' } });
  });

  test("in QDQ form of ONNX Runtime's own domain, as old operator sets have it for new types", async () => {
    const own = { domain: 'com.microsoft' };
    const { linear } = await readLinear(
      [
        node('QuantizeLinear', ['x', 'x_scale'], ['x_codes'], own),
        node('DequantizeLinear', ['x_codes', 'x_scale'], ['data'], own),
        node('DequantizeLinear', ['w_quantized', 'w_scale'], ['w_dequantised'], own),
        node('Conv', ['data', 'w_dequantised'], ['y']),
      ],
      [codes('w_quantized'), scalar('w_scale', 0.5), scalar('x_scale', 1)],
    );
    expect(await valuesOf(linear.weight)).toEqual([2, 4, -2, 1]);
    expect(linear.weightName).toBe('w');
  });

  test.each([
    ['INT4 in raw_data', 22, field(9, Uint8Array.of(0x21, 0xf7, 0x08)), [1, 2, 7, -1, -8]],
    ['UINT4 in raw_data', 21, field(9, Uint8Array.of(0x21, 0xf7, 0x08)), [1, 2, 7, 15, 8]],
    ['INT4 in int32_data', 22, field(5, varint(0x21), varint(0xf7), varint(0x08)), [1, 2, 7, -1, -8]],
  ])('of %s holds two codes a byte, the first in its lower half', async (_, type, payload, values) => {
    const { linear, tensors } = await readLinear(
      [
        node('DequantizeLinear', ['w_quantized', 'w_scale'], ['w_dequantised']),
        node('Conv', ['x', 'w_dequantised'], ['y']),
      ],
      [tensor('w_quantized', [5, 1, 1], type, payload), scalar('w_scale', 0.5)],
    );
    expect(await valuesOf(linear.weight)).toEqual(values.map((value) => value / 2));
    expect(linear.weightName).toBe('w');
    const dtype = type === 22 ? 'I8' : 'U8';
    expect(tensors.get('w')?.quantised).toMatchObject({ codes: { dtype, packedBits: 4 } });
  });

  test('of four bits needs half as many bytes, rounded up', async () => {
    const found = failureOf(() =>
      readLinear(
        [node('DequantizeLinear', ['w', 's'], ['d']), node('Conv', ['x', 'd'], ['y'])],
        [tensor('w', [5, 1, 1], 22, field(9, Uint8Array.of(0, 0))), scalar('s', 1)],
      ),
    );
    expect((await found).message).toBe(
      'tensor "w": expected 3 bytes for its shape and type, found 2 in raw_data',
    );
  });

  test('in blocks has a scale for each block along the axis', async () => {
    const blocks = (shape: readonly number[], axis: number, size: number) =>
      [
        [
          node('DequantizeLinear', ['w', 's'], ['d'], {
            attributes: [attribute.int('axis', axis), attribute.int('block_size', size)],
          }),
          node('Conv', ['x', 'd'], ['y']),
        ],
        [
          tensor('w', [4, 2, 1], INT8, field(9, Uint8Array.of(1, 1, 1, 1, 1, 1, 1, 1))),
          tensor('s', shape, FLOAT, field(9, floats(1, 2, 3, 4))),
        ],
      ] as const;
    const { linear } = await readLinear(...blocks([2, 2, 1], 0, 2));
    expect(await valuesOf(linear.weight)).toEqual([1, 2, 1, 2, 3, 4, 3, 4]);
    expect(linear.weight).toMatchObject({ tensor: { quantised: { axis: 0, blockSize: 2 } } });
    // Scales of another shape than the blocks need are known to nobody.
    const unlike = await readLinear(...blocks([4, 1, 1], 0, 2));
    expect(unlike.linear.weight).toMatchObject({
      kind: 'unresolved',
      reason: expect.stringContaining('neither per tensor nor per axis nor per block'),
    });
  });

  test('behind QuantizeLinear holds the floats that the file stores', async () => {
    const { linear } = await readLinear(
      [
        node('QuantizeLinear', ['w', 's', 'z'], ['q']),
        node('DequantizeLinear', ['q', 's', 'z'], ['d']),
        node('Conv', ['x', 'd'], ['y']),
      ],
      [tensor('w', [2, 1, 1, 1], FLOAT, field(9, floats(0.3, 0.7))), scalar('s', 0.5), zero('z')],
    );
    const [first = Number.NaN] = (await valuesOf(linear.weight)) as readonly number[];
    expect(first).toBeCloseTo(0.3, 6);
    expect(linear.weight).not.toHaveProperty('tensor.quantised');
  });

  test('in QOperator form has a bias in steps of the data’s scale times the weight’s', async () => {
    const inputs = [
      'x',
      'x_scale',
      'x_zero',
      'w_quantized',
      'w_scale',
      'w_zero',
      'y_scale',
      'y_zero',
      'b_quantized',
    ];
    const { linear } = await readLinear(
      [node('QLinearConv', inputs, ['y'])],
      [
        codes('w_quantized'),
        bias,
        scalar('x_scale', 0.25),
        zero('x_zero'),
        vector('w_scale', 0.5, 2),
        tensor('w_zero', [2], INT8, field(9, Uint8Array.of(0, 0))),
        scalar('y_scale', 1),
        zero('y_zero'),
      ],
    );
    expect(linear).toMatchObject({ op: 'Conv', outputChannels: 2, biasName: 'b' });
    expect(await valuesOf(linear.weight)).toEqual([2, 4, -8, 4]);
    expect(await valuesOf(linear.bias)).toEqual([1.25, -10]);
  });

  test('of dynamic quantisation takes its scale from the Mul behind it, and its bias from the Add', async () => {
    const { linear } = await readLinear(
      [
        node('DynamicQuantizeLinear', ['x'], ['xq', 'x_scale', 'x_zero']),
        node('Mul', ['x_scale', 'w_scale'], ['scales']),
        node('ConvInteger', ['xq', 'w_quantized', 'x_zero', 'w_zero'], ['products']),
        node('Cast', ['products'], ['floats']),
        node('Mul', ['floats', 'scales'], ['scaled']),
        node('Add', ['scaled', 'b'], ['y']),
      ],
      [
        codes('w_quantized'),
        zero('w_zero'),
        scalar('w_scale', 0.5),
        tensor('b', [1, 2, 1, 1], FLOAT, field(9, floats(3, 4))),
      ],
    );
    expect(await valuesOf(linear.weight)).toEqual([2, 4, -2, 1]);
    expect(await valuesOf(linear.bias)).toEqual([3, 4]);
  });

  test('without a constant scale is unresolved', async () => {
    const { linear } = await readLinear(
      [node('ConvInteger', ['x', 'w_quantized'], ['products'])],
      [codes('w_quantized')],
    );
    expect(await valuesOf(linear.weight)).toContain('at run time');
  });
});
