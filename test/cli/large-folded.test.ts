import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { FLOAT, field, graph, int, model, node, tensor, vector } from '../checkpoint/onnx/build-onnx.js';
import { BIN, makeWorkspace, run, runCli } from './run.js';

const LIBRARY = join(dirname(BIN), '..', 'dist', 'index.js');

/** Convolutions of so many channels and weights, 425 MiB together: enough for a second thread to help. */
const CONVS = ['conv1', 'conv2', 'conv3', 'conv4', 'conv5'];
const CHANNELS = 340;
const WIDTH = 64 * 1024;
const CONV_BYTES = 4 * CHANNELS * WIDTH;

/** Writes a model whose weights are zeros but for the first few of each channel; its file is mostly a hole. */
function writeModel(directory: string, name: string, factorOf: (channel: number) => number): void {
  const data = openSync(join(directory, `${name}.data`), 'w');
  ftruncateSync(data, CONVS.length * CONV_BYTES);
  for (let index = 0; index < CONVS.length; index++) {
    for (let channel = 0; channel < CHANNELS; channel++) {
      const weights = [1, -2, 3, 0.5].map((weight, i) => (weight + i * index) * factorOf(channel));
      writeSync(data, Float32Array.from(weights), 0, 16, index * CONV_BYTES + 4 * channel * WIDTH);
    }
  }
  closeSync(data);
  const entry = (key: string, value: string) => field(13, field(1, key), field(2, value));
  // Such a name is what an exporter of PyTorch gives to what it has folded.
  const names = CONVS.map(
    (_, index) => [`onnx::Conv_${2 * index + 1}`, `onnx::Conv_${2 * index + 2}`] as const,
  );
  const initializers = names.flatMap(([weight, bias], index) => [
    tensor(
      weight,
      [CHANNELS, 1, 1, WIDTH],
      FLOAT,
      entry('location', `${name}.data`),
      entry('offset', String(index * CONV_BYTES)),
      entry('length', String(CONV_BYTES)),
      int(14, 1),
    ),
    vector(bias, ...Array.from({ length: CHANNELS }, () => 0.25)),
  ]);
  const outputs = CONVS.map((conv) => `${conv}.out`);
  const nodes = names.map((inputs, index) =>
    node('Conv', ['x', ...inputs], outputs.slice(index, index + 1), { name: `/${CONVS[index]}/Conv` }),
  );
  writeFileSync(join(directory, name), model(graph({ nodes, initializers, inputs: ['x'], outputs })));
}

const PRELOAD = {
  /** Says when a thread is started; the machine counts as one of two cores. */
  'say-threads.cjs': `
    require('node:os').availableParallelism = () => 2;
    process.on('worker', () => process.stderr.write('a thread\\n'));`,
  'one-core.cjs': `
    require('node:os').availableParallelism = () => 1;
    process.on('worker', () => process.stderr.write('a thread\\n'));`,
  /** As Node's permission model does. */
  'no-threads.cjs': `
    require('node:os').availableParallelism = () => 2;
    require('node:worker_threads').Worker = class {
      constructor() {
        process.stderr.write('refused\\n');
        throw new Error('Access to this API has been restricted');
      }
    };`,
};

/** Two audits by the library. */
const TWICE = `
  import os from 'node:os';
  import { syncBuiltinESMExports } from 'node:module';
  os.availableParallelism = () => 2;
  syncBuiltinESMExports();
  let threads = 0;
  process.on('worker', () => threads++);
  const { audit } = await import(${JSON.stringify(pathToFileURL(LIBRARY).href)});
  const verdicts = [];
  for (let i = 0; i < 2; i++) verdicts.push((await audit('before.onnx', 'after.onnx')).verdict);
  console.log([threads + ' thread', ...verdicts].join(', '));
  setTimeout(() => console.log('the process is still there'), 2000).unref();`;

const workspace = makeWorkspace({ ...PRELOAD, 'twice.mjs': TWICE });
const DIFF = ['diff', '--format', 'json', 'before.onnx', 'after.onnx'];
const preload = (name: keyof typeof PRELOAD) => ({ preload: join(workspace, name) });

beforeAll(() => {
  writeModel(workspace, 'before.onnx', () => 1);
  writeModel(workspace, 'after.onnx', (channel) => 1 + channel / CHANNELS);
});

describe('the audit of two large folded models', () => {
  test('is one of two threads, and finds what one finds', async () => {
    const together = await runCli(DIFF, workspace, preload('say-threads.cjs'));
    const alone = await runCli(DIFF, workspace, preload('one-core.cjs'));
    expect(JSON.parse(together.stdout)).toMatchObject({
      layers: CONVS.map((name) => ({
        name,
        status: 'drifted',
        channels: CHANNELS,
        channelsMoved: CHANNELS - 1,
      })),
    });
    expect(together).toEqual({ ...alone, stderr: 'a thread\n', exitCode: 1 });
    expect(alone.stderr).toBe('');
  });

  test('does without where the process may have no thread', async () => {
    const { stderr, exitCode } = await runCli(DIFF, workspace, preload('no-threads.cjs'));
    expect({ stderr, exitCode }).toEqual({ stderr: 'refused\n', exitCode: 1 });
  });

  test('keeps the thread for the next audit, and the process no longer than it audits', async () => {
    const { stdout, stderr, exitCode } = await run(process.execPath, ['twice.mjs'], workspace);
    expect({ stdout, stderr, exitCode }).toEqual({
      stdout: '1 thread, drifted, drifted\n',
      stderr: '',
      exitCode: 0,
    });
  });

  test.skipIf(process.platform !== 'linux').each(['ulimit -v 100000000', 'ulimit -d 100000000'])(
    'does without under %s',
    async (limit) => {
      // V8 would end the process if it could not reserve enough for another thread.
      const command = `${limit}; exec '${process.execPath}' --import ./say-threads.cjs '${BIN}' ${DIFF.join(' ')}`;
      const { stderr, exitCode } = await run('sh', ['-c', command], workspace);
      expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 1 });
    },
  );
});

test('the audit of two small folded models is that of one thread', async () => {
  const small = ['before', 'after'].map((side) => `pairs/requires-grad-leak/${side}.fold.onnx`);
  const { stderr, exitCode } = await runCli(['diff', ...small], workspace, preload('say-threads.cjs'));
  expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 1 });
});
