// Writes ONNX models as PyTorch's TorchScript exporter does, with live BatchNormalization nodes or folded ones, and as
// ONNX Runtime quantises the latter.
// Field numbers are those of onnx/onnx.in.proto.
import { listUnits } from './network.js';
import { findLargest, foldUnit, listStateDict, quantise } from './values.js';

/** @typedef {import('./network.js').Network} Network */
/** @typedef {import('./network.js').Unit} Unit */
/** @typedef {import('./values.js').TensorFile} TensorFile */
/** @typedef {import('./values.js').Side} Side */

/** Bytes in memory, or bytes that are made when they are written. */
/** @typedef {Uint8Array | Pick<TensorFile, 'byteLength' | 'chunks'>} Part */
/** A message: parts that follow each other. */
/** @typedef {readonly Part[]} Message */

/** TensorProto.DataType. */
const DATA_TYPES = { F32: 1, I8: 3, I32: 6, I64: 7 };
const FLOAT = DATA_TYPES.F32;
const ATTRIBUTE_FLOAT = 1;
const ATTRIBUTE_INT = 2;
const ATTRIBUTE_INTS = 7;

/**
 * The pieces of an ONNX file.
 *
 * @param {Network} network
 * @param {Side} side
 * @param {{isFolded: boolean, isQuantised?: boolean}} options quantised: int8 weights, one scale for each tensor
 * @returns {Iterable<Uint8Array>}
 */
export function* writeOnnx(network, side, { isFolded, isQuantised = false }) {
  const { initializers: floats, weightNames } = isFolded ? foldAll(network, side) : listLive(network, side);
  const initializers = isQuantised ? floats.flatMap(quantiseParameter) : floats;
  const graph = [
    ...(isQuantised ? floats.map(writeDequantizer) : []).map((node) => field(1, [node])),
    ...writeNodes(network, weightNames).map((node) => field(1, [node])),
    field(2, text('main_graph')),
    ...initializers.map((tensor) => field(5, writeTensor(tensor))),
    field(11, writeValueInfo('input', [1, 3, 224, 224])),
    field(12, writeValueInfo('output', [1, network.head[0]])),
  ].flat();
  const model = [
    integer(1, 9),
    field(2, text('pytorch')),
    field(3, text('2.13.0')),
    field(7, graph),
    field(8, [field(1, text('')), integer(2, 20)].flat()),
  ].flat();
  for (const part of model) yield* part instanceof Uint8Array ? [part] : part.chunks();
}

/** What biases are steps of: the scale of some data times that of some weight. */
const BIAS_SCALE = 2 ** -16;

/** @param {TensorFile} tensor */
function quantiseParameter(tensor) {
  const isBias = tensor.shape.length === 1;
  return isBias
    ? quantise(tensor, { dtype: 'I32', scale: BIAS_SCALE })
    : quantise(tensor, { dtype: 'I8', scale: Math.fround(findLargest(tensor) / 127) });
}

/** @param {TensorFile} tensor */
function writeDequantizer({ name }) {
  return writeNode({
    operator: 'DequantizeLinear',
    name: `${name}_DequantizeLinear`,
    inputs: [`${name}_quantized`, `${name}_scale`, `${name}_zero_point`],
    output: name,
  });
}

/**
 * @param {Network} network
 * @param {Side} side
 */
function listLive(network, side) {
  return {
    initializers: listStateDict(network, side).filter(({ dtype }) => dtype === 'F32'),
    weightNames: null,
  };
}

/**
 * Folded weights lose their names, as in the exporter's files: onnx::Conv_100, onnx::Conv_101, …
 *
 * @param {Network} network
 * @param {Side} side
 */
