import { describe, expect, test } from 'vitest';
import type { Declaration, OptimizerDeclaration } from '../../../src/checkpoint/checkpoint.js';
import {
  dict,
  float,
  int,
  list,
  no,
  none,
  op,
  type Piece,
  type TensorPiece,
  tensor,
  text,
} from './build/pickle-writer.js';
import { normLayer, open, zipCheckpoint } from './build/torch-files.js';

const MODEL = dict(normLayer('bn.'));

const declarationsOf = async (root: Piece) => (await open(zipCheckpoint(root))).declarations ?? [];

/** What is kept of parameters, by number. */
const stateOf = (entries: readonly (readonly [key: Piece, kept: Piece])[]) =>
  op('}', '(', ...entries.flat(), 'u');
const moments = (size: readonly number[]) =>
  dict({ step: tensor({ key: '0', size: [], stride: [] }), exp_avg: shaped(size), exp_avg_sq: shaped(size) });
const shaped = (size: readonly number[], overrides: Partial<TensorPiece> = {}) =>
  tensor({ key: '1', size, stride: size.map(() => 1), ...overrides });
const numbers = (...values: readonly number[]) => list(...values.map(int));

/** A list of so many numbers, which are too many for arguments. */
function countTo(count: number): Piece {
  const bytes = new Uint8Array(5 * count);
  const view = new DataView(bytes.buffer);
  for (let number = 0; number < count; number++) {
    bytes[5 * number] = 'J'.charCodeAt(0);
    view.setInt32(5 * number + 1, number, true);
  }
  return op(']', '(', bytes, 'e');
}

const ADAM = dict({
  state: stateOf([[int(1), moments([2, 2])]]),
  param_groups: list(dict({ lr: float(0.1), initial_lr: float(0.5), betas: none, params: numbers(0, 1) })),
});

function expectOptimizer(declaration: Declaration | undefined): OptimizerDeclaration {
  if (declaration?.kind !== 'optimizer') throw new Error(`no optimizer: ${JSON.stringify(declaration)}`);
  return declaration;
}

async function groupOf(group: Record<string, Piece>, state: Piece = dict({})) {
  const [declaration] = await declarationsOf(
    dict({ model: MODEL, optimizer: dict({ state, param_groups: list(dict(group)) }) }),
  );
  const [first] = expectOptimizer(declaration).groups;
  if (first === undefined) throw new Error('no group');
  return first;
}

test('groups tell their learning rates, parameters whether they have state, and of which shape', async () => {
  expect(await declarationsOf(dict({ model: MODEL, optimizer: ADAM }))).toEqual([
    {
      kind: 'optimizer',
      where: 'optimizer',
      groups: [
        {
          learningRate: 0.1,
          initialLearningRate: 0.5,
          isStateTelling: true,
          parameters: [
            { name: null, hasState: false, shape: null },
            { name: null, hasState: true, shape: [2, 2] },
          ],
        },
      ],
    },
  ]);
});

test.each<[string, Record<string, Piece>, string]>([
  ['under any key', { model: MODEL, my_optim: ADAM }, 'my_optim'],
  ['in Lightning’s list', { state_dict: MODEL, optimizer_states: list(ADAM) }, 'optimizer_states.0'],
  ['deeper', { net: MODEL, train: dict({ state: dict({ opt: ADAM }) }) }, 'train.state.opt'],
])('an optimizer is found %s', async (_, entries, where) => {
  expect(await declarationsOf(dict(entries))).toMatchObject([{ kind: 'optimizer', where }]);
});

test('names stand beside the numbers, or in their place', async () => {
  const named = await groupOf({ params: numbers(0, 1), param_names: list(text('a'), text('b')) });
  expect(named.parameters.map(({ name }) => name)).toEqual(['a', 'b']);
  const fsdp = await groupOf({ params: list(text('a')) }, dict({ a: moments([3]) }));
  expect(fsdp.parameters).toEqual([{ name: 'a', hasState: true, shape: [3] }]);
  const short = await groupOf({ params: numbers(0, 1), param_names: list(text('a')) });
  expect(short.parameters.map(({ name }) => name)).toEqual([null, null]);
});

