// Files behind web addresses as byte sources. The only file that reaches the network, loaded where `--remote` allows it.

import { type IncomingMessage, Agent as PlainAgent, request as requestPlainly } from 'node:http';
import { Agent, request as requestSecurely } from 'node:https';
import { setTimeout as wait } from 'node:timers/promises';
import { CheckpointError, type CheckpointErrorCode, quote, VERSION } from '../errors.js';
import { type ByteRange, type ByteSource, checkBounds, partitionPoint, SmallReads } from './byte-source.js';
import { codeOf } from './file-source.js';

/** How long a server may take, and how often it is asked. Tests hand in shorter ones. */
const PATIENCE = {
  /** Without a byte: while it is connected to, before it answers, and within its answer. */
  idleMs: 30_000,
  /** One request, of at most 8 MiB: slower than 28 KB/s takes longer than anybody waits. */
  totalMs: 300_000,
  /** How often a request is made before it is given up. */
  attempts: 5,
  /** The pause after the first failure; each further one is twice as long. */
  pauseMs: 500,
};

/** As curl and browsers follow some tens, and the Hub one. */
const MAX_REDIRECTS = 5;

/** A server may ask for so long a pause. */
const MAX_PAUSE_MS = 30_000;

/** What is read ahead of a read that follows no other: the statistics of a layer lie side by side. */
const MIN_WINDOW_BYTES = 16 * 1024;

/** What is read on and on comes in requests of this size. */
const MAX_WINDOW_BYTES = 8 * 1024 * 1024;

/** From this size on the next window is asked for while this one is worked on. */
const PREFETCHED_BYTES = 1024 * 1024;

/** Windows that are held: two of full size, and small ones, which are read again and again: statistics, batch counts. */
const MAX_HELD_BYTES = 2 * MAX_WINDOW_BYTES;
const MAX_HELD_SMALL_BYTES = 4 * PREFETCHED_BYTES;

/** Places from which is read on at the same time: the weights, and the batch counts that lie apart from them. */
const MAX_TRAILS = 4;

/** What lies between two expected ranges is fetched with them up to so many bytes: a request of its own takes longer. */
const MAX_GAP_BYTES = 16 * 1024;

/** The Hub describes a repository of 50,000 files in this. */
const MAX_JSON_BYTES = 8 * 1024 * 1024;

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** What a server says that is only busy. */
const BUSY: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);

/** What the address that a redirect led to says when its signature has run out. */
const STALE: ReadonlySet<number> = new Set([400, 401, 403, 404, 410]);

/** Failures that may pass: a connection that was dropped, a network that was away. */
const PASSING =
  /^(?:ECONNRESET|ECONNREFUSED|ECONNABORTED|EPIPE|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|EHOSTUNREACH|ENETDOWN|ERR_STREAM_PREMATURE_CLOSE)$/;

/** A file behind a web address. */
export interface RemoteFile {
  readonly url: URL;
  /** How messages name it: without what may be a secret. */
  readonly name: string;
  /** Where it is on its server; what the address says unless given. */
  readonly remotePath?: string | undefined;
  /** Sent to the address's own origin, and to none that it redirects to. */
  readonly token?: string | undefined;
  /** Opens a file beside it, by its name. */
  readonly openBeside?: ((name: string) => Promise<ByteSource>) | undefined;
  /** For tests alone, which no setting reaches: a server of this machine that speaks plain HTTP, and less patience. */
  readonly test?: Partial<typeof PATIENCE> & { readonly allowsPlain?: boolean };
}

/** A request that may be made again, after the pause that the server asks for. */
class Interrupted extends Error {
  constructor(
    message: string,
    readonly pauseMs = 0,
  ) {
    super(message);
  }
}

/** Asks one server for one address, wherever that redirects to, and asks again where an answer breaks off. */
class Client {
  readonly #file: RemoteFile;
  readonly #patience: typeof PATIENCE;
  readonly #agents = [new Agent({ keepAlive: true, maxSockets: 2 }), new PlainAgent({ keepAlive: true })];
  /** Where redirects have led to. The token stays behind for good once they led away from the first origin. */
  #at: Pick<RemoteFile, 'url' | 'token'>;
  readonly #closing = new AbortController();
  /** The commit that the Hub says it answers from. */
  commit: string | null = null;

  constructor(file: RemoteFile) {
    this.#file = file;
    this.#patience = { ...PATIENCE, ...file.test };
    this.#at = file;
    this.#checkScheme(file.url);
  }

