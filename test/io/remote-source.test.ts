import { createServer } from 'node:net';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { ByteSource } from '../../src/io/byte-source.js';
import { fetchJson, openRemoteSource, type RemoteFile } from '../../src/io/remote-source.js';
import { failureOf } from '../build/failure.js';
import { type FileServer, type Handler, sendRange, serveFiles } from '../build/file-server.js';

const MIB = 1024 * 1024;

/** Bytes of no period that a window has. */
const PATTERN = Uint8Array.from({ length: 64_007 }, (_, index) => (index * 7 + (index >> 8)) % 251);
const content = (byteLength: number): Uint8Array => new Uint8Array(Buffer.alloc(byteLength, PATTERN));

const BYTES = content(300_000);

const QUICK = { allowsPlain: true, pauseMs: 1, idleMs: 300, totalMs: 2_000 };

const opened: { close: () => Promise<void> }[] = [];

afterEach(async () => {
  vi.unstubAllEnvs();
  for (const one of opened.splice(0)) await one.close();
});

async function serve(before?: Handler, bytes = BYTES): Promise<FileServer> {
  const server = await serveFiles({ '/a.pt': { bytes }, '/b.pt': { bytes, etag: '"v2"' } }, before);
  opened.push(server);
  return server;
}

async function open(origin: string, file: Partial<RemoteFile> = {}) {
  const source = await openRemoteSource({
    url: new URL('/a.pt', origin),
    name: 'a.pt',
    test: QUICK,
    ...file,
  });
  opened.unshift(source);
  return source;
}

async function read(source: ByteSource, start: number, end: number): Promise<Uint8Array> {
  const target = new Uint8Array(end - start);
  await source.readInto(target, start);
  return target;
}

async function readAll(origin: string, file: Partial<RemoteFile> = {}): Promise<boolean> {
  const source = await open(origin, file);
  return Buffer.compare(await read(source, 0, source.byteLength), BYTES) === 0;
}

describe('a file behind a web address', () => {
  test('reads as the file, wherever it is read', async () => {
    const { origin } = await serve();
    const source = await open(origin);
    expect(source.byteLength).toBe(BYTES.byteLength);
    for (const [start, end] of [
      [0, 8],
      [299_990, 300_000],
      [100_000, 250_000],
      [16_000, 17_000],
      [5, 5],
    ] as const)
      expect(Buffer.compare(await read(source, start, end), BYTES.subarray(start, end))).toBe(0);
    expect(await failureOf(() => read(source, 299_999, 300_001))).toMatchObject({ code: 'truncated' });
  });

  test('may be shorter than what is asked for first', async () => {
    const { origin } = await serve(undefined, content(10));
    const source = await open(origin);
    expect(await read(source, 0, 10)).toEqual(content(10));
  });

  test('says who asks, and wants it uncompressed and of the same version', async () => {
    const { origin, requests } = await serve();
    await readAll(origin);
    expect(requests[0]?.headers).toMatchObject({
      'user-agent': expect.stringMatching(/^bn-audit\/\d/),
      'accept-encoding': 'identity',
      range: 'bytes=0-16383',
    });
    expect(requests[1]?.headers['if-match']).toBe('"v1"');
  });

  test('is fetched once from front to back, in large requests', async () => {
    const bytes = content(40 * MIB);
    const server = await serve(undefined, bytes);
    const source = await open(server.origin);
    const piece = new Uint8Array(64 * 1024);
    let isEqual = true;
    for (let at = 0; at < bytes.byteLength; at += piece.byteLength) {
      await source.readInto(piece, at);
      isEqual &&= Buffer.compare(piece, bytes.subarray(at, at + piece.byteLength)) === 0;
    }
    expect(isEqual).toBe(true);
    expect(server.bytesSent).toBe(bytes.byteLength);
    expect(server.requests.length).toBeLessThan(16);
  });

  test('is fetched once where batch counts lie apart from the weights that are read on and on', async () => {
    const bytes = content(100 * MIB);
    const server = await serve(undefined, bytes);
    const source = await open(server.origin);
    const piece = new Uint8Array(MIB);
    for (let at = MIB; at < bytes.byteLength; at += piece.byteLength) {
      await source.readInto(piece, at);
      // Counts stand together at the front.
      await read(source, 50_000 + (at / MIB) * 8, 50_008 + (at / MIB) * 8);
      expect(Buffer.compare(piece, bytes.subarray(at, at + MIB))).toBe(0);
    }
    expect(server.requests.length).toBeLessThan(24);
    expect(server.bytesSent).toBeLessThan(bytes.byteLength);
  });

  test('is fetched where it is read, and no further', async () => {
    const server = await serve(undefined, content(4 * MIB));
    const source = await open(server.origin);
    for (let at = 4 * MIB - 100; at > 0; at -= MIB) await read(source, at, at + 50);
    expect(server.bytesSent).toBeLessThan(5 * 16 * 1024 + 1);
  });

  test('is fetched together where it is expected to be read', async () => {
    const server = await serve(undefined, content(4 * MIB));
    const source = await open(server.origin);
    const ranges = [0, 1, 2, 3].map((index) => ({
      source,
      offset: MIB + index * 30_000,
      byteLength: 20_000,
    }));
    source.expect([...ranges].reverse());
    source.expect([{ offset: 3 * MIB, byteLength: 10 }]);
    for (const { offset, byteLength } of ranges) await read(source, offset, offset + byteLength);
    expect(server.requests.map(({ headers }) => headers.range)).toEqual([
      'bytes=0-16383',
      `bytes=${MIB}-${MIB + 110_000 - 1}`,
    ]);
    await read(source, 3 * MIB, 3 * MIB + 10);
    expect(server.requests.at(-1)?.headers.range).toBe(`bytes=${3 * MIB}-${3 * MIB + 9}`);
  });
});

