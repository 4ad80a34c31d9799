import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { type ByteSource, readRange, wholeOf } from '../../src/io/byte-source.js';
import { isPlace, nameOf, openPlace, toLastingName } from '../../src/io/places.js';
import { failureOf } from '../build/failure.js';
import { serveFiles } from '../build/file-server.js';
import { makeTempDirectory } from '../build/sources.js';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const OTHER = '0199999999999999999999999999999999999999';

const DEFAULTS = ['model.safetensors', 'pytorch_model.bin'];

let home = '';

beforeEach(() => {
  home = makeTempDirectory();
  for (const name of [
    'HF_HOME',
    'HF_HUB_CACHE',
    'HUGGINGFACE_HUB_CACHE',
    'XDG_CACHE_HOME',
    'TORCH_HOME',
    'HF_TOKEN',
    'HF_TOKEN_PATH',
  ])
    vi.stubEnv(name, '');
  vi.stubEnv('HOME', home);
  vi.stubEnv('HF_HUB_CACHE', join(home, 'hub'));
  vi.stubEnv('TORCH_HOME', join(home, 'torch'));
});

afterEach(() => {
  vi.unstubAllEnvs();
});

/** Puts a file as huggingface_hub does: into blobs/, and a link to it into the snapshot. Returns the blob's path. */
function cacheFile(
  name: string,
  {
    repository = 'acme/net',
    commit = COMMIT,
    revision = 'main',
    hub = join(home, 'hub'),
  }: { repository?: string; commit?: string; revision?: string | null; hub?: string } = {},
): string {
  const model = join(hub, `models--${repository.replace('/', '--')}`);
  const blob = join(model, 'blobs', `blob-of-${name.replaceAll('/', '-')}`);
  const link = join(model, 'snapshots', commit, name);
  for (const path of [blob, link]) mkdirSync(dirname(path), { recursive: true });
  writeFileSync(blob, name);
  symlinkSync(blob, link);
  if (revision !== null) {
    mkdirSync(dirname(join(model, 'refs', revision)), { recursive: true });
    writeFileSync(join(model, 'refs', revision), commit);
  }
  return blob;
}

async function openText(place: string, allowExternalSymlinks = false) {
  const opened = await openPlace(place, { defaults: DEFAULTS, allowExternalSymlinks });
  if (opened === null) return null;
  const { source, notes } = opened;
  const bytes = new Uint8Array(source.byteLength);
  await source.readInto(bytes, 0);
  await source.close();
  return { name: source.name, text: new TextDecoder().decode(bytes), notes };
}

test.each([
  'model.pt',
  './hf:acme/net',
  '/models/hf:acme/net',
  'runs/https/model.pt',
  'C:\\models\\net.pt',
  '',
])('%j is a path', async (path) => {
  expect(isPlace(path)).toBe(false);
  expect(await openText(path)).toBeNull();
});

