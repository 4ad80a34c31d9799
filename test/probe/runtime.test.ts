import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { loadRuntime, type OnnxRuntime, openSession } from '../../src/probe/runtime.js';
import { failureOf, usageFailureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';

const empty = makeTempDirectory();

describe('loadRuntime', () => {
  afterEach(() => vi.unstubAllEnvs());

  test.each([
    [undefined, '1'],
    ['0', '0'],
  ])('has the runtime send nothing of its use, unless the user says so: %s', async (said, wanted) => {
    vi.stubEnv('ORT_DISABLE_TELEMETRY', said);
    let seen: string | undefined;
    await usageFailureOf(() =>
      loadRuntime(async () => {
        seen = process.env['ORT_DISABLE_TELEMETRY'];
      }),
    );
    expect(seen).toBe(wanted);
  });

  test('loads onnxruntime-node', async () => {
    const runtime = await loadRuntime();
    expect(runtime.env.versions.node).toMatch(/^\d+\.\d+/);
  });

  test('says how to install it where it is missing, and how to keep the install offline', async () => {
    const missing = pathToFileURL(join(empty, 'node_modules/onnxruntime-node/dist/index.js')).href;
    const { message, hint } = await usageFailureOf(() =>
      loadRuntime(() => import(/* @vite-ignore */ missing)),
    );
    expect(message).toBe('a probe runs the model with onnxruntime-node, which is not installed');
    expect(hint).toContain('npm install onnxruntime-node');
    expect(hint).toContain('ONNXRUNTIME_NODE_INSTALL=skip npx');
  });

  test('says so when it is there and does not load', async () => {
    const broken = () => Promise.reject(new Error('libonnxruntime.so.1: cannot open\n    at dlopen'));
    expect((await usageFailureOf(() => loadRuntime(broken))).message).toBe(
      'onnxruntime-node could not be loaded: libonnxruntime.so.1: cannot open',
    );
    expect((await usageFailureOf(() => loadRuntime(async () => ({})))).message).toMatch(
      /not what a probe needs/,
    );
  });
});

test('a complaint of ONNX Runtime is one line, and names from the model in it steer no terminal', async () => {
  const create = () => Promise.reject(new Error('node \u001b[2J is bad\nat …'));
  const runtime = { InferenceSession: { create } } as unknown as OnnxRuntime;
  const open = () => openSession(runtime, 'm.onnx', new Uint8Array(), {});
  expect((await failureOf(open)).message).toBe('ONNX Runtime cannot load the model: node \\x1b[2J is bad');
});
