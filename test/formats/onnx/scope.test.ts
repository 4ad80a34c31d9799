import { describe, expect, test } from 'vitest';
import {
  attribute,
  call,
  graph,
  localFunction,
  model,
  node,
  norm,
  normModel,
  normNames,
  normTensors,
} from './build-onnx.js';
import { open, openNorm, refusal, statisticsOf, valuesOf } from './open.js';

const STATISTICS = { mean: [3, -4], variance: [5, 6] };
const INPUTS = ['X', 'S', 'B', 'M', 'V'];

/** A function `Block` around a norm node over its inputs. */
function block(
  parts: { readonly name?: string; readonly overload?: string; readonly opset?: number } = {},
): Uint8Array {
  const inner = node('BatchNormalization', INPUTS, ['Y'], { name: 'inner' });
  return localFunction(parts.name ?? 'Block', { inputs: INPUTS, outputs: ['Y'], nodes: [inner], ...parts });
}

describe('norm nodes in subgraphs', () => {
  test.each(['If', 'Loop', 'Scan'])('%s: parameters come from the scope around', async (op) => {
    const body = graph({ nodes: [norm()], inputs: ['x'], outputs: ['bn.y'] });
    const outer = node(op, ['x'], ['y'], { name: 'outer', attributes: [attribute.graph('body', body)] });
    const read = await openNorm(normModel({ nodes: [outer] }));
    expect(await statisticsOf(read)).toEqual(STATISTICS);
    expect(read.scope).toEqual(['outer.body']);
    expect(read.inputNames).toEqual(normNames());
  });

  test('an inner name hides an outer one, and both branches are read', async () => {
    const branch = (scale: number) => graph({ nodes: [norm()], initializers: normTensors('bn', scale) });
    const outer = node('If', ['c'], ['y'], {
      attributes: [attribute.graph('then_branch', branch(10)), attribute.graph('else_branch', branch(100))],
    });
    const { graph: read } = await open(normModel({ nodes: [outer, norm()], inputs: ['x', 'c'] }));
    const means = await Promise.all(read.norms.map((item) => valuesOf(item.mean)));
    expect(means).toEqual([
      [30, -40],
      [300, -400],
      [3, -4],
    ]);
    expect(read.norms.map((item) => item.scope)).toEqual([['If.then_branch'], ['If.else_branch'], []]);
  });

  test('an input of the body supplies nothing that can be read', async () => {
    const body = graph({ nodes: [norm()], inputs: ['bn.running_mean'] });
    const read = await openNorm(
      normModel({
        nodes: [node('Loop', ['x'], ['y'], { name: 'loop', attributes: [attribute.graph('body', body)] })],
      }),
    );
    expect(await valuesOf(read.mean)).toBe(
      'the input "bn.running_mean" of the subgraph loop.body supplies it at run time',
    );
  });

  test('nested ones see every scope around', async () => {
    const wrap = (inner: Uint8Array, initializers: readonly Uint8Array[] = []) =>
      graph({
        nodes: [
          node('If', ['c'], ['y'], { name: 'if', attributes: [attribute.graph('then_branch', inner)] }),
        ],
        initializers,
      });
    const middle = wrap(graph({ nodes: [norm()] }), normTensors().slice(2));
    const read = await openNorm(
      normModel({
        nodes: [
          node('If', ['c'], ['y'], {
            name: 'if',
            attributes: [attribute.graph('then_branch', wrap(middle))],
          }),
        ],
        initializers: normTensors().slice(0, 2),
      }),
    );
    expect(await statisticsOf(read)).toEqual(STATISTICS);
    expect(read.scope).toHaveLength(3);
  });
});