describe('a connection that drops', () => {
  test('is made again, and the rest is asked for', async () => {
    let drops = 3;
    const { origin, requests } = await serve((request, response) => {
      if (request.headers.range === 'bytes=0-16383' || drops-- <= 0) return false;
      const [, first, last] = /(\d+)-(\d+)/.exec(request.headers.range ?? '') ?? [];
      response.writeHead(206, {
        etag: '"v1"',
        'content-range': `bytes ${first}-${last}/300000`,
        'content-length': Number(last) + 1 - Number(first),
      });
      response.write(BYTES.subarray(Number(first), Number(first) + 1000));
      setTimeout(() => response.destroy(), 20);
      return true;
    });
    expect(await readAll(origin)).toBe(true);
    expect(requests.map(({ headers }) => headers.range)).toEqual([
      'bytes=0-16383',
      'bytes=16384-299999',
      'bytes=17384-299999',
      'bytes=18384-299999',
      'bytes=19384-299999',
    ]);
  });

  test('is given up after five times', async () => {
    const { origin, requests } = await serve((_, response) => {
      response.destroy();
      return true;
    });
    expect(await failureOf(() => open(origin))).toMatchObject({
      code: 'unreadable',
      file: 'a.pt',
      message: 'the connection failed (ECONNRESET), 5 times',
    });
    expect(requests).toHaveLength(5);
  });

  test('waits where the server is busy, as long as it asks for', async () => {
    let isBusy = true;
    const { origin } = await serve((_, response) => {
      if (!isBusy) return false;
      isBusy = false;
      response.writeHead(503, { 'retry-after': '1' }).end('busy');
      return true;
    });
    const start = Date.now();
    expect(await readAll(origin)).toBe(true);
    expect(Date.now() - start).toBeGreaterThan(900);
  });
});

describe('a server that is slow ends in bounded time', () => {
  test('silent before it answers', async () => {
    const { origin } = await serve(() => true);
    const failure = await failureOf(() => open(origin, { test: { ...QUICK, attempts: 2 } }));
    expect(failure.message).toBe('the server was silent for 0.3 s, 2 times');
  });

  test('silent within its answer', async () => {
    const { origin } = await serve((_, response) => {
      response.writeHead(206, { etag: '"v1"', 'content-range': 'bytes 0-16383/300000' }).flushHeaders();
      return true;
    });
    expect(await failureOf(() => open(origin, { test: { ...QUICK, attempts: 2 } }))).toMatchObject({
      code: 'unreadable',
      message: expect.stringMatching(/, 2 times$/),
    });
  });

  test('a byte at a time', async () => {
    const { origin } = await serve((_, response) => {
      response.writeHead(206, { etag: '"v1"', 'content-range': 'bytes 0-16383/300000' });
      const timer = setInterval(() => response.write('x'), 50);
      response.on('close', () => clearInterval(timer));
      return true;
    });
    expect(await failureOf(() => open(origin, { test: { ...QUICK, totalMs: 500 } }))).toMatchObject({
      code: 'unreadable',
      message: 'the server took more than 0.5 s for one request',
    });
  });

  test('a header without end', async () => {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.write('HTTP/1.1 206 OK\r\n');
      const timer = setInterval(() => socket.write('x: y\r\n'), 20);
      socket.on('close', () => clearInterval(timer));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    opened.push({ close: () => new Promise((resolve) => server.close(() => resolve())) });
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : 0;
    const failure = await failureOf(() =>
      open(`http://127.0.0.1:${port}`, { test: { ...QUICK, totalMs: 500 } }),
    );
    expect(failure.code).toBe('unreadable');
  });
});

