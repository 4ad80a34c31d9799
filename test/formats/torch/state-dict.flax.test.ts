import { expect, test } from 'vitest';
import {
  dict,
  global,
  int,
  list,
  op,
  type Piece,
  pickle,
  reduce,
  tensor,
  text,
  tuple,
} from './build/pickle-writer.js';
import { open, zipCheckpoint } from './build/torch-files.js';

const params = dict({
  conv: dict({ kernel: tensor({ key: '0' }) }),
  bn: dict({ scale: tensor({ key: '1' }) }),
});
const statistics = dict({ bn: dict({ mean: tensor({ key: '2' }), var: tensor({ key: '3' }) }) });
const NAMES = ['conv.kernel', 'bn.scale', 'bn.mean', 'bn.var'];

const frozen = (tree: Piece) => reduce(global('flax.core.frozen_dict', 'FrozenDict'), tuple(tree));
const namesOf = async (root: Piece, select?: string) => [
  ...(await open(zipCheckpoint(root), select)).tensors.keys(),
];

test.each<[string, Piece]>([
  ['side by side', dict({ params, batch_stats: statistics })],
  ['frozen', frozen(dict({ params: frozen(params), batch_stats: frozen(statistics) }))],
  [
    'in a training state',
    dict({ step: int(3), params, batch_stats: statistics, opt_state: list(dict({ mu: params })) }),
  ],
  ['below other keys', dict({ epoch: int(3), variables: dict({ params, batch_stats: statistics }) })],
])('the two trees of a model are one: %s', async (_, root) => {
  expect(await namesOf(root)).toEqual(NAMES);
  expect(await open(zipCheckpoint(root))).toMatchObject({ inModuleOrder: false });
});

test('several models keep their names apart', async () => {
  const model = dict({ params, batch_stats: statistics });
  const root = dict({ student: model, teacher: model });
  expect(await namesOf(root)).toEqual(
    ['student', 'teacher'].flatMap((part) => NAMES.map((name) => `${part}.${name}`)),
  );
  expect(await namesOf(root, 'teacher')).toEqual(NAMES);
});

test('keys that are paths are names with dots', async () => {
  const key = (...parts: string[]) => tuple(...parts.map(text));
  const root = op(
    ...['}(', key('params', 'bn', 'scale'), tensor({ key: '1' })],
    ...[key('batch_stats', 'bn', 'mean'), tensor({ key: '2' })],
    ...[key('batch_stats', 'bn', 'var'), tensor({ key: '3' }), 'u'],
  );
  expect(await namesOf(root)).toEqual(['params.bn.scale', 'batch_stats.bn.mean', 'batch_stats.bn.var']);
});

test('trees in trees without end are no model', async () => {
  let tree = statistics;
  for (let depth = 0; depth < 5000; depth++) tree = dict({ params: dict({}), batch_stats: tree });
  await expect(open(zipCheckpoint(pickle(tree)))).rejects.toThrow('expected tensors');
});