function foldAll(network, side) {
  /** @type {Map<Unit, {weight: string, bias: string}>} */
  const weightNames = new Map();
  const folded = listUnits(network).flatMap((unit, index) => {
    const names = { weight: `onnx::Conv_${500 + 3 * index}`, bias: `onnx::Conv_${501 + 3 * index}` };
    weightNames.set(unit, names);
    const { weight, bias } = foldUnit(unit, side);
    return [weight(names.weight), bias(names.bias)];
  });
  const head = listStateDict(network, side).filter(({ name }) => name.startsWith('fc.'));
  return { initializers: [...head, ...folded], weightNames };
}

/**
 * @param {Network} network
 * @param {ReadonlyMap<Unit, {weight: string, bias: string}> | null} folded names of folded weights; null for live norm layers
 * @returns {readonly Buffer[]}
 */
function writeNodes(network, folded) {
  /** @type {Buffer[]} */
  const nodes = [];
  let last = 'input';
  const add = (/** @type {NodeParts} */ node) => {
    nodes.push(writeNode(node));
    last = node.output;
  };
  const addUnit = (/** @type {Unit} */ unit) => {
    for (const node of describeUnit(unit, last, folded)) add(node);
  };
  const addRelu = (/** @type {string} */ path) =>
    add({ operator: 'Relu', name: `${path}/Relu`, inputs: [last], output: `${path}/Relu_output_0` });
  network.blocks.forEach(({ units, downsample, isResidual }, index) => {
    const entry = last;
    for (const unit of units) {
      addUnit(unit);
      if (unit !== units.at(-1)) addRelu(scopeOf(unit.norm));
    }
    if (isResidual) {
      const main = last;
      last = entry;
      if (downsample !== null) addUnit(downsample);
      add({ operator: 'Add', name: `/Add_${index}`, inputs: [main, last], output: `/Add_${index}_output_0` });
    }
    addRelu(`/block_${index}`);
  });
  add({
    operator: 'GlobalAveragePool',
    name: '/avgpool/GlobalAveragePool',
    inputs: [last],
    output: '/avgpool_output_0',
  });
  add({ operator: 'Flatten', name: '/Flatten', inputs: [last], output: '/Flatten_output_0' });
  add({
    operator: 'Gemm',
    name: '/fc/Gemm',
    inputs: [last, 'fc.weight', 'fc.bias'],
    output: 'output',
    attributes: [integerAttribute('transB', 1)],
  });
  return nodes;
}

/**
 * @typedef {object} NodeParts
 * @property {string} operator
 * @property {string} name
 * @property {readonly string[]} inputs
 * @property {string} output
 * @property {readonly Buffer[]} [attributes]
 */

/**
 * @param {Unit} unit
 * @param {string} input
 * @param {ReadonlyMap<Unit, {weight: string, bias: string}> | null} folded
 * @returns {readonly NodeParts[]}
 */
function describeUnit(unit, input, folded) {
  const { conv, norm, shape, stride } = unit;
  const name = `${scopeOf(conv)}/Conv`;
  const names = folded?.get(unit);
  const convolution = {
    operator: 'Conv',
    name,
    inputs: names === undefined ? [input, `${conv}.weight`] : [input, names.weight, names.bias],
    output: `${name}_output_0`,
    attributes: [
      integersAttribute('kernel_shape', [shape[2], shape[3]]),
      integersAttribute('pads', new Array(4).fill((shape[2] - 1) / 2)),
      integersAttribute('strides', [stride, stride]),
    ],
  };
  if (names !== undefined) return [convolution];
  const normName = `${scopeOf(norm)}/BatchNormalization`;
  const parameters = ['weight', 'bias', 'running_mean', 'running_var'].map((key) => `${norm}.${key}`);
  return [
    convolution,
    {
      operator: 'BatchNormalization',
      name: normName,
      inputs: [convolution.output, ...parameters],
      output: `${normName}_output_0`,
      attributes: [
        floatAttribute('epsilon', 1e-5),
        floatAttribute('momentum', 0.9),
        integerAttribute('training_mode', 0),
      ],
    },
  ];
}

