// Serves a directory over https by ranges, at a rate, for the cases that read over the network. Prints its port.
//
//     node bench/serve.js DIRECTORY KEY CERTIFICATE MEGABYTES_PER_SECOND
//
// /bytes tells how many bytes of files it has sent.
import { createReadStream, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout } from 'node:timers/promises';

const [directory = '', key = '', cert = '', rate = ''] = process.argv.slice(2);
const bytesPerMs = Number(rate) * 1000;
const PIECE_BYTES = 256 * 1024;

let bytesSent = 0;
/** When the line is free again, in milliseconds: all answers share it. */
let freeAt = 0;

/**
 * @param {string} path
 * @param {{start: number, end: number}} range its last byte included
 */
async function* readAtRate(path, range) {
  for await (const piece of createReadStream(path, { ...range, highWaterMark: PIECE_BYTES })) {
    freeAt = Math.max(freeAt, performance.now()) + piece.length / bytesPerMs;
    // Timers are no finer than a millisecond, and late rather than early.
    if (freeAt - performance.now() > 2) await setTimeout(freeAt - performance.now());
    bytesSent += piece.length;
    yield piece;
  }
}

const server = createServer(
  { key: readFileSync(key), cert: readFileSync(cert) },
  async (request, response) => {
    const { pathname } = new URL(request.url ?? '', 'https://localhost');
    const path = join(directory, pathname);
    const facts = statSync(path, { throwIfNoEntry: false });
    if (facts?.isFile() !== true) {
      response.writeHead(pathname === '/bytes' ? 200 : 404).end(String(bytesSent));
      return;
    }
    const [, first = '0', last = facts.size - 1] =
      /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    const range = { start: Number(first), end: Math.min(Number(last), facts.size - 1) };
    response.writeHead(request.headers.range === undefined ? 200 : 206, {
      etag: `"${facts.size}-${facts.mtimeMs}"`,
      'content-length': range.end - range.start + 1,
      'content-range': `bytes ${range.start}-${range.end}/${facts.size}`,
    });
    // A client that leaves is none of the server's business.
    await pipeline(readAtRate(path, range), response).catch(() => {});
  },
);

server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object' && address !== null) console.log(address.port);
});
