import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { inspect, inspectCheckpoint } from '../src/inspect.js';
import { checkpointOf, normTensors, tensorOf } from './build/checkpoints.js';
import { failureOf } from './build/failure.js';

test('every norm layer of a file is examined', async () => {
  const path = fileURLToPath(new URL('../fixtures/pairs/nan/after.safetensors', import.meta.url));
  const report = await inspect(path);
  expect(report.checkpoint).toMatchObject({ path, format: 'safetensors', layers: 8, learned: 26 });
  expect(report.layers.filter(({ status }) => status === 'invalid').map(({ name }) => name)).toEqual(
    report.findings.filter(({ kind }) => kind === 'invalid-stats').map(({ layer }) => layer),
  );
  expect(report.findings.length).toBeGreaterThan(0);
});

test('epsilon and channels are options', async () => {
  const report = await inspectCheckpoint(checkpointOf(normTensors('bn')), { epsilon: 0.25, channels: true });
  expect(report.layers[0]).toMatchObject({
    epsilon: 0.25,
    epsilonFrom: 'option',
    perChannel: { mean: [0.5, -0.25] },
  });
});

test('a checkpoint without norm layers is refused', async () => {
  expect(
    await failureOf(() => inspectCheckpoint(checkpointOf([tensorOf('w', [1])], { path: 'plain.pt' }))),
  ).toEqual({
    message: 'expected norm layers with running statistics, found no BatchNorm layer: nothing to inspect',
    code: 'no-norm-layers',
    file: 'plain.pt',
  });
});