describe("a model in the Hub's cache", () => {
  test('opens as its default file, of the commit that main is', async () => {
    cacheFile('pytorch_model.bin');
    cacheFile('model.safetensors');
    expect(await openText('hf:acme/net')).toEqual({
      name: 'hf:acme/net:model.safetensors',
      text: 'model.safetensors',
      notes: ['"hf:acme/net" is the commit 0123456789ab, which the cache of the Hub has for "main"'],
    });
  });

  test.each([
    ['a file', 'hf:acme/net:weights/last.pt', 'main'],
    ['a branch', 'hf:acme/net@next:weights/last.pt', 'next'],
    ['a branch with slashes', 'hf:acme/net@refs/pr/7:weights/last.pt', 'refs/pr/7'],
    [
      'the address of a download',
      'https://huggingface.co/acme/net/resolve/v1/weights/last.pt?download=true',
      'v1',
    ],
    [
      'the address of a page',
      'https://huggingface.co/acme/net/blob/refs%2Fpr%2F7/weights/last.pt',
      'refs/pr/7',
    ],
  ])('is found by %s', async (_, place, revision) => {
    cacheFile('weights/last.pt', { revision });
    expect(await openText(place)).toMatchObject({ name: nameOf(place), text: 'weights/last.pt' });
  });

  test.each([COMMIT, COMMIT.slice(0, 7), COMMIT.slice(0, 4)])(
    'is found by its commit, %s',
    async (revision) => {
      cacheFile('model.safetensors', { revision: null });
      cacheFile('model.safetensors', { commit: OTHER, repository: 'acme/other', revision: null });
      expect(await openText(`hf:acme/net@${revision}`)).toEqual({
        name: `hf:acme/net@${revision}:model.safetensors`,
        text: 'model.safetensors',
        notes: [],
      });
    },
  );

  test('is not found by digits with which two commits begin, nor by too few', async () => {
    cacheFile('a.pt', { revision: null });
    cacheFile('b.pt', { commit: `0123${OTHER.slice(4)}`, revision: null });
    for (const revision of ['0123', '012'])
      expect(await failureOf(() => openText(`hf:acme/net@${revision}`))).toMatchObject({
        code: 'not-found',
        message: expect.stringContaining(`found no revision "${revision}"`),
      });
  });

  test.each([
    ['HF_HUB_CACHE', 'hub', { HF_HUB_CACHE: 'hub' }],
    ['its older name', 'hub', { HUGGINGFACE_HUB_CACHE: 'hub' }],
    ['HF_HOME', 'hf/hub', { HF_HOME: 'hf' }],
    ['XDG_CACHE_HOME', 'cache/huggingface/hub', { XDG_CACHE_HOME: 'cache' }],
    ['HF_HUB_CACHE before HF_HOME', 'hub', { HF_HUB_CACHE: 'hub', HF_HOME: 'hf' }],
    ['the home directory', '.cache/huggingface/hub', { HOME: '.' }],
    ['a tilde', 'hf/hub', { HOME: '.', HF_HOME: '~/hf' }],
  ])('is looked for by %s', async (_, hub, variables) => {
    vi.stubEnv('HF_HUB_CACHE', '');
    for (const [name, value] of Object.entries(variables))
      vi.stubEnv(name, value.startsWith('~') ? value : join(home, value));
    cacheFile('model.safetensors', { hub: join(home, hub) });
    expect((await openText('hf:acme/net'))?.text).toBe('model.safetensors');
  });

  test('says what would be fetched where there is nothing', async () => {
    expect(await failureOf(() => openText('hf:acme/net'))).toMatchObject({
      code: 'not-found',
      file: 'hf:acme/net',
      message: `expected it on this machine, found nothing of that model in the cache of the Hub (${join(home, 'hub')})`,
      hint: expect.stringContaining('hf download acme/net'),
    });
    cacheFile('model.safetensors');
    expect(await failureOf(() => openText('hf:acme/net:other.pt'))).toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('found no such file of the commit 0123456789ab'),
      hint: expect.stringContaining('hf download acme/net other.pt'),
    });
    expect(await failureOf(() => openText("hf:acme/net@v2:it's $(here).pt"))).toMatchObject({
      hint: expect.stringContaining("hf download acme/net 'it'\\''s $(here).pt' --revision v2"),
    });
  });

  test('says which files there are where none is a default', async () => {
    cacheFile('yolo.pt');
    expect(await failureOf(() => openText('hf:acme/net'))).toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('but "yolo.pt"'),
      hint: 'Name the file: hf:acme/net:FILE',
    });
  });
});

