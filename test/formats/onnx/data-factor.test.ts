import { expect, test } from 'vitest';
import { f32 } from '../../build/bytes.js';
import { FLOAT, field, graph, model, node, tensor } from './build-onnx.js';
import { open } from './open.js';

const scalar = (name: string, value: number) => tensor(name, [], FLOAT, field(9, f32(value)));
const CONSTANTS = [
  ...[scalar('half', 0.5), scalar('one', 1), scalar('root', Math.SQRT2), scalar('ten', 10)],
  ...[scalar('zero', 0), scalar('three', 3), scalar('six', 6)],
];

/** What data that nodes compute of `x` as `y` is multiplied by, in front of a convolution. */
async function factorOf(...nodes: readonly Uint8Array[]) {
  const initializers = [
    ...CONSTANTS,
    tensor('conv.weight', [3, 2, 1, 1], FLOAT, field(9, new Uint8Array(24))),
  ];
  const conv = node('Conv', ['y', 'conv.weight'], ['out']);
  const first = node('Relu', ['in'], ['x']);
  const file = await open(
    model(graph({ nodes: [first, ...nodes, conv], initializers, inputs: ['in', 'other'] })),
  );
  return file.graph.linears[0]?.dataFactor;
}

const gateOf = (op: string, of = 'x') => [
  node('Div', [of, 'root'], ['d']),
  node(op, ['d'], ['e']),
  node('Add', ['e', 'one'], ['gate']),
];
const clip = [node('Add', ['x', 'three'], ['s']), node('Clip', ['s', 'zero', 'six'], ['gate'])];

test.each<[string, readonly Uint8Array[]]>([
  ['a ReLU', [node('Relu', ['x'], ['y'])]],
  ['a GELU', [...gateOf('Erf'), node('Mul', ['x', 'gate'], ['m']), node('Mul', ['m', 'half'], ['y'])]],
  [
    'a GELU whose ½ stands in front',
    [...gateOf('Erf'), node('Mul', ['x', 'half'], ['h']), node('Mul', ['h', 'gate'], ['y'])],
  ],
  [
    'a GELU of which the gate is halved',
    [...gateOf('Tanh'), node('Mul', ['gate', 'half'], ['h']), node('Mul', ['x', 'h'], ['y'])],
  ],
  ['a hard swish', [...clip, node('Mul', ['x', 'gate'], ['m']), node('Div', ['m', 'six'], ['y'])]],
  ['a gate that reads something else', [...gateOf('Tanh', 'other'), node('Mul', ['x', 'gate'], ['y'])]],
  ['a product of two results', [node('Tanh', ['x'], ['t']), node('Mul', ['x', 't'], ['y'])]],
])('%s multiplies by nothing', async (_name, nodes) => {
  expect(await factorOf(...nodes)).toBeUndefined();
});

test.each<[string, readonly Uint8Array[], number]>([
  ['a GELU', [...gateOf('Erf'), node('Mul', ['x', 'gate'], ['y'])], 2],
  ['one with tanh', [...gateOf('Tanh'), node('Mul', ['gate', 'x'], ['y'])], 2],
  [
    'one before a pooling',
    [...gateOf('Erf'), node('Mul', ['x', 'gate'], ['m']), node('MaxPool', ['m'], ['y'])],
    2,
  ],
  ['a hard swish', [...clip, node('Mul', ['x', 'gate'], ['y'])], 6],
])('%s lacks its constant', async (_name, nodes, value) => {
  expect(await factorOf(...nodes)).toEqual({ value, isGated: true });
});

test("any other constant may be the model's own", async () => {
  expect(await factorOf(node('Mul', ['ten', 'x'], ['y']))).toEqual({ value: 10, isGated: false });
  expect(await factorOf(node('Div', ['x', 'ten'], ['y']))).toMatchObject({ value: 0.1, isGated: false });
  expect(await factorOf(node('Div', ['ten', 'x'], ['y']))).toBeUndefined();
});