  close(): void {
    this.#closing.abort();
    for (const agent of this.#agents) agent.destroy();
  }

  fail(code: CheckpointErrorCode, message: string, hint?: string): CheckpointError {
    return new CheckpointError(message, { code, file: this.#file.name, hint });
  }

  /**
   * Makes a request until its answer was worked through.
   *
   * @param headers asked for anew each time: an answer that broke off is resumed where it did.
   * @throws CheckpointError where it failed for good, or too often.
   */
  async request(
    headers: () => Readonly<Record<string, string>>,
    work: (answer: IncomingMessage) => Promise<void>,
  ): Promise<void> {
    const { attempts, pauseMs } = this.#patience;
    const refuseClosed = () => {
      if (this.#closing.signal.aborted) throw new Error(`${this.#file.name} was read after it was closed`);
    };
    for (let attempt = 1; ; attempt++) {
      refuseClosed();
      try {
        return await this.#tryOnce(headers(), work);
      } catch (error) {
        refuseClosed();
        if (!(error instanceof Interrupted)) throw error;
        if (attempt >= attempts)
          throw this.fail('unreadable', `${error.message}, ${attempts} times`, 'Try again later.');
        const pause = Math.max(error.pauseMs, pauseMs * 2 ** (attempt - 1));
        await wait(pause, undefined, { signal: this.#closing.signal }).catch(() => {});
      }
    }
  }

  async #tryOnce(
    headers: Readonly<Record<string, string>>,
    work: (answer: IncomingMessage) => Promise<void>,
  ) {
    const deadline = new AbortController();
    const end = () => deadline.abort();
    const timer = setTimeout(end, this.#patience.totalMs);
    this.#closing.signal.addEventListener('abort', end);
    try {
      const answer = await this.#ask(headers, deadline.signal);
      try {
        await work(answer);
      } finally {
        if (!answer.complete) answer.destroy();
      }
    } catch (error) {
      if (deadline.signal.aborted)
        throw this.fail(
          'unreadable',
          `the server took more than ${this.#patience.totalMs / 1000} s for one request`,
          'Download the file, and name it by its path.',
        );
      throw this.#explain(error);
    } finally {
      clearTimeout(timer);
      this.#closing.signal.removeEventListener('abort', end);
    }
  }

  /** Follows redirects to the answer. */
  async #ask(headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<IncomingMessage> {
    let at = this.#at;
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      const answer = await this.#send(at, headers, signal);
      const status = answer.statusCode ?? 0;
      const { 'x-repo-commit': commit, location } = answer.headers;
      if (at.url.origin === this.#file.url.origin && typeof commit === 'string') this.commit ??= commit;
      if (REDIRECTS.has(status)) {
        answer.destroy();
        at = this.#follow(at, location);
      } else if (STALE.has(status) && this.#at !== this.#file) {
        answer.destroy();
        at = this.#at = this.#file;
      } else {
        this.#at = at;
        return answer;
      }
    }
    throw this.fail('refused', `expected at most ${MAX_REDIRECTS} redirects, found more`);
  }

  #follow({ url, token }: Pick<RemoteFile, 'url' | 'token'>, location: string | undefined) {
    const next = URL.canParse(location ?? '', url.href) ? new URL(location ?? '', url) : null;
    if (next === null || location === undefined)
      throw this.fail('refused', 'expected a redirect to a web address, found none');
    this.#checkScheme(next);
    if (next.username !== '' || next.password !== '')
      throw this.fail('refused', 'expected a redirect without a name and a password');
    return { url: next, token: next.origin === url.origin ? token : undefined };
  }

  #checkScheme({ protocol, hostname }: URL): void {
    const isHere = /^(?:localhost|127\.0\.0\.1)$/.test(hostname) && this.#file.test?.allowsPlain === true;
    if (protocol === 'https:' || (protocol === 'http:' && isHere)) return;
    throw this.fail('refused', `expected an https address, found a redirect to ${quote(protocol)}`);
  }

  #send(
    { url, token }: Pick<RemoteFile, 'url' | 'token'>,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const isPlain = url.protocol === 'http:';
    const options = {
      agent: this.#agents[isPlain ? 1 : 0],
      signal,
      timeout: this.#patience.idleMs,
      headers: {
        'user-agent': `bn-audit/${VERSION}`,
        // What is compressed has no ranges.
        'accept-encoding': 'identity',
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...headers,
      },
    };
    return new Promise((resolve, reject) => {
      const request = isPlain
        ? requestPlainly(url, options, resolve)
        : requestSecurely(url, options, resolve);
      request.on('timeout', () => {
        request.destroy(new Interrupted(`the server was silent for ${this.#patience.idleMs / 1000} s`));
      });
      request.on('error', reject);
      request.end();
    });
  }

  /** @throws what an answer other than the one asked for means. */
  refuseStatus({ statusCode: status = 0, headers }: IncomingMessage): never {
    if (BUSY.has(status)) {
      const seconds = Number(headers['retry-after']);
      const pause = Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0) * 1000, MAX_PAUSE_MS) : 0;
      throw new Interrupted(`the server answered ${status}`, pause);
    }
    if (status === 404 || status === 410)
      throw this.fail('not-found', `the server has no such file (${status})`);
    if (status === 401 || status === 403)
      throw this.fail(
        'not-found',
        `the server does not give it out (${status}): there is no such file, or it is private`,
        'For a private or gated model of the Hub, put a token that may read it into HF_TOKEN.',
      );
    throw this.fail('unreadable', `expected the file, found that the server answered ${status}`);
  }