describe('what leads out of the cache is refused', () => {
  test('a link to a file elsewhere, unless links are allowed', async () => {
    cacheFile('model.safetensors');
    const secret = join(home, 'secret');
    writeFileSync(secret, 'secret');
    symlinkSync(secret, join(home, 'hub/models--acme--net/snapshots', COMMIT, 'link.pt'));
    expect(await failureOf(() => openText('hf:acme/net:link.pt'))).toMatchObject({
      code: 'refused',
      message: expect.stringContaining('a symbolic link out of it'),
      hint: expect.stringContaining('--allow-external-symlinks'),
    });
    expect((await openText('hf:acme/net:link.pt', true))?.text).toBe('secret');
  });

  test('a directory that is a link, and blobs of another model', async () => {
    cacheFile('model.safetensors');
    const blob = cacheFile('model.safetensors', { repository: 'acme/other' });
    const snapshot = join(home, 'hub/models--acme--net/snapshots', COMMIT);
    symlinkSync(join(blob, '..'), join(snapshot, 'linked'));
    symlinkSync(blob, join(snapshot, 'foreign.pt'));
    for (const file of ['linked/blob-of-model.safetensors', 'foreign.pt'])
      expect((await failureOf(() => openText(`hf:acme/net:${file}`))).code).toBe('refused');
  });

  test('a ref that is no commit is none', async () => {
    cacheFile('model.safetensors');
    for (const ref of ['../../../secret', `${COMMIT}${'0'.repeat(100)}`, '']) {
      writeFileSync(join(home, 'hub/models--acme--net/refs/main'), ref);
      expect((await failureOf(() => openText('hf:acme/net'))).message).toContain('no revision "main"');
    }
  });

  test.each([
    'hf:',
    'hf:acme',
    'hf:acme/',
    'hf:/net',
    'hf:a/b/c',
    'hf:../net',
    'hf:acme/..',
    'hf:acme/n--et',
    'hf:acme/net\\x',
    'hf:acme/ne t',
    'hf:acme/-net',
    'hf:acme/net\0',
    `hf:acme/${'n'.repeat(300)}`,
    'hf:acme/net@',
    'hf:acme/net@../main',
    'hf:acme/net@a//b',
    'hf:acme/net@/etc',
    'hf:acme/net@a\\b',
    'hf:acme/net@a b',
    'hf:acme/net:',
    'hf:acme/net:../x.pt',
    'hf:acme/net:a/../x.pt',
    'hf:acme/net:/etc/passwd',
    'hf:acme/net:a//b',
    'hf:acme/net:a\\b',
    'hf:acme/net:a\0b',
    'hf:acme/net:./a',
    'https://huggingface.co/acme/net/resolve/main/..%2F..%2Fx.pt',
    'https://huggingface.co/acme/net/resolve/..%2Fmain/x.pt',
    'http://download.pytorch.org/models/resnet18-f37072fd.pth',
    'https://',
    'https://name:password@example.org/a.pt',
    'https://a b/c.pt',
  ])('%j is refused', async (place) => {
    const failure = await failureOf(() => openText(place));
    expect(failure.code).toBe('refused');
    expect(failure.file).not.toContain('password');
  });
});

