import { describe, expect, test } from 'vitest';
import {
  editModel,
  type GraphEdit,
  type GraphField,
  type NodeEdit,
} from '../../../src/formats/onnx/edit-graph.js';
import { readModel } from '../../../src/formats/onnx/read-model.js';
import { holdBytes, memorySource } from '../../../src/io/byte-source.js';
import { bytesOf } from '../../build/bytes.js';
import { attribute, field, graph, int, model, node, normModel, tensor, varint } from './build-onnx.js';

const editNode = (parts: Partial<NodeEdit>): NodeEdit => ({
  inputs: new Map(),
  outputs: new Map(),
  graphs: new Map(),
  following: [],
  ...parts,
});
const editGraph = (nodes: readonly (readonly [number, NodeEdit])[], ...added: GraphField[]): GraphEdit => ({
  nodes: new Map(nodes),
  added,
});
const graphField = (number: number, content: Uint8Array): GraphField => ({
  number,
  content: holdBytes(content),
});
const edit = (bytes: Uint8Array, change: GraphEdit) => editModel(memorySource('m.onnx', bytes), change);

describe('editModel', () => {
  test('copies a model byte for byte where nothing changes, unknown and overlong fields included', async () => {
    const unknown = bytesOf(field(99, 'unknown'), int(98, 5), varint(14 * 8, 4), varint(3, 9));
    const bytes = normModel({}, { extra: unknown });
    expect(await edit(bytes, editGraph([]))).toEqual(bytes);
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
    const change = editNode({
      inputs: new Map([[1, 'new']]),
      outputs: new Map([[0, 'raw']]),
      following: [graphField(1, node('B', ['raw'], ['w']))],
    });
    expect(await edit(model(before), editGraph([[1, change]]))).toEqual(model(after));
  });

  test('adds to the graph once, and counts nodes on, where the graph stands in two fields', async () => {
    const [first, second] = ['a', 'b'].map((name) => graph({ nodes: [node('A', [name], [`${name}2`])] }));
    const change = editGraph(
      [[1, editNode({ inputs: new Map([[0, 'c']]) })]],
      graphField(12, field(1, 'out')),
    );
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
    const change: GraphEdit = {
      nodes: new Map([[0, editNode({ isRemoved: true, following: [graphField(5, added)] })]]),
      initializers: new Map([[1, holdBytes(tensor('new', [2], 1))]]),
      added: [],
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
    const inner = editGraph([[0, editNode({ inputs: new Map([[0, 'new']]) })]]);
    const change = editNode({ graphs: new Map([['else_branch', new Map([[0, inner]])]]) });
    expect(await edit(model(graph({ nodes: [choose('x')] })), editGraph([[0, change]]))).toEqual(
      model(graph({ nodes: [choose('new')] })),
    );
  });
});