  #explain(error: unknown): unknown {
    if (error instanceof CheckpointError || error instanceof Interrupted) return error;
    const code = codeOf(error);
    if (PASSING.test(code)) return new Interrupted(`the connection failed (${code})`);
    if (code === 'ENOTFOUND')
      return this.fail('unreadable', `there is no server ${quote(this.#at.url.hostname)}`);
    if (/CERT|SIGNATURE|^ERR_TLS|^ERR_SSL|^EPROTO/.test(code))
      return this.fail(
        'refused',
        `the server ${quote(this.#at.url.hostname)} cannot be trusted (${code})`,
        'Where your network has an authority of its own, name its certificate to Node: NODE_EXTRA_CA_CERTS=FILE',
      );
    return this.fail('unreadable', `the connection failed (${code})`);
  }
}

/** What tells a version of a file from others, as the first answer had it. */
interface FileVersion {
  readonly byteLength: number;
  /** An ETag, or a date where the server gives none. */
  readonly mark: string;
}

/** Bytes that were fetched, or are on their way. */
interface Window {
  readonly start: number;
  readonly end: number;
  readonly bytes: Promise<Uint8Array>;
  /** Whether it follows others, so that the next one will be asked for. */
  readonly isRead: boolean;
}

/** A place from which is read on: where the last window there ends, and how long it was asked for. */
interface Trail {
  readonly end: number;
  readonly size: number;
}

/**
 * Opens a file behind a web address: its bytes are fetched as they are read, in few requests, and every answer is held
 * against the first one, so that a file which changes meanwhile is an error.
 *
 * @throws CheckpointError `not-found`, `unreadable`, `refused`; `unsupported` where the server gives no ranges.
 */
export async function openRemoteSource(file: RemoteFile): Promise<RemoteSource> {
  const client = new Client(file);
  try {
    const head = new Uint8Array(MIN_WINDOW_BYTES);
    const version = await fetchRange(client, { start: 0, bytes: head, version: null });
    return new RemoteSource(file, client, version, head.subarray(0, version.byteLength));
  } catch (error) {
    client.close();
    throw error;
  }
}

interface RangeOrder {
  readonly start: number;
  /** Filled. The file may be shorter where nothing is known of it yet. */
  readonly bytes: Uint8Array;
  readonly version: FileVersion | null;
}

async function fetchRange(client: Client, order: RangeOrder): Promise<FileVersion> {
  const { start, bytes } = order;
  let filled = 0;
  let { version } = order;
  const askForRest = () => ({
    range: `bytes=${start + filled}-${start + bytes.byteLength - 1}`,
    // A weak ETag never matches.
    ...(version?.mark.startsWith('"') === true ? { 'if-match': version.mark } : {}),
  });
  await client.request(askForRest, async (answer) => {
    const asked = { start: start + filled, end: start + bytes.byteLength };
    version = checkAnswer(client, answer, asked, version);
    const end = Math.min(asked.end, version.byteLength) - start;
    for await (const chunk of answer as AsyncIterable<Uint8Array>) {
      if (filled + chunk.byteLength > end)
        throw client.fail('unreadable', `expected ${end} bytes, found that the server sent more`);
      bytes.set(chunk, filled);
      filled += chunk.byteLength;
    }
    if (filled < end) throw new Interrupted('the connection ended before its answer');
  });
  if (version === null) throw new Error('a range was fetched without an answer');
  return version;
}

const NO_RANGES_HINT = 'Download the file, and name it by its path.';