/**
 * A module path as the exporter writes it into node names: `layer1.0.bn1` becomes `/layer1/layer1.0/bn1`.
 *
 * @param {string} path
 */
function scopeOf(path) {
  const [stage = '', ...rest] = path.split('.');
  const scopes =
    rest.length > 0 && /^\d+$/.test(rest[0] ?? '')
      ? [stage, `${stage}.${rest[0]}`, ...rest.slice(1)]
      : [stage];
  return `/${scopes.map((scope, i) => (/^\d+$/.test(scope) ? `${scopes[i - 1]}.${scope}` : scope)).join('/')}`;
}

/** @param {NodeParts} node */
function writeNode({ operator, name, inputs, output, attributes = [] }) {
  return Buffer.concat([
    ...inputs.flatMap((input) => fieldBytes(1, text(input))),
    fieldBytes(2, text(output)),
    fieldBytes(3, text(name)),
    fieldBytes(4, text(operator)),
    ...attributes.map((attribute) => fieldBytes(5, [attribute])),
  ]);
}

/**
 * @param {TensorFile} tensor
 * @returns {Message}
 */
function writeTensor({ name, dtype, shape, byteLength, chunks }) {
  return [
    ...shape.map((size) => integerBytes(1, size)),
    integerBytes(2, DATA_TYPES[dtype]),
    fieldBytes(8, text(name)),
    ...field(9, [{ byteLength, chunks }]),
  ];
}

/**
 * @param {string} name
 * @param {readonly number[]} shape
 * @returns {Message}
 */
function writeValueInfo(name, shape) {
  const dimensions = shape.flatMap((size) => fieldBytes(1, [integerBytes(1, size)]));
  const tensorType = [integerBytes(1, FLOAT), fieldBytes(2, dimensions)];
  return [fieldBytes(1, text(name)), fieldBytes(2, [fieldBytes(1, tensorType)])];
}

/**
 * @param {string} name
 * @param {number} value
 */
function integerAttribute(name, value) {
  return Buffer.concat([fieldBytes(1, text(name)), integerBytes(3, value), integerBytes(20, ATTRIBUTE_INT)]);
}

/**
 * @param {string} name
 * @param {readonly number[]} values
 */
function integersAttribute(name, values) {
  const items = values.map((value) => integerBytes(8, value));
  return Buffer.concat([fieldBytes(1, text(name)), ...items, integerBytes(20, ATTRIBUTE_INTS)]);
}

/**
 * @param {string} name
 * @param {number} value
 */
function floatAttribute(name, value) {
  const bytes = Buffer.alloc(5);
  bytes[0] = (2 << 3) | 5;
  bytes.writeFloatLE(value, 1);
  return Buffer.concat([fieldBytes(1, text(name)), bytes, integerBytes(20, ATTRIBUTE_FLOAT)]);
}

/**
 * @param {string} value
 * @returns {Message}
 */
function text(value) {
  return [Buffer.from(value)];
}

/**
 * A length-delimited field (wire type 2).
 *
 * @param {number} number
 * @param {Message} content
 * @returns {Message}
 */
function field(number, content) {
  const length = content.reduce((sum, part) => sum + part.byteLength, 0);
  return [varint((number << 3) | 2), varint(length), ...content];
}

/**
 * As {@link field}, of content that is in memory.
 *
 * @param {number} number
 * @param {Message} content
 */
function fieldBytes(number, content) {
  return Buffer.concat(field(number, content).filter((part) => part instanceof Uint8Array));
}

/**
 * A varint field (wire type 0).
 *
 * @param {number} number
 * @param {number} value
 * @returns {Message}
 */
function integer(number, value) {
  return [integerBytes(number, value)];
}

/**
 * @param {number} number
 * @param {number} value
 */
function integerBytes(number, value) {
  return Buffer.concat([varint(number << 3), varint(value)]);
}

/**
 * @param {number} value not negative, at most 2^53
 */
function varint(value) {
  const bytes = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  return Buffer.from([...bytes, rest]);
}