describe("a web address in torch.hub's cache", () => {
  const cacheDownload = (name: string, directory = join(home, 'torch/hub/checkpoints')) => {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, name), name);
  };

  test('is found by the last part of its path, and says so', async () => {
    cacheDownload('resnet18-f37072fd.pth');
    const url = 'https://download.pytorch.org/models/resnet18-f37072fd.pth';
    expect(await openText(url)).toEqual({
      name: url,
      text: 'resnet18-f37072fd.pth',
      notes: [`"${url}" was read from the cache of torch.hub, which knows files by their names alone`],
    });
    expect((await openText(`${url}?X-Amz-Signature=abc#x`))?.name).toBe(url);
  });

  test('is looked for in XDG_CACHE_HOME and in the home directory', async () => {
    vi.stubEnv('TORCH_HOME', '');
    for (const [variable, place] of [
      ['HOME', '.cache/torch'],
      ['XDG_CACHE_HOME', 'torch'],
    ] as const) {
      vi.stubEnv(variable, join(home, variable));
      cacheDownload(`${variable}.pth`, join(home, variable, place, 'hub/checkpoints'));
      expect((await openText(`https://example.org/${variable}.pth`))?.text).toBe(`${variable}.pth`);
    }
  });

  test.each(['', '/', '/a/', '/a/..', '/gone.pth', '/%2e%2e', '/..%2Fsecret'])(
    '%j is not there',
    async (path) => {
      cacheDownload('a.pth');
      writeFileSync(join(home, 'torch/hub/secret'), 'secret');
      expect(await failureOf(() => openText(`https://example.org${path}?sig=secret-key`))).toMatchObject({
        code: 'not-found',
        file: expect.not.stringContaining('secret-key'),
        message: expect.stringContaining('found no such file in the cache of torch.hub'),
      });
    },
  );

  test('a link out of the cache is refused', async () => {
    cacheDownload('a.pth');
    symlinkSync('/etc/hostname', join(home, 'torch/hub/checkpoints/b.pth'));
    expect((await failureOf(() => openText('https://example.org/b.pth'))).code).toBe('refused');
  });
});

test('names leave out what may be a secret', () => {
  expect(nameOf('https://bob:key@example.org/a.pt?X-Amz-Signature=s#t')).toBe('https://example.org/a.pt');
  expect(nameOf('HTTPS://bob@example.org')).toBe('HTTPS://example.org');
  expect(nameOf('hf:acme/net:what?.pt')).toBe('hf:acme/net:what?.pt');
  expect(nameOf('what?.pt')).toBe('what?.pt');
});

