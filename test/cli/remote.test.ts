import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { bytesOf } from '../build/bytes.js';
import { type FileServer, type Handler, sendRange, serveFiles } from '../build/file-server.js';
import { BIN, makeWorkspace, startCli } from './run.js';

const workspace = makeWorkspace();
const at = (name: string) => join(workspace, name);
const pair = (name: string) => ({ bytes: readFileSync(at(`pairs/requires-grad-leak/${name}`)) });

/** Other groups of fixtures whose checkpoints are many files. */
const SETS = ['keras', 'archives', 'darknet'];
for (const name of SETS)
  symlinkSync(fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url)), at(name));

/** The files of fixtures below a directory, as a server has them. */
const filesOf = (directory: string) =>
  Object.fromEntries(
    readdirSync(at(directory), { recursive: true, encoding: 'utf8' })
      .map((name) => `${directory}/${name}`)
      .filter((path) => statSync(at(path)).isFile())
      .map((path) => [`/${path}`, { bytes: readFileSync(at(path)) }]),
  );

/** A certificate for this machine that a run is told to trust. */
function makeCertificate() {
  const args = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '2',
  ];
  const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  execFileSync('openssl', [...args, ...names, '-keyout', at('key.pem'), '-out', at('cert.pem')], {
    stdio: 'ignore',
  });
  return { key: readFileSync(at('key.pem')), cert: readFileSync(at('cert.pem')) };
}

/** Ends of addresses that are no names of files, or bad ones. */
const UNNAMED = ['', '%00', '..%5Cx', 'a%0Ab', 'x'.repeat(300)];

/** How the graph of a SavedModel begins. */
const SAVED_MODEL = bytesOf(0x08, 1, 0x12, 0xb4, 0x9e, 0x02, 0x0a, 0x0f, 0x22, 5, 'serve');

/**
 * A file that is another one from the second request on, one whose second part never comes, and files that lie elsewhere or
 * whose data do not come as they are asked for.
 */
const answerBroken: Handler = (request, response) => {
  if (request.url?.startsWith('/slow/') && !request.headers.range?.startsWith('bytes=0-')) return true;
  const [, folder, name] = /^\/(moved|plain|lying)\/(.+)$/.exec(request.url ?? '') ?? [];
  const isData = name?.includes('.data-') === true;
  if (folder === 'plain' && isData) response.writeHead(302, { location: `http://localhost/${name}` }).end();
  else if (folder === 'lying' && isData)
    response.writeHead(206, { etag: '"v1"', 'content-range': 'bytes 16-31/32', 'content-length': 16 }).end();
  else if (folder !== undefined) response.writeHead(302, { location: `/keras/${name}` }).end();
  if (folder !== undefined) return true;
  if (request.url !== '/broken.pt') return false;
  sendRange(request, response, { ...pair('after.pt'), etag: `"${brokenAnswers++}"` });
  return true;
};
let brokenAnswers = 0;

