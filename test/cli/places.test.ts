import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { expect, test } from 'vitest';
import { makeWorkspace, runCli } from './run.js';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';

const workspace = makeWorkspace();
const hub = join(workspace, 'hub');
const checkpoints = join(workspace, 'torch/hub/checkpoints');

/** Puts a fixture into the cache of the Hub, under the names that a repository gives to its files. */
function cacheModel(repository: string, files: Readonly<Record<string, string>>): void {
  const model = join(hub, `models--${repository.replace('/', '--')}`);
  for (const directory of ['blobs', 'refs', `snapshots/${COMMIT}`])
    mkdirSync(join(model, directory), { recursive: true });
  writeFileSync(join(model, 'refs/main'), COMMIT);
  for (const [name, fixture] of Object.entries(files)) {
    copyFileSync(join(workspace, 'pairs/requires-grad-leak', fixture), join(model, 'blobs', `${name}-blob`));
    symlinkSync(`../../blobs/${name}-blob`, join(model, 'snapshots', COMMIT, name));
  }
}

cacheModel('acme/base', { 'model.safetensors': 'before.safetensors' });
cacheModel('acme/tuned', {
  'model.safetensors': 'after.safetensors',
  'model.onnx': 'after.external.onnx',
  'after.external.onnx.data': 'after.external.onnx.data',
});
mkdirSync(checkpoints, { recursive: true });
copyFileSync(join(workspace, 'pairs/requires-grad-leak/before.pt'), join(checkpoints, 'base.pth'));

const env = { HF_HUB_CACHE: hub, TORCH_HOME: join(workspace, 'torch'), HF_HOME: '', XDG_CACHE_HOME: '' };
const bnAudit = (...args: readonly string[]) => runCli(args, workspace, { env });

test.each([
  ['hf:acme/base', 'hf:acme/tuned'],
  ['https://example.org/base.pth?signature=key', 'hf:acme/tuned:model.onnx'],
  ['hf:acme/base@0123456', 'pairs/requires-grad-leak/after.safetensors'],
])('diff takes %s and %s, and names them so', async (before, after) => {
  const { stdout, stderr, exitCode } = await bnAudit('diff', before, after, '--format', 'json');
  expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 1 });
  const report = JSON.parse(stdout);
  expect(report.before.path).toBe(before.replace(/\?.*/, ''));
  expect(report.after.path).toBe(after);
  expect(report.verdict).toBe('drifted');
  expect(stdout).not.toContain('signature');
});

test('inspect shows the commit that a branch was', async () => {
  const { stdout, exitCode } = await bnAudit('inspect', 'hf:acme/base');
  expect(exitCode).toBe(0);
  expect(stdout).toContain('hf:acme/base');
  expect(stdout.replace(/\s+/g, ' ')).toContain('is the commit 0123456789ab');
});

test('baseline, restore and init take them too', async () => {
  expect(await bnAudit('baseline', 'hf:acme/base', '-o', 'base.bn.safetensors')).toMatchObject({
    exitCode: 0,
  });
  expect(
    await bnAudit('restore', 'base.bn.safetensors', 'hf:acme/tuned', '-o', 'fixed.safetensors'),
  ).toMatchObject({
    exitCode: 0,
  });
  expect(await bnAudit('diff', 'hf:acme/base', 'fixed.safetensors')).toMatchObject({ exitCode: 0 });
  expect(await bnAudit('init', 'hf:acme/base', 'hf:acme/tuned', '-o', 'ci/policy.json')).toMatchObject({
    exitCode: 0,
  });
  const policy = JSON.parse(readFileSync(join(workspace, 'ci/policy.json'), 'utf8'));
  expect(policy.pairs.main).toEqual({ before: 'hf:acme/base', after: 'hf:acme/tuned' });
  expect(await bnAudit('diff', '--pair', 'main', '--config', 'ci/policy.json')).toMatchObject({
    exitCode: 1,
  });
});

test('restore keeps what lies beside the weights of a model in the cache', async () => {
  writeFileSync(join(hub, 'models--acme--tuned/snapshots', COMMIT, 'config.json'), '{}');
  expect(await bnAudit('restore', 'hf:acme/base', 'hf:acme/tuned', '-o', 'fixed')).toMatchObject({
    exitCode: 0,
  });
  expect(readFileSync(join(workspace, 'fixed/config.json'), 'utf8')).toBe('{}');
});

test('a model of the cache is never written to, nor compared with itself', async () => {
  const path = relative(workspace, join(hub, 'models--acme--tuned/blobs/model.safetensors-blob'));
  const before = readFileSync(join(workspace, path));
  for (const args of [
    ['restore', 'hf:acme/base', 'hf:acme/tuned', '-o', path, '--force'],
    ['baseline', 'hf:acme/tuned', '-o', path, '--force'],
    ['inspect', 'hf:acme/tuned', '-o', path],
  ])
    expect((await bnAudit(...args)).exitCode).toBe(2);
  expect(readFileSync(join(workspace, path)).equals(before)).toBe(true);
  for (const [one, other] of [
    ['hf:acme/base', 'hf:acme/base'],
    ['hf:acme/base', 'https://huggingface.co/acme/base/resolve/main/model.safetensors'],
  ]) {
    const run = await bnAudit('diff', one ?? '', other ?? '');
    expect(run.exitCode).toBe(2);
    expect(run.stderr).toContain('found before itself');
  }
});

test('several audits go on where one is in no cache', async () => {
  const run = await bnAudit(
    'diff',
    'hf:acme/base',
    'hf:acme/tuned',
    'https://example.org/gone.pth?key=secret',
  );
  expect(run.exitCode).toBe(2);
  expect(run.stdout).toContain('https://example.org/gone.pth');
  expect(run.stdout + run.stderr).not.toContain('secret');
});
