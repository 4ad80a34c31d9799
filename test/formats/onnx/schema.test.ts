import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../../src/errors.js';
import { openOnnx } from '../../../src/formats/onnx/onnx.js';
import { memorySource } from '../../../src/io/byte-source.js';
import { bytesOf, utf8 } from '../../build/bytes.js';
import { countingSource } from '../../build/sources.js';
import {
  attribute,
  field,
  fixed32,
  floats,
  graph,
  int,
  model,
  node,
  norm,
  normModel,
  normTensors,
  positionOf,
  tag,
  tensor,
  varint,
} from './build-onnx.js';
import { open, openNorm, refusal, statisticsOf } from './open.js';

const STATISTICS = { mean: [3, -4], variance: [5, 6] };

describe('protobuf is read as its specification says', () => {
  test('a singular message that appears twice merges', async () => {
    const first = graph({ nodes: [norm()], initializers: normTensors().slice(0, 2) });
    const second = graph({ initializers: normTensors().slice(2) });
    const bytes = bytesOf(int(1, 8), field(7, first), field(7, second), field(8, int(2, 17)));
    expect(await statisticsOf(await openNorm(bytes))).toEqual(STATISTICS);
  });

  test("an attribute's tensor that appears twice merges too", async () => {
    const [head, tail] = [tensor('', [], 1, field(4, floats(3))), bytesOf(int(1, 2), field(4, floats(-4)))];
    const constant = node('Constant', [], ['bn.running_mean'], {
      attributes: [bytesOf(field(1, 'value'), field(5, head), field(5, tail))],
    });
    const [gamma, beta, , variance] = normTensors();
    const bytes = normModel({
      nodes: [constant, norm()],
      initializers: [gamma, beta, variance].filter((t) => t !== undefined),
    });
    expect(await statisticsOf(await openNorm(bytes))).toEqual(STATISTICS);
  });

  test('unknown fields of every wire type are skipped, groups included', async () => {
    const group = bytesOf(tag(99, 3), int(1, 5), field(2, 'x'), tag(7, 3), tag(7, 4), tag(99, 4));
    const unknown = bytesOf(
      int(1000, 1),
      field(536870911, 'x'),
      fixed32(1001, floats(1)),
      tag(1002, 1),
      new Uint8Array(8),
      group,
    );
    const bytes = bytesOf(unknown, normModel({}, { extra: unknown }));
    expect(await statisticsOf(await openNorm(bytes))).toEqual(STATISTICS);
  });

  test('a known field of another wire type is unknown', async () => {
    expect(await refusal(bytesOf(int(1, 8), int(7, 5), field(8, int(2, 17))))).toContain('found no graph');
  });

  test('varints may be padded', async () => {
    const bytes = bytesOf(varint(8, 3), varint(8, 10), normModel());
    expect(await statisticsOf(await openNorm(bytes))).toEqual(STATISTICS);
  });

  describe.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])('tags, lengths and numbers of %i bytes', (width) => {
    const padded = (number: number, wire: number, value: number | bigint) =>
      bytesOf(varint(number * 8 + wire, width), varint(value, width));
    const paddedField = (number: number, content: Uint8Array) =>
      bytesOf(padded(number, 2, content.byteLength), content);
    const paddedTensor = (name: string, values: readonly number[], type: number | bigint = 1) =>
      paddedField(
        5,
        bytesOf(
          padded(1, 0, values.length),
          padded(2, 0, type),
          paddedField(8, utf8(name)),
          paddedField(9, floats(...values)),
        ),
      );
    const modelOf = (norm_: Uint8Array, ...tensors: readonly Uint8Array[]) => {
      const initializers = normTensors().slice(0, 2);
      return bytesOf(field(7, graph({ nodes: [norm_], initializers }), ...tensors), field(8, int(2, 17)));
    };

    test('mean the same in a tensor', async () => {
      const tensors = [paddedTensor('bn.running_mean', [3, -4]), paddedTensor('bn.running_var', [5, 6])];
      expect(await statisticsOf(await openNorm(modelOf(norm(), ...tensors)))).toEqual(STATISTICS);
    });

    test('mean the same in an attribute', async () => {
      const epsilon = bytesOf(
        paddedField(1, utf8('epsilon')),
        varint(2 * 8 + 5, width),
        floats(0.25),
        padded(20, 0, 1),
      );
      const tensors = normTensors()
        .slice(2)
        .map((content) => field(5, content));
      const read = await openNorm(modelOf(norm('bn', { attributes: [epsilon] }), ...tensors));
      expect(read.epsilon).toBe(0.25);
      expect(await statisticsOf(read)).toEqual(STATISTICS);
    });

    test('of 64 bits where 32 are meant are cut', async () => {
      const type = (1n << BigInt(7 * (width - 1))) * 2n ** 32n + 1n;
      const tensors = [paddedTensor('bn.running_mean', [3, -4], BigInt.asUintN(64, type))];
      const bytes = modelOf(norm(), ...tensors, paddedTensor('bn.running_var', [5, 6]));
      expect(await statisticsOf(await openNorm(bytes))).toEqual(STATISTICS);
    });
  });

  test('fields larger than what is read at once keep their place among small ones', async () => {
    const long = 'x'.repeat(70_000);
    const read = await openNorm(normModel({ nodes: [norm(long)], initializers: [...normTensors(long)] }));
    expect(await statisticsOf(read)).toEqual(STATISTICS);
  });

  test('doc_strings, types and stack traces do not reach memory, names of scopes do', async () => {
    const metadata = {
      'pkg.torch.onnx.stack_trace': 'File "/home/me/secret.py"',
      'pkg.torch.onnx.name_scopes': "['', 'stem', 'stem.bn', 'batch_norm']",
    };
    const norm_ = await openNorm(normModel({ nodes: [norm('bn', { name: '', metadata })] }));
    expect(norm_.path).toBe('stem.bn');
    expect(JSON.stringify(norm_)).not.toContain('secret');
  });
});

