import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import { describe, expect, test } from 'vitest';
import { POLICY_FILE_NAME } from '../../src/options.js';
import { safetensorsBytes } from '../build/safetensors.js';
import { makeWorkspace, runCli } from './run.js';

const BEFORE = 'pairs/requires-grad-leak/before.safetensors';
const AFTER = 'pairs/requires-grad-leak/after.safetensors';
const readPolicy = (workspace: string, name = POLICY_FILE_NAME) =>
  JSON.parse(readFileSync(join(workspace, name), 'utf8'));

test('init writes a policy from one checkpoint, says what it guessed, and diff takes it', async () => {
  const workspace = makeWorkspace();
  const { stdout, stderr, exitCode } = await runCli(['init', BEFORE], workspace);
  expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 0 });
  expect(stderr).toBe(
    `bn-audit: wrote "bn-audit.config.json"
  frozen  "backbone" (8 norm layers, 24 learned tensors)
  not     "head" (0 norm layers, 2 learned tensors)
  "frozen" was guessed from the names: keep what you freeze, and take out the rest.
  Then: bn-audit diff "pairs/requires-grad-leak/before.safetensors" AFTER
`,
  );
  const policy = readPolicy(workspace);
  expect(policy).toEqual({
    $schema: './node_modules/bn-audit/docs/bn-audit.config.schema.json',
    frozen: ['backbone'],
    allow: [],
    failOn: 'error',
    minShift: 0,
  });
  const schema = readFileSync(new URL('../../docs/bn-audit.config.schema.json', import.meta.url), 'utf8');
  expect(new Ajv().validate(JSON.parse(schema), policy)).toBe(true);
  expect((await runCli(['diff', BEFORE, 'pairs/requires-grad-leak/before.pt'], workspace)).exitCode).toBe(0);
  expect((await runCli(['diff', BEFORE, AFTER], workspace)).exitCode).toBe(1);
});

test.each(['before.pt', 'before.live.onnx', 'before.dynamo-live.onnx'])(
  'init finds the same in %s',
  async (name) => {
    const workspace = makeWorkspace();
    expect((await runCli(['init', `pairs/requires-grad-leak/${name}`], workspace)).exitCode).toBe(0);
    expect(readPolicy(workspace).frozen).toEqual(['backbone']);
  },
);

test('init from two checkpoints finds what is frozen, and names the pair', async () => {
  const workspace = makeWorkspace();
  const { stderr } = await runCli(['init', BEFORE, AFTER], workspace);
  expect(stderr).not.toContain('guessed');
  expect(readPolicy(workspace)).toMatchObject({
    frozen: ['backbone'],
    pairs: { main: { before: BEFORE, after: AFTER } },
  });
  expect((await runCli(['diff', '--pair', 'main'], workspace)).exitCode).toBe(1);
});

test.each([
  ['init', ['init', BEFORE]],
  ['init --guard', ['init', '--guard', 'pytorch']],
  ['baseline', ['baseline', BEFORE]],
  ['restore', ['restore', BEFORE, AFTER]],
  ['diff', ['diff', BEFORE, AFTER]],
  ['trace', ['trace', BEFORE, AFTER]],
  ['inspect', ['inspect', AFTER]],
])('the directories of the output of %s are made', async (_, args) => {
  const workspace = makeWorkspace();
  const { stderr } = await runCli([...args, '-o', 'new/folder/file'], workspace);
  expect(stderr).not.toContain('could not');
  expect(statSync(join(workspace, 'new', 'folder', 'file')).size).toBeGreaterThan(0);
});

test('init from two checkpoints leaves out what was trained', async () => {
  const workspace = makeWorkspace();
  await runCli(
    ['init', 'pairs/partly-frozen/before.safetensors', 'pairs/partly-frozen/after.safetensors'],
    workspace,
  );
  const { exitCode, stdout } = await runCli(['diff', '--pair', 'main', '--format', 'json'], workspace);
  expect([0, 1]).toContain(exitCode);
  expect(JSON.parse(stdout).findings.map(({ kind }: { kind: string }) => kind)).not.toContain(
    'frozen-weights-changed',
  );
});

test('init from two checkpoints takes every part that is identical, norm layers in it or not', async () => {
  const workspace = makeWorkspace();
  const frozen = ['conv1.weight', 'bn1.weight', 'bn1.bias', 'bn1.running_mean', 'bn1.running_var'];
  const write = (name: string, head: number) => {
    const values = [
      ...frozen.map((tensor, index) => [tensor, index] as const),
      ['head.weight', head] as const,
    ];
    const tensors = values.map(([tensor, value]) => [
      tensor,
      { dtype: 'F32', shape: [2], data: new Uint8Array(Float32Array.of(value + 2, value + 3).buffer) },
    ]);
    writeFileSync(join(workspace, name), safetensorsBytes(Object.fromEntries(tensors)));
  };
  write('before.safetensors', 10);
  write('after.safetensors', 20);
  const { stderr } = await runCli(['init', 'before.safetensors', 'after.safetensors'], workspace);
  expect(readPolicy(workspace).frozen).toEqual(['conv1', 'bn1']);
  expect(stderr).toContain('not     "head"');
});

