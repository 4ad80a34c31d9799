import { describe, expect, test } from 'vitest';
import { findLocations } from '../../../src/formats/onnx/edit-graph.js';
import { readModel } from '../../../src/formats/onnx/schema.js';
import { memorySource } from '../../../src/io/byte-source.js';
import { bytesOf } from '../../build/bytes.js';
import {
  attribute,
  FLOAT,
  field,
  graph,
  int,
  localFunction,
  model,
  node,
  normModel,
  normTensors,
  tensor,
} from './build-onnx.js';

/** TensorProto: external_data 13 {key 1, value 2}, data_location 14. */
function external(name: string, location: string, dataLocation = 1): Uint8Array {
  const entry = (key: string, value: string) => field(13, field(1, key), field(2, value));
  const place = bytesOf(entry('offset', '0'), entry('location', location), entry('length', '8'));
  return tensor(name, [2], FLOAT, place, int(14, dataLocation));
}

/** The locations of a model, and what stands in it at their places. */
async function locate(bytes: Uint8Array) {
  const source = memorySource('m.onnx', bytes);
  const found = await findLocations(source, await readModel(source));
  const texts = found.map(({ payload }) => Buffer.from(bytes).toString('utf8', payload.start, payload.end));
  expect(texts).toEqual(found.map(({ location }) => location));
  return texts.sort();
}

/** SparseTensorProto: values 1, indices 2, dims 3. */
const sparse = (values: Uint8Array, indices: Uint8Array) =>
  bytesOf(field(1, values), field(2, indices), int(3, 2));
/** AttributeProto: sparse_tensor 22. */
const sparseAttribute = (value: Uint8Array) =>
  bytesOf(field(1, 'sparse_value'), field(22, value), int(20, 11));
/** AttributeProto: graphs 11. */
const graphsAttribute = (...values: Uint8Array[]) =>
  bytesOf(field(1, 'bodies'), ...values.map((value) => field(11, value)), int(20, 10));
/** ModelProto.training_info 20 {initialization 1, algorithm 2}. */
const trainingInfo = (initialization: Uint8Array, algorithm: Uint8Array) =>
  field(20, field(1, initialization), field(2, algorithm));

const constant = (...attributes: readonly Uint8Array[]) => node('Constant', [], ['c'], { attributes });
const held = tensor('held', [2], FLOAT, field(9, new Uint8Array(8)));
const holding = (initializer: Uint8Array) => graph({ initializers: [initializer] });
const inFunction = (parts: Partial<Parameters<typeof localFunction>[1]>) =>
  model(graph({}), { functions: [localFunction('f', { inputs: [], outputs: [], nodes: [], ...parts })] });

describe('external data is found', () => {
  test.each<[string, Uint8Array]>([
    ['of an initializer', normModel({ initializers: [...normTensors(), external('w', 'w.bin')] })],
    ['of values of a sparse initializer', normModel({ sparse: [sparse(external('w', 'w.bin'), held)] })],
    ['of indices of a sparse initializer', normModel({ sparse: [sparse(held, external('w', 'w.bin'))] })],
    ['of a constant', model(graph({ nodes: [constant(attribute.tensor('value', external('', 'w.bin')))] }))],
    [
      'of a sparse constant',
      model(graph({ nodes: [constant(sparseAttribute(sparse(external('', 'w.bin'), held)))] })),
    ],
    [
      'of a body',
      model(graph({ nodes: [constant(attribute.graph('body', holding(external('w', 'w.bin'))))] })),
    ],
    [
      'of the last of several bodies',
      model(graph({ nodes: [constant(graphsAttribute(holding(held), holding(external('w', 'w.bin'))))] })),
    ],
    [
      'of a body in a body',
      model(
        graph({
          nodes: [
            constant(
              attribute.graph(
                'body',
                graph({ nodes: [constant(attribute.graph('body', holding(external('w', 'w.bin'))))] }),
              ),
            ),
          ],
        }),
      ),
    ],
    ['of a function', inFunction({ nodes: [constant(attribute.tensor('value', external('', 'w.bin')))] })],
    [
      "of a function's default",
      inFunction({ attributes: [], defaults: [attribute.tensor('value', external('', 'w.bin'))] }),
    ],
    [
      'of what sets up training',
      normModel({}, { extra: trainingInfo(holding(external('w', 'w.bin')), graph({})) }),
    ],
    [
      'of a training step',
      normModel({}, { extra: trainingInfo(graph({}), holding(external('w', 'w.bin'))) }),
    ],
  ])('%s', async (_, bytes) => {
    expect(await locate(bytes)).toEqual(['w.bin']);
  });

  test('at every place of a model', async () => {
    const everywhere = model(
      graph({
        initializers: [external('w', 'a.bin'), held, external('v', 'a.bin')],
        nodes: [constant(attribute.tensor('value', external('', 'b.bin')))],
      }),
      { extra: trainingInfo(holding(external('w', 'c.bin')), graph({})) },
    );
    expect(await locate(everywhere)).toEqual(['a.bin', 'a.bin', 'b.bin', 'c.bin']);
  });
});

test('what has its data here names no file, whatever it says', async () => {
  const idle = external('w', 'w.bin', 0);
  expect(await locate(normModel({ initializers: [...normTensors(), idle] }))).toEqual([]);
  const beside = normModel({ initializers: [...normTensors(), idle, external('v', 'v.bin')] });
  expect(await locate(beside)).toEqual(['v.bin']);
});

test('a model without external data is not looked through again, but for training_info', async () => {
  const bytes = normModel({}, { extra: trainingInfo(holding(held), graph({})) });
  const decoded = await readModel(memorySource('m.onnx', bytes));
  const read: number[] = [];
  const source = memorySource('m.onnx', bytes);
  const spied = {
    ...source,
    readInto: (target: Uint8Array, position: number) => {
      read.push(position);
      return source.readInto(target, position);
    },
  };
  expect(await findLocations(spied, decoded)).toEqual([]);
  const inGraph = Buffer.from(bytes).indexOf('bn.weight');
  const inTraining = Buffer.from(bytes).indexOf('held');
  expect(inGraph).toBeGreaterThan(0);
  // One read for the model's own fields, and more within training_info alone.
  expect(read.filter((position) => position > 0 && position < inGraph)).toEqual([]);
  expect(read.filter((position) => position > inGraph && position <= inTraining).length).toBeGreaterThan(0);
});
