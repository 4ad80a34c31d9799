import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer, type ServerOptions } from 'node:https';
import type { AddressInfo } from 'node:net';

/** What a server does with one request; false leaves it to the next one. */
export type Handler = (request: IncomingMessage, response: ServerResponse) => boolean | undefined;

/** A server of files on this machine that counts what it is asked for. */
export interface FileServer {
  readonly origin: string;
  readonly requests: { readonly url: string; readonly headers: IncomingMessage['headers'] }[];
  /** Bytes of bodies that were handed to the system. */
  bytesSent: number;
  readonly close: () => Promise<void>;
}

/**
 * Serves bytes by ranges, as the Hub and the stores of clouds do.
 *
 * @param files by their paths; an ETag goes with each, its version.
 * @param before is asked first, and may answer itself, or lie.
 */
export async function serveFiles(
  files: Readonly<Record<string, { readonly bytes: Uint8Array; readonly etag?: string }>>,
  before: Handler = () => false,
  secure?: ServerOptions,
): Promise<FileServer> {
  const served: FileServer = {
    origin: '',
    requests: [],
    bytesSent: 0,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    served.requests.push({ url: request.url ?? '', headers: request.headers });
    const write = response.write.bind(response);
    response.write = ((chunk: Uint8Array, ...rest: []) => {
      served.bytesSent += chunk.length;
      return write(chunk, ...rest);
    }) as typeof response.write;
    if (before(request, response) === true) return;
    const file = files[new URL(request.url ?? '', 'http://x').pathname];
    if (file === undefined) response.writeHead(404).end();
    else sendRange(request, response, file);
  };
  const server: Server = secure === undefined ? createServer(answer) : createSecureServer(secure, answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return Object.assign(served, { origin: `${secure === undefined ? 'http' : 'https'}://localhost:${port}` });
}

/** Answers a range request truthfully. */
export function sendRange(
  request: IncomingMessage,
  response: ServerResponse,
  { bytes, etag = '"v1"' }: { readonly bytes: Uint8Array; readonly etag?: string },
): void {
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  const wanted = request.headers['if-match'];
  if (wanted !== undefined && wanted !== etag) {
    response.writeHead(412).end();
    return;
  }
  const start = Number(first);
  const end = Math.min(Number(last) + 1, bytes.byteLength);
  response.writeHead(206, {
    etag,
    'content-range': `bytes ${start}-${end - 1}/${bytes.byteLength}`,
    'content-length': end - start,
  });
  for (let at = start; at < end; at += 65_536) response.write(bytes.subarray(at, Math.min(end, at + 65_536)));
  response.end();
}