describe('norm nodes in local functions', () => {
  test('are one layer for every call', async () => {
    const nodes = [
      call('Block', ['x', ...normNames('a')], ['y'], { name: 'first' }),
      call('Block', ['y', ...normNames('b')], ['z'], { name: 'second' }),
    ];
    const bytes = model(
      graph({ nodes, initializers: [...normTensors('a'), ...normTensors('b', 2)], inputs: ['x'] }),
      { functions: [block()] },
    );
    const { graph: read } = await open(bytes);
    expect(read.norms.map((item) => [item.nodeName, item.scope, item.inputNames[2]])).toEqual([
      ['inner', ['first'], 'a.running_mean'],
      ['inner', ['second'], 'b.running_mean'],
    ]);
    expect(await Promise.all(read.norms.map((item) => valuesOf(item.mean)))).toEqual([
      [3, -4],
      [6, -8],
    ]);
  });

  test('have the operator set that the function imports', async () => {
    const nodes = [call('Block', ['x', ...normNames()], ['y'])];
    const read = await openNorm(normModel({ nodes }, { opset: 17, functions: [block({ opset: 13 })] }));
    expect(read.opset).toBe(13);
  });

  test('may be two functions deep, behind Identity', async () => {
    const outer = localFunction('Outer', {
      inputs: INPUTS,
      outputs: ['Y'],
      nodes: [
        node('Identity', ['M'], ['M2']),
        call('Block', ['X', 'S', 'B', 'M2', 'V'], ['Y'], { name: 'call' }),
      ],
    });
    const read = await openNorm(
      normModel({ nodes: [call('Outer', ['x', ...normNames()], ['y'])] }, { functions: [block(), outer] }),
    );
    expect(await statisticsOf(read)).toEqual(STATISTICS);
    expect(read.inputNames).toEqual(normNames());
  });

  test('take attributes from the call, or the defaults of the function', async () => {
    const body = localFunction('Block', {
      inputs: ['X', 'S', 'B', 'V'],
      outputs: ['Y'],
      attributes: ['M'],
      defaults: [attribute.float('eps', 0.25)],
      nodes: [
        node('Constant', [], ['M'], { attributes: [attribute.reference('value_floats', 'M')] }),
        node('BatchNormalization', INPUTS, ['Y'], { attributes: [attribute.reference('epsilon', 'eps')] }),
      ],
    });
    const inputs = ['x', 'bn.weight', 'bn.bias', 'bn.running_var'];
    const passing = (...attributes: Uint8Array[]) =>
      normModel(
        {
          nodes: [call('Block', inputs, ['y'], { attributes: [attribute.floats('M', 8, 9), ...attributes] })],
        },
        { functions: [body] },
      );
    const defaulted = await openNorm(passing());
    expect(defaulted.epsilon).toBe(0.25);
    expect(await valuesOf(defaulted.mean)).toEqual([8, 9]);
    expect((await openNorm(passing(attribute.float('eps', 0.5)))).epsilon).toBe(0.5);
  });

  test('are found by overload', async () => {
    const other = localFunction('Block', {
      inputs: INPUTS,
      outputs: ['Y'],
      nodes: [node('Relu', ['X'], ['Y'])],
      overload: 'plain',
    });
    const nodes = [
      call('Block', ['x', ...normNames()], ['y'], { overload: 'norm' }),
      call('Block', ['y'], ['z'], { overload: 'plain' }),
    ];
    const { graph: read } = await open(
      normModel({ nodes }, { functions: [other, block({ overload: 'norm' })] }),
    );
    expect(read.norms).toHaveLength(1);
  });

  test('whose call leaves an input out are unresolved', async () => {
    const read = await openNorm(
      normModel(
        { nodes: [call('Block', ['x', 'bn.weight', 'bn.bias', '', 'bn.running_var'], ['y'])] },
        { functions: [block()] },
      ),
    );
    expect(await valuesOf(read.mean)).toBe('the function call leaves this input out');
  });

  test('do not see the names around the call', async () => {
    const body = localFunction('Block', { inputs: ['X'], outputs: ['Y'], nodes: [norm()] });
    expect(
      await refusal(normModel({ nodes: [call('Block', ['x'], ['y'])] }, { functions: [body] })),
    ).toContain('found nothing that supplies it');
  });
});

describe('a name that is defined twice', () => {
  const relu = (name: string, output: string) => node('Relu', ['x'], [output], { name });
  const message = (node: string, output: string, owner: string) =>
    `malformed: Relu "${node}": expected outputs of names of their own, found "${output}", which is that of ${owner} as well (duplicate)`;

  test('by two nodes is refused', async () => {
    const nodes = [relu('one', 'y'), relu('two', 'y'), norm()];
    expect(await refusal(normModel({ nodes }))).toBe(message('two', 'y', 'Relu "one"'));
  });

  test.each(['x', 'bn.weight'])('by a node and by the graph itself is refused: %s', async (name) => {
    expect(await refusal(normModel({ nodes: [relu('one', name), norm()] }))).toBe(
      message('one', name, 'an input or initializer'),
    );
  });

  test('within a function is refused', async () => {
    const nodes = [node('Relu', ['X'], ['Y'], { name: 'one' }), node('Relu', ['X'], ['Y'], { name: 'two' })];
    const body = localFunction('Block', { inputs: ['X'], outputs: ['Y'], nodes });
    const parts = { functions: [body] };
    expect(await refusal(normModel({ nodes: [call('Block', ['x'], ['y'])] }, parts))).toBe(
      message('two', 'Y', 'Relu "one"'),
    );
  });

  test('in both branches of an If and around it is as it should be', async () => {
    const branch = () => graph({ nodes: [relu('inner', 'y')], outputs: ['y'] });
    const attributes = [attribute.graph('then_branch', branch()), attribute.graph('else_branch', branch())];
    const nodes = [relu('outer', 'y'), node('If', ['c'], ['z'], { attributes }), norm()];
    await expect(open(normModel({ nodes, inputs: ['x', 'c'] }))).resolves.toBeDefined();
  });
});

describe('functions that would not end', () => {
  const calling = (name: string, ...callees: readonly string[]) =>
    localFunction(name, {
      inputs: ['X'],
      outputs: ['Y'],
      nodes: callees.map((callee, i) => call(callee, ['X'], [`y${i}`])),
    });
  const start = graph({ nodes: [call('F0', ['x'], ['y'])], inputs: ['x'] });

  test('because they call themselves', async () => {
    expect(await refusal(model(start, { functions: [calling('F0', 'F0')] }))).toContain(
      'found function "F0" calling itself (recursion)',
    );
    expect(await refusal(model(start, { functions: [calling('F0', 'F1'), calling('F1', 'F0')] }))).toContain(
      'recursion',
    );
  });

  test('because they double at every step', async () => {
    const functions = Array.from({ length: 30 }, (_, i) => calling(`F${i}`, `F${i + 1}`, `F${i + 1}`));
    expect(await refusal(model(start, { functions }))).toContain(
      'limit-exceeded: expected a model of at most 20000 function calls',
    );
  });

  test('because they are nested too deep', async () => {
    const functions = Array.from({ length: 150 }, (_, i) => calling(`F${i}`, `F${i + 1}`));
    expect(await refusal(model(start, { functions }))).toContain(
      'expected local functions nested at most 100 deep',
    );
  });
});