describe.skipIf(spawnSync('openssl', ['version']).status !== 0)('a checkpoint behind a web address', () => {
  let server: FileServer;

  beforeAll(async () => {
    server = await serveFiles(
      {
        ...Object.assign({}, ...[...SETS, 'containers', 'pairs/requires-grad-leak'].map(filesOf)),
        '/keras/exported/saved_model.pb': { bytes: SAVED_MODEL },
        '/alone/before-ckpt.index': { bytes: readFileSync(at('keras/before-ckpt.index')) },
        '/cut/before-ckpt.index': { bytes: readFileSync(at('keras/before-ckpt.index')) },
        '/cut/before-ckpt.data-00000-of-00001': { bytes: Buffer.alloc(100) },
        '/my%20net/tiny%20net.weights': { bytes: readFileSync(at('darknet/tiny.weights')) },
        '/my%20net/tiny%20net.cfg': { bytes: readFileSync(at('darknet/tiny.cfg')) },
        '/before.safetensors': pair('before.safetensors'),
        '/before.pt': pair('before.pt'),
        '/after.onnx': pair('after.live.onnx'),
        '/before.external.onnx': pair('before.external.onnx'),
        '/before.external.onnx.data': pair('before.external.onnx.data'),
        '/slow/model.onnx': pair('before.external.onnx'),
        '/slow/before.external.onnx.data': {
          bytes: Buffer.concat([pair('before.external.onnx.data').bytes, Buffer.alloc(100_000)]),
        },
        '/alone/model.onnx': pair('before.external.onnx'),
        ...Object.fromEntries(UNNAMED.map((name) => [`/unnamed/${name}`, pair('after.external.onnx')])),
        '/unnamed/after.external.onnx.data': pair('after.external.onnx.data'),
        '/set/model.safetensors.index.json': {
          bytes: Buffer.from(JSON.stringify({ weight_map: indexOf(pair('before.safetensors').bytes) })),
        },
        '/set/a.safetensors': pair('before.safetensors'),
        '/tuned/model.safetensors.index.json': {
          bytes: Buffer.from(JSON.stringify({ weight_map: indexOf(pair('after.safetensors').bytes) })),
        },
        '/tuned/a.safetensors': pair('after.safetensors'),
      },
      answerBroken,
      makeCertificate(),
    );
  });

  afterAll(() => server.close());

  /** Where each tensor of a file is: in one shard. */
  function indexOf(bytes: Buffer): Record<string, string> {
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE())));
    const names = Object.keys(header).filter((name) => name !== '__metadata__');
    return Object.fromEntries(names.map((name) => [name, 'a.safetensors']));
  }

  mkdirSync(at('tmp'));
  const env = {
    NODE_EXTRA_CA_CERTS: at('cert.pem'),
    TORCH_HOME: at('nowhere'),
    HF_HUB_CACHE: at('nowhere'),
    HF_TOKEN: 'hf_key',
    TMPDIR: at('tmp'),
  };
  const bnAudit = (...args: readonly string[]) => startCli(args, workspace, { env });

  const after = 'pairs/requires-grad-leak/after.safetensors';

  test('is not asked for without --remote', async () => {
    const run = await bnAudit('diff', `${server.origin}/before.safetensors`, after);
    expect(run).toMatchObject({ exitCode: 2, stdout: '' });
    expect(run.stderr).toContain('--remote');
    expect(server.requests).toEqual([]);
  });

  test.each([
    ['before.safetensors', 'before.safetensors'],
    ['before.pt', 'before.pt'],
    ['set/model.safetensors.index.json', 'before.safetensors'],
    ['before.external.onnx', 'before.external.onnx'],
  ])('%s is audited as the file itself, and is never sent the token of the Hub', async (name, file) => {
    const url = `${server.origin}/${name}?signature=s3cret`;
    const local = await bnAudit('diff', `pairs/requires-grad-leak/${file}`, after, '--format', 'json');
    const remote = await bnAudit('diff', url, after, '--remote', '--format', 'json');
    expect(remote.stderr).toBe('');
    const [mine, theirs] = [remote, local].map(({ stdout }) => JSON.parse(stdout));
    expect(mine.before.path).toBe(`${server.origin}/${name}`);
    expect(mine.layers).toEqual(theirs.layers);
    expect(mine.findings).toEqual(theirs.findings);
    expect(remote.exitCode).toBe(1);
    expect(remote.stdout).not.toContain('s3cret');
    expect(server.requests.some(({ headers }) => headers.authorization !== undefined)).toBe(false);
  });

  test.each([
    ['keras/before-ckpt.index'],
    ['moved/before-ckpt.index', 'keras/before-ckpt.index'],
    ['keras/exported/variables/variables.index'],
    ['keras/exported/saved_model.pb', 'keras/exported/variables/variables.index'],
    ['keras/sharded/model.weights.json'],
    ['containers/sharded/model.safetensors.index.json'],
    ['archives/indexed/pytorch_model.bin.index.json'],
    ['archives/distributed/.metadata'],
    ['archives/sharded/.metadata'],
    ['darknet/tiny_final.weights'],
    ['my%20net/tiny%20net.weights', 'darknet/tiny.weights'],
  ])('%s is read with the files that belong to it', async (name, file = name) => {
    const local = await bnAudit('inspect', file, '--format', 'json');
    const remote = await bnAudit('inspect', `${server.origin}/${name}`, '--remote', '--format', 'json');
    expect(remote.stderr).toBe('');
    expect(JSON.parse(remote.stdout).layers).toEqual(JSON.parse(local.stdout).layers);
  });

  test.each(['safetensors', 'pt', 'live.onnx', 'fold.onnx', 'external.onnx'])(
    'after.%s is restored from there as from here',
    async (ending) => {
      const [here, there] = ['here', 'there'].map((name) => at(`restored/${ending}/${name}`));
      const before = 'pairs/requires-grad-leak/before.safetensors';
      const file = `pairs/requires-grad-leak/after.${ending}`;
      for (const [after, folder] of [
        [file, here],
        [`${server.origin}/${file}?signature=s3cret`, there],
      ]) {
        mkdirSync(folder ?? '', { recursive: true });
        const args = [
          'restore',
          before,
          after ?? '',
          '-o',
          join(folder ?? '', `fixed.${ending}`),
          '--remote',
          ...(ending === 'external.onnx' ? ['--data-name', 'w.bin'] : []),
        ];
        expect(await bnAudit(...args)).toMatchObject({ exitCode: 0, stderr: '' });
      }
      const names = readdirSync(here ?? '');
      expect(readdirSync(there ?? '')).toEqual(names);
      for (const name of names)
        expect(readFileSync(join(there ?? '', name)).equals(readFileSync(join(here ?? '', name))), name).toBe(
          true,
        );
      expect(await bnAudit('diff', before, join(there ?? '', `fixed.${ending}`))).toMatchObject({
        exitCode: 0,
      });
    },
  );

  test('no name of a data file that a server gives is written to', async () => {
    const before = 'pairs/requires-grad-leak/before.pt';
    const url = `${server.origin}/pairs/requires-grad-leak/after.external.onnx`;
    mkdirSync(at('named'));
    const run = await bnAudit('restore', before, url, '-o', 'named/x.onnx', '--remote');
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(readdirSync(at('named')).sort()).toEqual(['x.onnx', 'x.onnx.data']);
    expect(await bnAudit('diff', before, 'named/x.onnx')).toMatchObject({ exitCode: 0 });
  });

  test('a set of shards is restored into a directory, and what was not fetched is said', async () => {
    const before = 'pairs/requires-grad-leak/before.safetensors';
    const run = await bnAudit(
      'restore',
      before,
      `${server.origin}/tuned/model.safetensors.index.json`,
      '-o',
      'tuned',
      '--remote',
    );
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout).toContain('nothing but the weights was fetched');
    expect(readdirSync(at('tuned')).sort()).toEqual(['a.safetensors', 'model.safetensors.index.json']);
    expect(await bnAudit('diff', before, 'tuned')).toMatchObject({ exitCode: 0 });
  });

  test('is left alone where the connection breaks off, and so is what was there', async () => {
    writeFileSync(at('kept.pt'), 'mine');
    const url = `${server.origin}/broken.pt`;
    const run = await bnAudit(
      'restore',
      'pairs/requires-grad-leak/before.pt',
      url,
      '-o',
      'kept.pt',
      '--force',
      '--remote',
    );
    expect(run).toMatchObject({ exitCode: 2, stdout: '' });
    expect(run.stderr).toContain('the file changed while it was read');
    expect(readFileSync(at('kept.pt'), 'utf8')).toBe('mine');
    expect(readdirSync(workspace).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  test.each(['after.live.onnx', 'after.external.onnx'])(
    '%s is probed from there as from here',
    async (name) => {
      const file = `pairs/requires-grad-leak/${name}`;
      const probe = (after: string) =>
        bnAudit(
          'probe',
          'pairs/requires-grad-leak/before.safetensors',
          after,
          '--remote',
          '--format',
          'json',
        );
      const [here, there] = [await probe(file), await probe(`${server.origin}/${file}`)];
      expect(there).toMatchObject({ exitCode: 0, stderr: '' });
      const [mine, theirs] = [there, here].map(({ stdout }) => JSON.parse(stdout));
      expect(mine.after.path).toBe(`${server.origin}/${file}`);
      expect(mine.outputs).toEqual(theirs.outputs);
      expect(mine.layers).toEqual(theirs.layers);
      expect(mine.warnings).toContainEqual(expect.stringContaining('was read over the network'));
      expect(readdirSync(at('tmp'))).toEqual([]);
    },
  );

  test.each(UNNAMED)('a model is probed whose address ends in /%s', async (name) => {
    const before = 'pairs/requires-grad-leak/before.safetensors';
    const run = await bnAudit('probe', before, `${server.origin}/unnamed/${name}`, '--remote');
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(readdirSync(at('tmp'))).toEqual([]);
  });

  test('a probe that has no room for the model says where', async () => {
    const args = ['probe', 'pairs/requires-grad-leak/before.pt', `${server.origin}/after.onnx`, '--remote'];
    const run = await startCli(args, workspace, { env: { ...env, TMPDIR: at('cert.pem') } });
    expect(run).toMatchObject({ exitCode: 2, stdout: '' });
    expect(run.stderr).toContain(
      'a copy of the model among the temporary files (TMPDIR) could not be written',
    );
  });

  test.each(['SIGINT', 'SIGTERM'] as const)(
    'a probe that %s ends while it fetches leaves nothing behind',
    async (signal) => {
      const args = [
        'probe',
        'pairs/requires-grad-leak/before.safetensors',
        `${server.origin}/slow/model.onnx`,
        '--remote',
      ];
      const child = spawn(process.execPath, [BIN, ...args], {
        cwd: workspace,
        env: { ...process.env, ...env },
      });
      const ended = new Promise((resolve) => child.once('exit', (code, by) => resolve(by ?? code)));
      await vi.waitFor(() => expect(readdirSync(at('tmp'))).not.toEqual([]), { timeout: 10_000 });
      // The model may be one that only this user may read, and others use the same directory.
      const [made = ''] = readdirSync(at('tmp'));
      expect(statSync(at(`tmp/${made}`)).mode & 0o77).toBe(0);
      child.kill(signal);
      expect(await ended).toBe(signal);
      expect(readdirSync(at('tmp'))).toEqual([]);
    },
  );

  test('is watched against, and the signature of its address is shown nowhere', async () => {
    mkdirSync(at('landed'));
    writeFileSync(at('landed/epoch_1.safetensors'), pair('after.safetensors').bytes);
    const url = `${server.origin}/before.safetensors`;
    const run = await bnAudit(
      'watch',
      `${url}?signature=s3cret`,
      'landed',
      '--idle',
      '0',
      '--interval',
      '0.01',
      '--remote',
    );
    expect(run.exitCode).toBe(1);
    expect(run.stderr).toContain(`bn-audit diff ${url} landed/epoch_1.safetensors --remote\n`);
    expect(run.stdout + run.stderr).not.toContain('s3cret');
  });

  test('is what every command takes', async () => {
    const url = `${server.origin}/before.safetensors`;
    for (const args of [
      ['inspect', url],
      ['inspect', `${server.origin}/after.onnx`],
      ['baseline', url, '-o', 'base.bn.safetensors'],
      ['restore', url, after, '-o', 'fixed.safetensors'],
      ['diff', url, 'fixed.safetensors'],
      ['diff', 'base.bn.safetensors', 'fixed.safetensors'],
      ['init', url, after, '-o', 'policy.json'],
    ]) {
      const run = await bnAudit(...args, '--remote');
      expect(run, args.join(' ')).toMatchObject({ exitCode: 0 });
    }
    const policy = JSON.parse(readFileSync(at('policy.json'), 'utf8'));
    expect(policy).toMatchObject({ remote: true, pairs: { main: { before: url } } });
    expect(await bnAudit('diff', '--pair', 'main', '--config', 'policy.json')).toMatchObject({ exitCode: 1 });
  });

  test.each([
    ['restore', 'before.pt', '/keras/after-ckpt.index', 'whose index holds checksums'],
    ['inspect', '/alone/model.onnx', '', 'the server has no such file (404)'],
    ['inspect', '/alone/before-ckpt.index', '', 'the server has no such file (404)'],
    ['inspect', '/cut/before-ckpt.index', '', 'found a data file of 100'],
    ['inspect', '/plain/before-ckpt.index', '', 'expected an https address'],
    ['inspect', '/lying/before-ckpt.index', '', 'found that the server sends'],
    ['inspect', '/gone.pt?signature=s3cret', '', 'the server has no such file (404)'],
  ])('%s %s %s says what is wrong', async (command, first, second, message) => {
    const toArgument = (name: string) =>
      name.startsWith('/') ? server.origin + name : `pairs/requires-grad-leak/${name}`;
    const names = [first, second].filter((name) => name !== '').map(toArgument);
    const run = await bnAudit(
      command,
      ...names,
      '--remote',
      ...(command === 'restore' ? ['-o', 'x.pt'] : []),
    );
    expect(run.exitCode).toBe(2);
    expect(run.stderr).toContain(message);
    expect(run.stderr).not.toContain('s3cret');
  });

  test('of a server whose certificate nobody vouches for is refused', async () => {
    const run = await startCli(['inspect', `${server.origin}/before.pt`, '--remote'], workspace, {
      env: { TORCH_HOME: at('nowhere') },
    });
    expect(run.exitCode).toBe(2);
    expect(run.stderr).toContain('cannot be trusted');
  });
});

test('a policy may allow the network, and the command line name what is asked', async () => {
  writeFileSync(at('bn-audit.config.json'), JSON.stringify({ remote: true }));
  const run = await startCli(
    ['diff', 'https://nowhere.invalid/a.pt?key=s3cret', 'pairs/requires-grad-leak/after.pt'],
    workspace,
    {
      env: { TORCH_HOME: at('nowhere') },
    },
  );
  expect(run).toMatchObject({ exitCode: 2, stdout: '' });
  expect(run.stderr).toMatch(/no server|connection failed/);
  expect(run.stderr).not.toContain('s3cret');
});
