import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { onnx } from 'onnx-proto';
import onnxProto from 'onnx-proto';
import { expect, test } from 'vitest';
import {
  canonicalDomain,
  type OnnxAttribute,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  readModel,
} from '../../../src/formats/onnx/schema.js';
import type { Segment } from '../../../src/formats/onnx/wire.js';
import { memorySource } from '../../../src/io/byte-source.js';

/*
 * onnx-proto, which decodes a whole file in memory, is the judge of the reader, field by field. It knows ONNX 1.10:
 * overloads, metadata and defaults of functions are left out. So is the file that needs the occurrences of a singular
 * message merged, which protobuf's specification asks for and protobufjs does not do.
 */
const BEYOND_PROTOBUFJS = /graph_field_twice/;

/** Models of fixtures, and, where they are there, those that others made. */
const ROOTS = ['fixtures', '../shared/odd/A', '../shared/corpus', '../shared/reference'].filter(existsSync);

type Plain = unknown;

/** protobufjs gives int64 as its Long class where that is installed, else as a number. */
function toBigInt(value: unknown): bigint {
  if (typeof value === 'object' && value !== null && 'low' in value && 'high' in value)
    return (BigInt(Number(value.high)) << 32n) | BigInt(Number(value.low) >>> 0);
  return BigInt(Number(value ?? 0));
}

/** How many values stand in each payload field; the bytes of raw_data. */
function payloadOf(
  segments: readonly Segment[],
  bytes: Uint8Array,
  widths: Readonly<Record<number, number>>,
): Plain {
  const counts: Record<number, number | string> = {};
  for (const { field, form, offset, byteLength, stride } of segments) {
    const content = bytes.subarray(offset, offset + byteLength);
    const width = form === 'tagged' ? stride : (widths[field] ?? 0);
    // A varint ends at each byte below 128; a tagged one stands behind a tag of one byte.
    const ends = content.filter((byte) => byte < 0x80).length / (form === 'tagged' ? 2 : 1);
    const count = width > 0 ? byteLength / width : ends;
    if (field === RAW_DATA) counts[field] = Buffer.from(content).toString('base64');
    else if (count > 0) counts[field] = Number(counts[field] ?? 0) + count;
  }
  return counts;
}

const RAW_DATA = 9;
const TENSOR_WIDTHS = { 4: 4, 10: 8 };
const ATTRIBUTE_WIDTHS = { 7: 4 };

function decodedPayload(fields: Readonly<Record<number, ArrayLike<unknown> | null | undefined>>): Plain {
  const filled = Object.entries(fields).filter(([, values]) => (values?.length ?? 0) > 0);
  return Object.fromEntries(filled.map(([field, values]) => [field, values?.length]));
}

function readTensor(tensor: OnnxTensor, bytes: Uint8Array): Plain {
  const { segments, externalData, ...rest } = tensor;
  return { ...rest, external: [...(externalData ?? [])], payload: payloadOf(segments, bytes, TENSOR_WIDTHS) };
}

function decodedTensor(tensor: onnx.ITensorProto | null | undefined): Plain {
  const { floatData, int32Data, int64Data, doubleData, uint64Data, rawData } = tensor ?? {};
  const typed = decodedPayload({ 4: floatData, 5: int32Data, 7: int64Data, 10: doubleData, 11: uint64Data });
  const isRaw = tensor !== null && tensor !== undefined && Object.hasOwn(tensor, 'rawData');
  const raw = isRaw ? { [RAW_DATA]: Buffer.from(rawData ?? []).toString('base64') } : {};
  return {
    name: tensor?.name ?? '',
    dims: (tensor?.dims ?? []).map(toBigInt),
    dataType: tensor?.dataType ?? 0,
    dataLocation: tensor?.dataLocation ?? 0,
    external: [...new Map((tensor?.externalData ?? []).map(({ key, value }) => [key ?? '', value ?? '']))],
    payload: { ...Object(typed), ...raw },
  };
}

function readAttribute(attribute: OnnxAttribute, bytes: Uint8Array): Plain {
  const { segments, tensor, sparseTensor, graph, graphs, ...rest } = attribute;
  return {
    ...rest,
    payload: payloadOf(segments, bytes, ATTRIBUTE_WIDTHS),
    tensor: tensor && readTensor(tensor, bytes),
    isSparse: sparseTensor !== null,
    graphs: [...(graph ? [graph] : []), ...graphs].map((inner) => readGraph(inner, bytes)),
  };
}

