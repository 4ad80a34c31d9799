import { expect, test } from 'vitest';
import { inspectCheckpoint } from '../../src/inspect.js';
import { render } from '../../src/report/render.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';

const inspectTensors = (...layers: readonly Readonly<Parameters<typeof normTensors>>[]) =>
  inspectCheckpoint(
    checkpointOf([tensorOf('conv.weight', [1]), ...layers.flatMap((args) => normTensors(...args))], {
      path: 'model.safetensors',
    }),
  );

test('a healthy checkpoint', async () => {
  expect(
    render(await inspectTensors(['bn1'], ['bn2', { mean: [1, 2], count: 1250 }])),
  ).toMatchInlineSnapshot(`
    "checkpoint  model.safetensors  safetensors, 2 norm layers, 5 learned tensors

    ✔ HEALTHY  all running statistics are finite
      2 norm layers, none with an error or a warning.

    layer  ch  mean rms  variance  batches  status
    bn1     2     0.395      2.00       10  ok
    bn2     2      1.58      2.00    1,250  ok
    "
  `);
});

test('what is wrong stands in the answer and below the table', async () => {
  const text = render(
    await inspectTensors(['bn1', { mean: [Number.NaN, 0] }], ['bn2', { mean: [0, 0], variance: [1, 1] }]),
  );
  expect(text).toMatch(/\n✖ error {2}Statistics are NaN, infinite or negative/);
  expect(text).toMatch(/\n· note {2}Statistics were never updated/);
  expect(text).toMatch(
    /\n✖ UNHEALTHY {2}statistics are NaN, infinite or negative\n {2}2 norm layers, 1 with an/,
  );
});

test('beyond sixty layers the rest is counted, until --all', async () => {
  const report = await inspectTensors(...Array.from({ length: 70 }, (_, i) => [`bn${i}`] as const));
  expect(render(report)).toContain('\n… 10 more layers (--all)\n');
  expect(render(report, { all: true }).match(/^bn\d+ /gm)).toHaveLength(70);
});

test('a hostile name steers nothing', async () => {
  const text = render(await inspectTensors([`\u001b[2J${'x'.repeat(10_000)}\nbn`, { mean: [Number.NaN] }]));
  expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThan(700);
});