describe('state tells what was updated only where the optimizer keeps some for all', () => {
  test.each<[string, Record<string, Piece>, boolean]>([
    ['Adam', { betas: none }, true],
    ['SGD without momentum', { momentum: int(0) }, false],
    ['SGD with momentum', { momentum: float(0.9) }, true],
    ['RMSprop without momentum', { momentum: int(0), alpha: float(0.99) }, true],
    ['L-BFGS', { history_size: int(100) }, false],
    ['Adagrad', { initial_accumulator_value: int(0) }, false],
  ])('%s', async (_, group, isTelling) => {
    expect((await groupOf({ ...group, params: numbers(0) })).isStateTelling).toBe(isTelling);
  });

  test('of a group with some state, whatever its settings', async () => {
    const state = stateOf([[int(0), dict({ momentum_buffer: none })]]);
    expect((await groupOf({ momentum: int(0), params: numbers(0, 1) }, state)).isStateTelling).toBe(true);
  });
});

describe('a shape is not known', () => {
  const shapeOf = async (kept: Piece) =>
    (await groupOf({ params: numbers(0) }, stateOf([[int(0), kept]]))).parameters[0]?.shape;

  test.each<[string, Piece]>([
    ['from factors of different shapes', dict({ row: shaped([2, 1]), column: shaped([1, 3]) })],
    ['from a step alone', dict({ step: shaped([1]) })],
    ['from a damaged tensor', dict({ exp_avg: shaped([2], { size: [-2] }) })],
    ['from what is no dict', none],
  ])('%s', async (_, kept) => {
    expect(await shapeOf(kept)).toBeNull();
  });
});

describe('what PyTorch does not write says nothing, with the reason', () => {
  const reasonOf = async (groups: Piece) => {
    const [declaration] = await declarationsOf(
      dict({ model: MODEL, optimizer: dict({ state: dict({}), param_groups: groups }) }),
    );
    return declaration?.kind === 'unread' && declaration.of === 'optimizer' ? declaration.reason : null;
  };

  test.each<[string, Piece, string]>([
    ['a number twice', list(dict({ params: numbers(0, 0) })), 'holds a parameter twice'],
    [
      'a number in two groups',
      list(dict({ params: numbers(0) }), dict({ params: numbers(0) })),
      'holds a parameter twice',
    ],
    ['a negative number', list(dict({ params: numbers(-1) })), 'by neither number nor name'],
    ['a flag', list(dict({ params: list(no) })), 'by neither number nor name'],
    ['no parameters', list(dict({ lr: int(1) })), 'without a list of parameters'],
    ['a group that is none', list(none), 'a group that is no dict'],
    ['a million numbers', list(dict({ params: countTo(1_000_000) })), 'more than 200000 parameters'],
  ])('%s', async (_, groups, reason) => {
    expect(await reasonOf(groups)).toContain(reason);
  });

  test('optimizers without end are counted, not all read', async () => {
    const found = await declarationsOf(
      dict({ model: MODEL, optimizers: list(...Array.from({ length: 100 }, () => ADAM)) }),
    );
    expect(found).toHaveLength(65);
    expect(found.at(-1)).toMatchObject({ kind: 'unread', of: 'optimizer' });
  });

  test('a dict that holds itself ends the search', async () => {
    const cycle = op('}q', 7, text('itself'), 'h', 7, 's');
    expect(await declarationsOf(dict({ model: MODEL, cycle, optimizer: ADAM }))).toHaveLength(1);
  });
});

test('an averaged copy is not what the optimizer trained, and that is said', async () => {
  const ema = dict(normLayer('bn.', { key: '3' }));
  const root = zipCheckpoint(dict({ model: MODEL, ema, optimizer: ADAM }));
  expect((await open(root, 'ema')).warnings.join()).toContain('"ema" is an averaged copy');
  expect((await open(root, 'model')).warnings.join()).not.toContain('averaged copy:');
});

test('Lightning keeps the average as state_dict where it averages weights', async () => {
  const root = dict({ state_dict: MODEL, current_model_state: MODEL, optimizer_states: list(ADAM) });
  expect((await open(zipCheckpoint(root), 'state_dict')).warnings.join()).toContain(
    '"state_dict" is an averaged copy',
  );
});