function decodedAttribute(attribute: onnx.IAttributeProto): Plain {
  const { name, refAttrName, f, i, t, g, graphs, floats, ints, sparseTensor } = attribute;
  return {
    name: name ?? '',
    refName: refAttrName ?? '',
    float: f ?? 0,
    int: toBigInt(i),
    payload: decodedPayload({ 7: floats, 8: ints }),
    tensor: t ? decodedTensor(t) : null,
    isSparse: Boolean(sparseTensor),
    graphs: [...(g ? [g] : []), ...(graphs ?? [])].map(decodedGraph),
  };
}

function readNode(node: OnnxNode, bytes: Uint8Array): Plain {
  const { overload: _overload, notes: _notes, attributes, ...rest } = node;
  return { ...rest, attributes: [...attributes.values()].map((one) => readAttribute(one, bytes)) };
}

function decodedNode(node: onnx.INodeProto): Plain {
  const attributes = new Map((node.attribute ?? []).map((one) => [one.name ?? '', one]));
  return {
    name: node.name ?? '',
    op: node.opType ?? '',
    domain: canonicalDomain(node.domain ?? ''),
    inputs: node.input ?? [],
    outputs: node.output ?? [],
    attributes: [...attributes.values()].map(decodedAttribute),
  };
}

function readGraph(graph: OnnxGraph, bytes: Uint8Array): Plain {
  return {
    ...graph,
    nodes: graph.nodes.map((node) => readNode(node, bytes)),
    initializers: graph.initializers.map((tensor) => readTensor(tensor, bytes)),
    sparseInitializers: graph.sparseInitializers.map(({ values, indices, dims }) => ({
      values: readTensor(values, bytes),
      indices: readTensor(indices, bytes),
      dims,
    })),
  };
}

function decodedGraph(graph: onnx.IGraphProto): Plain {
  return {
    name: graph.name ?? '',
    nodes: (graph.node ?? []).map(decodedNode),
    initializers: (graph.initializer ?? []).map(decodedTensor),
    sparseInitializers: (graph.sparseInitializer ?? []).map(({ values, indices, dims }) => ({
      values: decodedTensor(values),
      indices: decodedTensor(indices),
      dims: (dims ?? []).map(toBigInt),
    })),
    inputs: (graph.input ?? []).map(({ name }) => name ?? ''),
    outputs: (graph.output ?? []).map(({ name }) => name ?? ''),
  };
}

function decodedOpsets(imports: readonly onnx.IOperatorSetIdProto[] | null | undefined): Plain {
  const versions = (imports ?? []).map(
    ({ domain, version }) => [canonicalDomain(domain ?? ''), Number(toBigInt(version))] as const,
  );
  return new Map(versions);
}

function readWhole(model: OnnxModel, bytes: Uint8Array): Plain {
  return {
    ...model,
    graph: model.graph && readGraph(model.graph, bytes),
    functions: model.functions.map(({ defaults: _defaults, overload: _overload, nodes, ...rest }) => ({
      ...rest,
      nodes: nodes.map((node) => readNode(node, bytes)),
    })),
  };
}

function decodedWhole(model: onnx.ModelProto): Plain {
  return {
    irVersion: Number(toBigInt(model.irVersion)),
    producerName: model.producerName,
    producerVersion: model.producerVersion,
    opsets: decodedOpsets(model.opsetImport),
    graph: model.graph ? decodedGraph(model.graph) : null,
    functions: model.functions.map((body) => ({
      name: body.name ?? '',
      domain: canonicalDomain(body.domain ?? ''),
      inputs: body.input ?? [],
      outputs: body.output ?? [],
      opsets: decodedOpsets(body.opsetImport),
      nodes: (body.node ?? []).map(decodedNode),
    })),
  };
}

/** Null for what onnx-proto refuses as malformed; what the reader says of such files is tested beside this. */
function decode(bytes: Uint8Array): onnx.ModelProto | null {
  try {
    return onnxProto.onnx.ModelProto.decode(bytes);
  } catch {
    return null;
  }
}

test.each(ROOTS)('models in %s are read as onnx-proto decodes them', async (root) => {
  const paths = readdirSync(root, { recursive: true, encoding: 'utf8' }).sort();
  const models = paths.filter((path) => path.endsWith('.onnx') && !BEYOND_PROTOBUFJS.test(path));
  const different: string[] = [];
  let compared = 0;
  for (const path of models) {
    const bytes = readFileSync(join(root, path));
    const decoded = decode(bytes);
    if (decoded === null) continue;
    try {
      const model = await readModel(memorySource(path, bytes));
      if (!isDeepStrictEqual(readWhole(model, bytes), decodedWhole(decoded))) different.push(path);
      compared++;
    } catch (error) {
      different.push(`${path}: ${String(error)}`);
    }
  }
  expect(different).toEqual([]);
  expect(compared).toBeGreaterThan(10);
});