describe('a server that lies is refused', () => {
  const head = { etag: '"v1"', 'content-range': 'bytes 0-16383/300000' };
  test.each<[what: string, status: number, headers: Record<string, string>, code: string, message: string]>([
    [
      'the whole file for a part',
      200,
      { etag: '"v1"' },
      'unsupported',
      'found that the server sends only the whole',
    ],
    ['no range', 206, { etag: '"v1"' }, 'unsupported', 'found that the server sends "no range"'],
    [
      'several ranges',
      206,
      { etag: '"v1"', 'content-type': 'multipart/byteranges; boundary=x' },
      'unsupported',
      '"no range"',
    ],
    [
      'another range',
      206,
      { ...head, 'content-range': 'bytes 1-16384/300000' },
      'unsupported',
      'bytes 1-16384',
    ],
    ['a shorter range', 206, { ...head, 'content-range': 'bytes 0-9/300000' }, 'unsupported', 'bytes 0-9'],
    [
      'a range beyond the end',
      206,
      { ...head, 'content-range': 'bytes 0-16383/100' },
      'unsupported',
      '16383/100',
    ],
    ['an unknown size', 206, { ...head, 'content-range': 'bytes 0-16383/*' }, 'unsupported', '16383/*'],
    [
      'a size beyond all bounds',
      206,
      { ...head, 'content-range': `bytes 0-16383/${'9'.repeat(30)}` },
      'unsupported',
      '999',
    ],
    [
      'compressed',
      206,
      { ...head, 'content-encoding': 'gzip' },
      'unsupported',
      'found that the server compressed it',
    ],
    [
      'no version',
      206,
      { 'content-range': head['content-range'] },
      'unsupported',
      'expected an ETag or a date',
    ],
    ['nothing of that size', 416, {}, 'truncated', 'an empty or shorter file'],
    ['no such file', 404, {}, 'not-found', 'the server has no such file (404)'],
    ['a private file', 401, {}, 'not-found', 'there is no such file, or it is private'],
    ['something else', 418, {}, 'unreadable', 'found that the server answered 418'],
    ['not modified', 304, {}, 'unreadable', 'found that the server answered 304'],
  ])('%s', async (_, status, headers, code, message) => {
    const { origin } = await serve((__, response) => {
      response.writeHead(status, headers).end();
      return true;
    });
    expect(await failureOf(() => open(origin))).toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
  });

  test('more than was asked for, without end', async () => {
    const { origin } = await serve((_, response) => {
      response.writeHead(206, head);
      const pump = () => {
        while (!response.destroyed && response.write(BYTES));
      };
      response.on('drain', pump);
      pump();
      return true;
    });
    expect((await failureOf(() => open(origin))).message).toBe(
      'expected 16384 bytes, found that the server sent more',
    );
  });

  test.each<
    [what: string, later: { bytes: Uint8Array; etag?: string } | null, headers: Record<string, string>]
  >([
    ['another version', { bytes: BYTES, etag: '"v2"' }, {}],
    ['another size', { bytes: content(300_001) }, {}],
    [
      'a version that is not held against',
      null,
      { etag: '"v2"', 'content-range': 'bytes 16384-299999/300000' },
    ],
    ['a size that is not held against', null, { etag: '"v1"', 'content-range': 'bytes 16384-299999/300001' }],
    [
      'a date alone',
      null,
      { 'last-modified': 'Thu, 01 Jan 1970 00:00:00 GMT', 'content-range': 'bytes 16384-299999/300000' },
    ],
  ])('a file that changes in between: %s', async (_, later, headers) => {
    let isFirst = true;
    const { origin } = await serve((request, response) => {
      if (isFirst) {
        isFirst = false;
        return false;
      }
      if (later !== null) sendRange(request, response, later);
      else response.writeHead(206, headers).end(BYTES.subarray(16_384));
      return true;
    });
    expect(await failureOf(() => readAll(origin))).toMatchObject({
      code: 'unreadable',
      message: expect.stringContaining('the file changed while it was read'),
    });
  });
});