/** Holds an answer against what was asked for, and the file against what it was at first. */
function checkAnswer(
  client: Client,
  answer: IncomingMessage,
  asked: { readonly start: number; readonly end: number },
  version: FileVersion | null,
): FileVersion {
  const { statusCode, headers } = answer;
  const changed = (what: string) =>
    client.fail('unreadable', `the file changed while it was read: ${what}`, 'Run again.');
  if (statusCode === 412) throw changed('it is another version now');
  if (statusCode === 416)
    throw client.fail('truncated', 'expected a checkpoint, found an empty or shorter file');
  if (statusCode === 200)
    throw client.fail(
      'unsupported',
      'expected a part of the file, found that the server sends only the whole',
      NO_RANGES_HINT,
    );
  if (statusCode !== 206) client.refuseStatus(answer);
  if (!/^(?:identity)?$/i.test(headers['content-encoding'] ?? ''))
    throw client.fail(
      'unsupported',
      'expected the file as it is, found that the server compressed it',
      NO_RANGES_HINT,
    );
  const [, first, last, total] =
    /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15})$/.exec(headers['content-range'] ?? '') ?? [];
  const byteLength = Number(total);
  if (
    total === undefined ||
    Number(first) !== asked.start ||
    Number(last) + 1 !== Math.min(asked.end, byteLength)
  )
    throw client.fail(
      'unsupported',
      `expected bytes ${asked.start} to ${asked.end - 1}, found that the server sends ${quote(headers['content-range'] ?? 'no range')}`,
      NO_RANGES_HINT,
    );
  const mark = headers.etag ?? headers['last-modified'];
  if (mark === undefined)
    throw client.fail(
      'unsupported',
      'expected an ETag or a date, by which to see whether the file changes, found neither',
      NO_RANGES_HINT,
    );
  if (version !== null && version.byteLength !== byteLength)
    throw changed(`expected ${version.byteLength} bytes, found ${byteLength}`);
  if (version !== null && version.mark !== mark)
    throw changed(`expected ${quote(version.mark)}, found ${quote(mark)}`);
  return { byteLength, mark };
}

/** An open file behind a web address. Made by {@link openRemoteSource}. */
export class RemoteSource implements ByteSource {
  readonly name: string;
  readonly byteLength: number;
  readonly remotePath: string;
  readonly openBeside: ByteSource['openBeside'];
  /** The commit that the Hub answered from; null elsewhere. */
  readonly commit: string | null;
  readonly #client: Client;
  readonly #version: FileVersion;
  #windows: readonly Window[];
  /** By offset; none touches another. */
  #expected: readonly Pick<Window, 'start' | 'end'>[] = [];
  /** The one that was followed last comes first. */
  #trails: readonly Trail[];
  /** A window's room that is free again: made anew for each, they would pile up until memory is looked through. */
  #spare: Uint8Array | null = null;
  #work: Promise<void> = Promise.resolve();
  #small: SmallReads | null = null;

  constructor(file: RemoteFile, client: Client, version: FileVersion, head: Uint8Array) {
    const { name, openBeside, url } = file;
    this.name = name;
    this.openBeside = openBeside;
    this.remotePath = file.remotePath ?? url.pathname.split('/').map(decodePart).join('/');
    this.byteLength = version.byteLength;
    this.commit = client.commit;
    this.#client = client;
    this.#version = version;
    this.#trails = [{ end: head.byteLength, size: MIN_WINDOW_BYTES }];
    this.#windows = [{ start: 0, end: head.byteLength, bytes: Promise.resolve(head), isRead: false }];
  }

  /** One read after the other: what follows one another is told by their order. */
  readInto(target: Uint8Array, position: number): Promise<void> {
    const work = this.#work.then(() => this.#fill(target, position));
    this.#work = work.catch(() => {});
    return work;
  }

  expect(ranges: readonly Pick<ByteRange, 'offset' | 'byteLength'>[]): void {
    const merged: { start: number; end: number }[] = [];
    const all = [
      ...this.#expected,
      ...ranges.map(({ offset, byteLength }) => ({ start: offset, end: offset + byteLength })),
    ];
    for (const { start, end } of all.sort((x, y) => x.start - y.start)) {
      const last = merged.at(-1);
      if (last !== undefined && start - last.end <= MAX_GAP_BYTES) last.end = Math.max(last.end, end);
      else merged.push({ start, end });
    }
    this.#expected = merged;
  }

  keepSmallReads(): void {
    this.#small ??= new SmallReads();
  }

  async close(): Promise<void> {
    this.#client.close();
    this.#windows = [];
    this.#small?.release();
    this.#small = null;
  }