describe('broken protobuf is refused with the byte', () => {
  const good = normModel();
  test.each<[string, Uint8Array, string]>([
    ['a file without a graph', int(1, 8), 'malformed: expected an ONNX model, found no graph in it'],
    ['an empty file', new Uint8Array(), 'malformed: expected an ONNX model, found no graph'],
    [
      'a varint of eleven bytes',
      bytesOf(int(1, 8), tag(5, 0), varint(1, 11)),
      'malformed: expected a varint of at most 10 bytes',
    ],
    ['a varint that never ends', bytesOf(int(1, 8), tag(5, 0), 255, 255), 'truncated: expected more bytes'],
    ['wire type 6', bytesOf(int(1, 8), tag(9, 6)), 'malformed: expected a protobuf field, found wire type 6'],
    ['field number 0', Uint8Array.of(2, 0), 'malformed: expected a protobuf field, found field number 0'],
    [
      'a group that never ends',
      bytesOf(good, tag(99, 3)),
      'malformed: expected the end of a group of field 99',
    ],
    [
      'a group that never started',
      bytesOf(good, tag(99, 4)),
      'malformed: expected a field, found the end of a group of field 99',
    ],
    [
      'groups that cross',
      bytesOf(good, tag(99, 3), tag(98, 4)),
      'malformed: expected the end of a group of field 99, found that of field 98',
    ],
    [
      'a length of 2^62',
      bytesOf(int(1, 8), tag(7, 2), varint(2n ** 62n), good),
      'truncated: expected 4611686018427387904 bytes',
    ],
    [
      'a length of 2^63',
      bytesOf(int(1, 8), tag(7, 2), varint(2n ** 63n), good),
      'truncated: expected 9223372036854775808 bytes',
    ],
    [
      'a length that wraps in 32 bits',
      bytesOf(int(1, 8), tag(7, 2), varint(2n ** 32n + 2n), good),
      'truncated: expected 4294967298 bytes',
    ],
    [
      'a length beyond its message',
      bytesOf(int(1, 8), field(7, tag(5, 2), 9, 1), good),
      'malformed: expected a field of 9 bytes, found the end of its GraphProto after 1',
    ],
    [
      'a number beyond its message',
      bytesOf(field(8, tag(2, 0), 255), 1),
      'malformed: expected the end of a OperatorSetIdProto',
    ],
    [
      'groups nested without end',
      bytesOf(...Array.from({ length: 5000 }, () => tag(99, 3))),
      'limit-exceeded: expected messages nested at most 100 deep',
    ],
  ])('%s', async (_case, bytes, message) => {
    expect(await refusal(bytes)).toContain(message);
  });

  test('graphs nested thousands deep stop at the depth limit, a few deep are fine', async () => {
    const nest = (depth: number) => {
      let inner = graph({ nodes: [norm()] });
      for (let i = 0; i < depth; i++) {
        inner = graph({
          nodes: [node('If', ['c'], ['y'], { attributes: [attribute.graph('then_branch', inner)] })],
        });
      }
      return model(bytesOf(inner, graph({ initializers: normTensors(), inputs: ['x', 'c'] })));
    };
    expect(await refusal(nest(300))).toBe(
      "limit-exceeded: expected messages nested at most 100 deep, which is protobuf's own limit, found deeper nesting",
    );
    expect(await statisticsOf(await openNorm(nest(20)))).toEqual(STATISTICS);
  });

  test('any cut of a model gives a CheckpointError and never another error', async () => {
    for (let byteLength = 0; byteLength < good.byteLength; byteLength++) {
      const source = memorySource('cut.onnx', good.subarray(0, byteLength));
      await expect(openOnnx(source, { path: 'cut.onnx' })).rejects.toBeInstanceOf(CheckpointError);
    }
  });

  test('any changed byte gives a model or a CheckpointError', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(good.byteLength - 1), fc.nat(255), async (at, byte) => {
        const changed = good.slice();
        changed[at] = byte;
        try {
          await (await openOnnx(memorySource('changed.onnx', changed), { path: 'changed.onnx' })).close();
        } catch (error) {
          expect(error).toBeInstanceOf(CheckpointError);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('the error names the byte of the field', async () => {
    const bytes = bytesOf(int(1, 8), field(7, tag(5, 2), 9, 1));
    await expect(openOnnx(memorySource('m.onnx', bytes), { path: 'm.onnx' })).rejects.toMatchObject({
      offset: 4,
    });
  });
});

describe('what a model may cost is limited', () => {
  test('too many nodes', async () => {
    const empty = Uint8Array.from({ length: 2 * 200_001 }, (_, i) => (i % 2 === 0 ? 0x0a : 0));
    expect(await refusal(bytesOf(int(1, 8), field(7, empty)))).toContain(
      'limit-exceeded: expected a model of at most 200000 nodes',
    );
  });

  test('too many bytes beside the tensors', async () => {
    const name = new Uint8Array(65 * 1024 * 1024).fill(97);
    const graphBytes = Buffer.concat([tag(2, 2), varint(name.byteLength), name]);
    const bytes = Buffer.concat([int(1, 8), tag(7, 2), varint(graphBytes.byteLength), graphBytes]);
    expect(await refusal(bytes)).toContain(
      'limit-exceeded: expected a model of at most 67108864 bytes beside its tensors',
    );
  });
});

test('payloads are not read: opening costs the same whatever the weights weigh', async () => {
  const large = tensor('conv.weight', [1000, 1000], 1, field(9, new Uint8Array(4_000_000)));
  const bytes = normModel({ initializers: [large, ...normTensors()] });
  const source = countingSource('large.onnx', bytes);
  const checkpoint = await openOnnx(source, { path: 'large.onnx' });
  expect(source.bytesRead).toBeLessThan(16 * 1024);
  expect(checkpoint.tensors.get('conv.weight')?.range.offset).toBe(
    positionOf(bytes, 'conv.weight') - 4_000_000 - 2,
  );
  await checkpoint.close();
  expect(source.isClosed).toBe(true);
});

test('a file is closed when it cannot be opened as a model', async () => {
  const source = countingSource('broken.onnx', Uint8Array.of(8));
  await expect(openOnnx(source, { path: 'broken.onnx' })).rejects.toBeInstanceOf(CheckpointError);
  expect(source.isClosed).toBe(true);
});

test('the producer and what is newer than known are said', async () => {
  const { graph: opened, warnings } = await open(normModel({}, { irVersion: 15 }));
  expect(opened.producer).toBe('pytorch 2.13.0');
  expect(warnings).toEqual(['the model has the ONNX IR version 15; the newest known here is 14']);
});
