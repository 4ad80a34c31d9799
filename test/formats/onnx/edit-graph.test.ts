import { describe, expect, test } from 'vitest';
import {
  editModel,
  editNode,
  type GraphField,
  type NodeEdit,
  newGraphEdit,
} from '../../../src/formats/onnx/edit-graph.js';
import type { OnnxGraph, OnnxNode } from '../../../src/formats/onnx/schema.js';
import { readModel } from '../../../src/formats/onnx/schema.js';
import { holdBytes, memorySource } from '../../../src/io/byte-source.js';
import { bytesOf } from '../../build/bytes.js';
import { attribute, field, graph, int, model, node, normModel, tensor, varint } from './build-onnx.js';

/** Where a node stands: its position in the graph, or the name of an attribute of a node and a position in its graph. */
type Place = number | readonly [node: number, attribute: string, position: number];

interface Change {
  readonly nodes?: readonly (readonly [Place, Partial<NodeEdit>])[];
  readonly initializers?: ReadonlyMap<number, Uint8Array>;
  readonly added?: readonly GraphField[];
}

const graphField = (number: number, content: Uint8Array): GraphField => ({
  number,
  content: holdBytes(content),
});

function findNode({ nodes }: OnnxGraph, place: Place): OnnxNode {
  const [outer, attribute, position] = typeof place === 'number' ? [place] : place;
  const node = nodes[outer];
  const found = attribute === undefined ? node : node?.attributes.get(attribute)?.graph?.nodes[position ?? 0];
  if (found === undefined) throw new Error('there is no such node');
  return found;
}

async function edit(bytes: Uint8Array, { nodes = [], initializers = new Map(), added = [] }: Change) {
  const source = memorySource('m.onnx', bytes);
  const { graph } = await readModel(source);
  if (graph === null) throw new Error('there is no graph');
  const change = newGraphEdit(graph);
  for (const [place, parts] of nodes) Object.assign(editNode(change, findNode(graph, place)), parts);
  for (const [index, content] of initializers) {
    const initializer = graph.initializers[index];
    if (initializer !== undefined) change.initializers.set(initializer, holdBytes(content));
  }
  change.added.push(...added);
  return await editModel(source, change);
}

describe('editModel', () => {
  test('copies a model byte for byte where nothing changes, unknown and overlong fields included', async () => {
    const unknown = bytesOf(field(99, 'unknown'), int(98, 5), varint(14 * 8, 4), varint(3, 9));
    const bytes = normModel({}, { extra: unknown });
    expect(await edit(bytes, {})).toEqual(bytes);
  });

  test('renames inputs and outputs of one node, and puts nodes behind it', async () => {
    const before = graph({
      nodes: [node('A', ['x', 'y'], ['z']), node('A', ['x', 'y'], ['w'])],
      inputs: ['x'],
    });
    const after = graph({
      nodes: [node('A', ['x', 'y'], ['z']), node('A', ['x', 'new'], ['raw']), node('B', ['raw'], ['w'])],
      inputs: ['x'],
    });
    const change = {
      inputs: new Map([[1, 'new']]),
      outputs: new Map([[0, 'raw']]),
      following: [graphField(1, node('B', ['raw'], ['w']))],
    };
    expect(await edit(model(before), { nodes: [[1, change]] })).toEqual(model(after));
  });

  test('adds to the graph once, and counts nodes on, where the graph stands in two fields', async () => {
    const [first, second] = ['a', 'b'].map((name) => graph({ nodes: [node('A', [name], [`${name}2`])] }));
    const change: Change = {
      nodes: [[1, { inputs: new Map([[0, 'c']]) }]],
      added: [graphField(12, field(1, 'out'))],
    };
    const edited = await edit(model(first ?? bytesOf(), { extra: field(7, second ?? bytesOf()) }), change);
    const expected = model(bytesOf(field(12, field(1, 'out')), first ?? ''), {
      extra: field(7, graph({ nodes: [node('A', ['c'], ['b2'])] })),
    });
    expect(edited).toEqual(expected);
  });

  test('puts initializers in the place of others, and of nodes', async () => {
    const [old, other, added] = [tensor('old', [], 1), tensor('other', [], 1), tensor('added', [], 1)];
    const before = graph({
      nodes: [node('Constant', [], ['c']), node('A', ['c'], ['y'])],
      initializers: [old, other],
    });
    const change: Change = {
      nodes: [[0, { isRemoved: true, following: [graphField(5, added)] }]],
      initializers: new Map([[1, tensor('new', [2], 1)]]),
    };
    const { graph: edited } = await readModel(memorySource('m.onnx', await edit(model(before), change)));
    expect(edited?.nodes.map(({ op }) => op)).toEqual(['A']);
    expect(edited?.initializers.map(({ name }) => name).sort()).toEqual(['added', 'new', 'old']);
  });

  test('edits nodes of subgraphs', async () => {
    const branch = (input: string) => graph({ nodes: [node('A', [input], ['y'])] });
    const choose = (input: string) =>
      node('If', ['c'], ['y'], {
        attributes: [
          attribute.graph('then_branch', branch('x')),
          attribute.graph('else_branch', branch(input)),
        ],
      });
    const change: Change = { nodes: [[[0, 'else_branch', 0], { inputs: new Map([[0, 'new']]) }]] };
    expect(await edit(model(graph({ nodes: [choose('x')] })), change)).toEqual(
      model(graph({ nodes: [choose('new')] })),
    );
  });
});