  async #fill(target: Uint8Array, position: number): Promise<void> {
    checkBounds(this, position, target.byteLength);
    if (this.#small?.fill(target, position) === true) return;
    for (let done = 0; done < target.byteLength; ) {
      const at = position + done;
      const window = this.#find(at) ?? this.#fetchAt(at, target.byteLength - done);
      if (window.isRead && window.end < this.byteLength && this.#find(window.end) === undefined)
        this.#fetchAt(window.end, 0);
      const part = (await window.bytes).subarray(
        at - window.start,
        at - window.start + target.byteLength - done,
      );
      target.set(part, done);
      done += part.byteLength;
    }
    this.#small?.keep(target, position);
  }

  #find(at: number): Window | undefined {
    return this.#windows.find(({ start, end }) => start <= at && at < end);
  }

  /** Asks for a window: as long as what is read on and on, what is expected there, or what is wanted. */
  #fetchAt(at: number, wanted: number): Window {
    const expected = this.#expected[partitionPoint(this.#expected, ({ end }) => end <= at)];
    const trail = this.#trails.find(({ end, size }) => at >= end && at - end <= size);
    const isExpected =
      expected !== undefined && expected.start <= at && (trail?.size ?? 0) < PREFETCHED_BYTES;
    const grown = trail === undefined ? MIN_WINDOW_BYTES : Math.min(2 * trail.size, MAX_WINDOW_BYTES);
    const size = isExpected ? (trail?.size ?? MIN_WINDOW_BYTES) : grown;
    // Of a group, what is read first need not be what lies first.
    const isGroup = isExpected && expected.end - expected.start <= PREFETCHED_BYTES;
    const start = isGroup ? expected.start : at;
    const least = isExpected ? expected.end - start : size;
    const length = Math.min(Math.max(least, at - start + wanted), MAX_WINDOW_BYTES, this.byteLength - start);
    const bytes = this.#download(start, length);
    const isRead = trail !== undefined && length >= PREFETCHED_BYTES;
    const window = { start, end: start + length, bytes, isRead };
    const others = this.#trails.filter((one) => one !== trail);
    this.#trails = [{ end: window.end, size }, ...others].slice(0, MAX_TRAILS);
    this.#hold(window);
    // Whoever reads it is told; a window that was asked for ahead may be read by nobody.
    bytes.catch(() => {
      this.#windows = this.#windows.filter((one) => one !== window);
    });
    return window;
  }

  async #download(start: number, length: number): Promise<Uint8Array> {
    const room = length === MAX_WINDOW_BYTES ? this.#spare : null;
    if (room !== null) this.#spare = null;
    const bytes = room ?? new Uint8Array(length);
    await fetchRange(this.#client, { start, bytes, version: this.#version });
    return bytes;
  }

  #hold(window: Window): void {
    const kept: Window[] = [];
    let [large, small] = [0, 0];
    for (const one of [window, ...this.#windows]) {
      const length = one.end - one.start;
      const isSmall = length <= PREFETCHED_BYTES;
      if (isSmall) small += length;
      else large += length;
      if (isSmall ? small <= MAX_HELD_SMALL_BYTES : large <= MAX_HELD_BYTES) kept.push(one);
      // Nobody reads it any more: reads follow one another, and this one has asked for two windows since.
      else if (length === MAX_WINDOW_BYTES) one.bytes.then((bytes) => (this.#spare = bytes)).catch(() => {});
    }
    this.#windows = kept;
  }
}

/** A part of an address's path as the name that it stands for; as it is where that would be none. */
function decodePart(part: string): string {
  try {
    const name = decodeURIComponent(part);
    return name.includes('/') ? part : name;
  } catch {
    return part;
  }
}

/**
 * Fetches a small JSON document.
 *
 * @throws CheckpointError as {@link openRemoteSource}; `limit-exceeded` and `malformed` for what is no such document.
 */
export async function fetchJson(file: RemoteFile): Promise<unknown> {
  const client = new Client(file);
  try {
    let pieces: Uint8Array[] = [];
    await client.request(
      () => ({ accept: 'application/json' }),
      async (answer) => {
        pieces = [];
        let byteLength = 0;
        if (answer.statusCode !== 200) client.refuseStatus(answer);
        for await (const chunk of answer as AsyncIterable<Uint8Array>) {
          byteLength += chunk.byteLength;
          if (byteLength > MAX_JSON_BYTES)
            throw client.fail(
              'limit-exceeded',
              `expected at most ${MAX_JSON_BYTES} bytes of JSON, found more`,
            );
          pieces.push(chunk);
        }
        if (!answer.complete) throw new Interrupted('the connection ended before its answer');
      },
    );
    return parseJson(client, Buffer.concat(pieces).toString('utf8'));
  } finally {
    client.close();
  }
}

function parseJson(client: Client, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw client.fail('malformed', 'expected JSON, found something else');
  }
}