describe('redirects', () => {
  const redirect =
    (to: (origin: string) => string, status = 302): Handler =>
    (request, response) => {
      if (request.url !== '/a.pt') return false;
      response.writeHead(status, { location: to(`http://${request.headers.host}`) }).end('x'.repeat(100));
      return true;
    };

  test.each([301, 302, 303, 307, 308])('%i is followed, once for all reads', async (status) => {
    const { origin, requests } = await serve(redirect(() => '/b.pt', status));
    expect(await readAll(origin)).toBe(true);
    expect(requests.map(({ url }) => url)).toEqual(['/a.pt', '/b.pt', '/b.pt']);
  });

  test('is asked for again where its signature has run out', async () => {
    let count = 0;
    const { origin, requests } = await serve((request, response) => {
      if (request.url === '/a.pt') return redirect(() => `/b.pt?signature=${count}`)(request, response);
      if (++count !== 2) return false;
      response.writeHead(403).end();
      return true;
    });
    expect(await readAll(origin)).toBe(true);
    expect(requests.map(({ url }) => url)).toEqual([
      '/a.pt',
      '/b.pt?signature=0',
      '/b.pt?signature=0',
      '/a.pt',
      '/b.pt?signature=2',
    ]);
  });

  test.each([
    ['file:///etc/passwd', '"file:"'],
    ['ftp://localhost/a', '"ftp:"'],
    ['data:,x', '"data:"'],
    ['http://example.org/a', '"http:"'],
    ['//user:key@localhost/a', 'without a name and a password'],
    ['http://[', 'to a web address, found none'],
  ])('to %s are refused', async (location, message) => {
    const { origin } = await serve(redirect(() => location));
    const failure = await failureOf(() => open(origin));
    expect(failure).toMatchObject({ code: 'refused', message: expect.stringContaining(message) });
    expect(failure.message).not.toContain('key@');
  });

  test('in a circle end', async () => {
    const { origin, requests } = await serve(redirect(() => '/a.pt'));
    expect((await failureOf(() => open(origin))).message).toBe('expected at most 5 redirects, found more');
    expect(requests).toHaveLength(6);
  });

  test('without an address are refused', async () => {
    const { origin } = await serve((_, response) => {
      response.writeHead(302).end();
      return true;
    });
    expect((await failureOf(() => open(origin))).code).toBe('refused');
  });
});

describe('a token', () => {
  const token = 'hf_abc';
  const seen = ({ requests }: FileServer) => requests.map(({ headers }) => headers.authorization ?? null);

  test('goes to the origin that it is for', async () => {
    const server = await serve();
    await readAll(server.origin, { token });
    expect(seen(server)).toEqual(['Bearer hf_abc', 'Bearer hf_abc']);
  });

  test('does not go to where that redirects to, nor back from there', async () => {
    let home = '';
    const other = await serve((request, response) => {
      if (request.url !== '/back') return false;
      response.writeHead(302, { location: `${home}/b.pt` }).end();
      return true;
    });
    const server = await serve((request, response) => {
      if (request.url !== '/a.pt') return false;
      response.writeHead(302, { location: `${other.origin}/back` }).end();
      return true;
    });
    home = server.origin;
    await readAll(server.origin, { token });
    expect(seen(server)).toEqual(['Bearer hf_abc', null, null]);
    expect(seen(other)).toEqual([null]);
  });
});

test.each(['http://example.org/a.pt', 'http://localhost/a.pt', 'file:///etc/passwd', 'ftp://localhost/a'])(
  '%s is asked for by nobody',
  async (url) => {
    expect(await failureOf(() => openRemoteSource({ url: new URL(url), name: 'a' }))).toMatchObject({
      code: 'refused',
    });
  },
);

test('a server that is not there is named', async () => {
  expect(
    await failureOf(() => openRemoteSource({ url: new URL('https://nowhere.invalid/a?key=1'), name: 'a' })),
  ).toMatchObject({
    code: 'unreadable',
    message: expect.not.stringContaining('key'),
  });
});

test('what was closed is not read any more', async () => {
  const { origin } = await serve();
  const source = await open(origin);
  await source.close();
  await expect(read(source, 100_000, 100_001)).rejects.toThrow('was read after it was closed');
});

describe('a JSON document', () => {
  const ask = async (body: string | null) => {
    const { origin } = await serve((_, response) => {
      if (body !== null) response.writeHead(200).end(body);
      else {
        const pump = () => {
          while (!response.destroyed && response.write(' '.repeat(65_536)));
        };
        response.on('drain', pump);
        pump();
      }
      return true;
    });
    return fetchJson({ url: new URL('/api', origin), name: 'hf:a/b', test: QUICK });
  };

  test('is parsed', async () => {
    expect(await ask('{"sha": "0"}')).toEqual({ sha: '0' });
  });

  test.each([
    ['<html>', 'malformed'],
    ['['.repeat(1_000_000), 'malformed'],
    [null, 'limit-exceeded'],
  ])('is refused otherwise', async (body, code) => {
    expect((await failureOf(() => ask(body))).code).toBe(code);
  });
});