describe('init of checkpoints that are named by an address', () => {
  const KEY = 's3cret';

  test.each([
    [
      [`https://cloud.invalid/base.pt?X-Amz-Signature=${KEY}`, AFTER],
      'https://cloud.invalid/base.pt: expected an',
    ],
    [
      [BEFORE, `https://cloud.invalid/tuned.pt?sv=2024&sig=${KEY}`],
      'https://cloud.invalid/tuned.pt: expected an',
    ],
    [[`https://me:${KEY}@cloud.invalid/base.pt`, AFTER], 'without a name and a password'],
    [[`http://cloud.invalid/base.pt?sig=${KEY}`, AFTER], 'expected an address that begins with https://'],
  ])('writes and shows no secret of %j, and fetches nothing', async (args, message) => {
    const workspace = makeWorkspace();
    const run = await runCli(['init', ...args, '--remote'], workspace);
    expect(run).toMatchObject({ exitCode: 2, stdout: '' });
    expect(run.stderr).toContain(message);
    expect(run.stderr).not.toContain(KEY);
    expect(existsSync(join(workspace, POLICY_FILE_NAME))).toBe(false);
  });
});

describe('init that writes elsewhere', () => {
  const initElsewhere = async (output: string, ...checkpoints: readonly string[]) => {
    const workspace = makeWorkspace();
    mkdirSync(join(workspace, 'ci', 'sub dir'), { recursive: true });
    const { stderr } = await runCli(['init', ...checkpoints, '-o', output], workspace);
    return { workspace, hint: stderr.trimEnd().split('\n').at(-1), policy: readPolicy(workspace, output) };
  };

  test.each([
    ['ci/p.json', '--config "ci/p.json"', '../node_modules/bn-audit/docs/bn-audit.config.schema.json'],
    [
      'ci/bn-audit.config.json',
      '--config "ci/bn-audit.config.json"',
      '../node_modules/bn-audit/docs/bn-audit.config.schema.json',
    ],
    ['p.json', '--config "p.json"', './node_modules/bn-audit/docs/bn-audit.config.schema.json'],
    [
      'ci/sub dir/p.json',
      '--config "ci/sub dir/p.json"',
      '../../node_modules/bn-audit/docs/bn-audit.config.schema.json',
    ],
  ])(
    'names the file in what to do next, and the schema as the file sees it: %s',
    async (output, option, schema) => {
      const { workspace, hint, policy } = await initElsewhere(output, BEFORE, AFTER);
      expect(hint).toBe(`  Then: bn-audit diff --pair main ${option}`);
      expect(policy.$schema).toBe(schema);
      const { exitCode } = await runCli(['diff', '--pair', 'main', '--config', output], workspace);
      expect(exitCode).toBe(1);
      expect((await initElsewhere(output, BEFORE)).hint).toBe(
        `  Then: bn-audit diff "${BEFORE}" AFTER ${option}`,
      );
    },
  );

  test('leaves it out where diff finds the file by itself', async () => {
    const { hint } = await initElsewhere('./bn-audit.config.json', BEFORE, AFTER);
    expect(hint).toBe('  Then: bn-audit diff --pair main');
  });
});

test('init writes paths as the policy file sees them', async () => {
  const workspace = makeWorkspace();
  mkdirSync(join(workspace, 'ci'));
  await runCli(['init', BEFORE, AFTER, '-o', 'ci/policy.json'], workspace);
  expect(readPolicy(workspace, 'ci/policy.json').pairs.main).toEqual({
    before: `../${BEFORE}`,
    after: `../${AFTER}`,
  });
  const { exitCode } = await runCli(['diff', '--pair', 'main', '--config', 'ci/policy.json'], workspace);
  expect(exitCode).toBe(1);
});

test('init replaces nothing, except with --force', async () => {
  const workspace = makeWorkspace({ [POLICY_FILE_NAME]: 'mine' });
  const kept = await runCli(['init', BEFORE], workspace);
  expect(kept).toEqual({
    stdout: '',
    stderr: 'bn-audit: bn-audit.config.json: there is such a file already\n  To replace it: --force\n',
    exitCode: 2,
  });
  expect(readFileSync(join(workspace, POLICY_FILE_NAME), 'utf8')).toBe('mine');
  expect((await runCli(['init', BEFORE, '--force'], workspace)).exitCode).toBe(0);
  expect(readPolicy(workspace).frozen).toEqual(['backbone']);
});

test('init writes nothing where there is nothing to audit', async () => {
  const workspace = makeWorkspace();
  const { stderr, exitCode } = await runCli(['init', 'pairs/layernorm-only/before.safetensors'], workspace);
  expect(exitCode).toBe(2);
  expect(stderr).toContain('found none: nothing to audit');
  writeFileSync(join(workspace, POLICY_FILE_NAME), '{}', { flag: 'wx' });
});