test('no file of the room reaches the network', () => {
  expect(readFileSync(new URL('../../src/io/places.ts', import.meta.url), 'utf8')).not.toMatch(
    /fetch\(|node:https?/,
  );
});

test.each([
  ['runs/what?.pt#1', 'runs/what?.pt#1'],
  ['hf:acme/net:what?.pt', 'hf:acme/net:what?.pt'],
  ['https://example.org/a.pt', 'https://example.org/a.pt'],
  ['https://example.org/a.pt#top', 'https://example.org/a.pt'],
  [
    'https://huggingface.co/acme/net/resolve/main/a.pt?download=true',
    'https://huggingface.co/acme/net/resolve/main/a.pt',
  ],
])('%s is written into a file as %s', (argument, name) => {
  expect(toLastingName(argument)).toBe(name);
});

describe('over the network, where that is allowed', () => {
  const COMMIT_FILE = `/acme/net/resolve/${COMMIT}/model.safetensors`;
  const bytesOf = (text: string) => ({ bytes: new TextEncoder().encode(text) });
  const LISTING = {
    sha: COMMIT,
    siblings: [{ rfilename: 'config.json' }, { rfilename: 'model.safetensors' }, 7],
  };

  /** A Hub of one model, which answers the API and tells the commit of what it serves. */
  async function serveHub(listing: unknown = LISTING, files: Parameters<typeof serveFiles>[0] = {}) {
    const server = await serveFiles(
      {
        [COMMIT_FILE]: bytesOf('of a commit'),
        '/acme/net/resolve/main/a%20b/last.pt': bytesOf('of main'),
        ...files,
      },
      (request, response) => {
        response.setHeader('x-repo-commit', COMMIT);
        if (request.url?.startsWith('/api/') !== true) return false;
        response.writeHead(200).end(JSON.stringify(listing));
        return true;
      },
    );
    onTestFinished(server.close);
    const open = async (place: string) => {
      const hub = { origin: server.origin, test: { allowsPlain: true, pauseMs: 1 } };
      const opened = await openPlace(place, { defaults: DEFAULTS, remote: true }, hub);
      if (opened === null) throw new Error('a path');
      onTestFinished(() => opened.source.close());
      return opened;
    };
    return { server, open };
  }

  const readText = async (source: ByteSource) => new TextDecoder().decode(await readRange(wholeOf(source)));

  test('a model opens as its default file, at the commit that the Hub names', async () => {
    const { server, open } = await serveHub();
    const { source, notes } = await open('hf:acme/net');
    expect(await readText(source)).toBe('of a commit');
    expect(source.name).toBe('hf:acme/net:model.safetensors');
    expect(notes).toEqual(['"hf:acme/net" was read over the network, of the commit 0123456789ab']);
    expect(server.requests.map(({ url }) => url)).toEqual([
      '/api/models/acme/net/revision/main',
      COMMIT_FILE,
    ]);
  });

  test('a file is asked for by itself, and what lies beside it at the same commit', async () => {
    const { server, open } = await serveHub(LISTING, {
      [`/acme/net/resolve/${COMMIT}/a%20b/other.pt`]: bytesOf('beside'),
    });
    const { source } = await open('hf:acme/net:a b/last.pt');
    expect(await readText(source)).toBe('of main');
    const beside = await source.openBeside?.('other.pt');
    expect(beside && (await readText(beside))).toBe('beside');
    expect([source, beside].map((one) => [one?.name, one?.remotePath])).toEqual([
      ['hf:acme/net:a b/last.pt', 'a b/last.pt'],
      ['hf:acme/net:a b/other.pt', 'a b/other.pt'],
    ]);
    await beside?.close();
    expect(server.requests).toHaveLength(2);
  });

  test('what the cache has is not asked for', async () => {
    const { server, open } = await serveHub();
    cacheFile('model.safetensors');
    expect(await readText((await open('hf:acme/net')).source)).toBe('model.safetensors');
    expect(server.requests).toEqual([]);
  });

  test('nothing is asked for where it is not allowed', async () => {
    const { server } = await serveHub();
    await failureOf(() => openPlace('hf:acme/net', { defaults: DEFAULTS }, { origin: server.origin }));
    await failureOf(() => openPlace(`${server.origin}/a.pt`, { defaults: DEFAULTS }));
    expect(server.requests).toEqual([]);
  });

  test.each([
    ['from the environment', { HF_TOKEN: 'hf_abc' }, null],
    ["from the Hub's own file", { HF_HOME: 'hf' }, 'hf/token'],
    ['from a file that is named', { HF_TOKEN_PATH: 'key' }, 'key'],
  ])('the token is taken %s, and shown nowhere', async (_, variables, file) => {
    for (const [name, value] of Object.entries(variables))
      vi.stubEnv(name, name === 'HF_TOKEN' ? value : join(home, value));
    if (file !== null) {
      mkdirSync(dirname(join(home, file)), { recursive: true });
      writeFileSync(join(home, file), 'hf_abc\n');
    }
    const { server, open } = await serveHub();
    const opened = await open('hf:acme/net');
    expect(server.requests.map(({ headers }) => headers.authorization)).toEqual([
      'Bearer hf_abc',
      'Bearer hf_abc',
    ]);
    expect(JSON.stringify([opened.notes, opened.source.name])).not.toContain('hf_abc');
  });

  test('what could be no token is not sent', async () => {
    vi.stubEnv('HF_TOKEN', 'a\r\nx-evil: 1');
    const { server, open } = await serveHub();
    await open('hf:acme/net');
    expect(server.requests.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined]);
  });

  test.each([
    ['no list', [], 'malformed'],
    ['another commit', { sha: '../../x', siblings: [] }, 'malformed'],
    ['no files', { sha: COMMIT, siblings: {} }, 'malformed'],
    ['no default file', { sha: COMMIT, siblings: [{ rfilename: 'yolo.pt' }] }, 'not-found'],
  ])('%s of the Hub is refused', async (_, listing, code) => {
    const { open } = await serveHub(listing);
    expect(await failureOf(() => open('hf:acme/net'))).toMatchObject({ code, file: 'hf:acme/net' });
  });
});
