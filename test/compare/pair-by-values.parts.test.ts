import { describe, expect, test } from 'vitest';
import type { Checkpoint, Tensor } from '../../src/checkpoint/checkpoint.js';
import { compareCheckpoints } from '../../src/compare-checkpoints.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';

/** A network of two norm layers, each fed by a weight. */
const network = (path: string, { mean = 0.5, weight = 1 } = {}): readonly Tensor[] =>
  [1, 2].flatMap((at) => [
    tensorOf(`${path}conv${at}.weight`, [weight, at, 3, 4], { shape: [2, 2] }),
    ...normTensors(`${path}bn${at}`, { mean: [mean, at], weight: [1.5, at * weight] }),
  ]);

const ofParts = (parts: Readonly<Record<string, readonly Tensor[]>>): Checkpoint => ({
  ...checkpointOf(Object.values(parts).flat()),
  parts: Object.keys(parts),
});

async function statusesOf(after: Checkpoint, before = checkpointOf(network(''))) {
  const { layers } = await compareCheckpoints(before, after);
  return Object.fromEntries(layers.map(({ after: { name }, status }) => [name, status]));
}

describe('one network of before goes with each of after that came of it', () => {
  test('a trained student and a teacher that stood still', async () => {
    const after = ofParts({
      student: network('student.', { mean: 7, weight: 9 }),
      teacher: network('teacher.'),
    });
    expect(await statusesOf(after)).toEqual({
      'student.bn1': 'trained',
      'student.bn2': 'trained',
      'teacher.bn1': 'locked',
      'teacher.bn2': 'locked',
    });
  });

  test('a student whose frozen half drifted beside a teacher that stood still', async () => {
    const [, , ...rest] = network('student.', { weight: 9 });
    const frozen = network('student.', { mean: 7 }).filter(({ name }) => /1(\.|$)/.test(name));
    const trained = rest.filter(({ name }) => /2(\.|$)/.test(name));
    const after = ofParts({ student: [...frozen, ...trained], teacher: network('teacher.') });
    expect(await statusesOf(after)).toMatchObject({ 'student.bn1': 'drifted', 'teacher.bn1': 'locked' });
  });

  test('two that were trained both, of which no values tell', async () => {
    const trained = (path: string, weight: number) => network(path, { mean: weight, weight });
    const after = ofParts({ a: trained('a.', 8), b: trained('b.', 9) });
    expect(Object.values(await statusesOf(after))).toEqual(['trained', 'trained', 'trained', 'trained']);
  });
});

test('a network that only shares a name with it stays unpaired', async () => {
  const after = ofParts({
    G: network('G.'),
    D: [...normTensors('D.bn1'), ...normTensors('D.x'), ...normTensors('D.y')],
  });
  expect(await statusesOf(after)).toEqual({ 'G.bn1': 'locked', 'G.bn2': 'locked' });
});

test('networks on both sides go by their names', async () => {
  const both = () => ofParts({ a: network('a.'), b: network('b.', { mean: 3 }) });
  expect(Object.values(await statusesOf(both(), both()))).toEqual(['locked', 'locked', 'locked', 'locked']);
});
