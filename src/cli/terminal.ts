// The process as commands see it: arguments, colours, width, and the two streams.

import { fstatSync, type Stats, writeSync } from 'node:fs';
import { Chalk, type ColorSupportLevel } from 'chalk';
import type { Paint } from '../report/text-layout.js';

/**
 * Writes text to standard output without Node's stream for it.
 *
 * @returns the bytes that a full pipe did not take, for the stream to bring through; null when all are written.
 * @throws NodeJS.ErrnoException where the descriptor cannot be written to, such as `EPIPE`.
 */
export type DirectWrite = (text: string) => Uint8Array | null;

/**
 * A writer for standard output where that is a file or a pipe; null where it is anything else, such as a terminal.
 *
 * Building `process.stdout` takes Node 2 to 3 ms, as long as reading and pairing two small checkpoints.
 */
export function openDirectOutput(): DirectWrite | null {
  const descriptor = 1;
  return takesDirectWrites(statOf(descriptor), process.platform)
    ? (text) => writeAll(Buffer.from(text), (rest) => writeSync(descriptor, rest))
    : null;
}

/** Whether writes to a descriptor return when the bytes are written. On Windows, those to a pipe may not. */
export function takesDirectWrites(
  stat: Pick<Stats, 'isFile' | 'isFIFO' | 'isSocket'> | null,
  platform: NodeJS.Platform,
): boolean {
  if (stat === null) return false;
  return stat.isFile() || (platform !== 'win32' && (stat.isFIFO() || stat.isSocket()));
}

function statOf(descriptor: number): Stats | null {
  try {
    return fstatSync(descriptor);
  } catch {
    // Closed from the start: the stream knows how to do without.
    return null;
  }
}

/**
 * Writes bytes piece by piece.
 *
 * @param write as `writeSync`: writes some of the bytes and says how many.
 * @returns the rest where `write` would have to wait (`EAGAIN`: the pipe is shared with a program that does not block on
 *   it); null when all are written.
 */
export function writeAll(bytes: Uint8Array, write: (rest: Uint8Array) => number): Uint8Array | null {
  for (let done = 0; done < bytes.byteLength; ) {
    const rest = bytes.subarray(done);
    try {
      done += write(rest);
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'EAGAIN') return rest;
      throw error;
    }
  }
  return null;
}

/** How standard output shows text. */
export interface Looks {
  /** Columns; 80 where it is no terminal. */
  readonly width: number;
  /** Colours, none where they cannot be shown. */
  readonly paint: Paint;
}

/**
 * What the commands need of the process: two streams, their looks, and a progress bar.
 *
 * Node builds a stream when it is first asked for, which takes longer than reading a small checkpoint: a run that
 * prints nothing asks for none.
 */
export interface Terminal {
  /** Judges standard output. */
  readonly readLooks: () => Promise<Looks>;
  /** Writes data to standard output. */
  readonly write: (text: string) => void;
  /** Writes a message and a line end to standard error. */
  readonly writeError: (message: string) => void;
  /** Shows how far the work is, on a terminal, once it has lasted a second: how many bytes are compared. */
  readonly showProgress: (progress: Progress) => void;
  /** The same of a probe: how often the model has run. */
  readonly showRuns: (progress: Progress) => void;
  /** Takes the progress bar away. */
  readonly finishProgress: () => void;
}

/** How much of some work is done. */
interface Progress {
  readonly done: number;
  readonly total: number;
}

type ProcessLike = Pick<NodeJS.Process, 'stdout' | 'stderr' | 'env'>;

/** Told when standard output can no longer be written to. Messages that nobody can be told change no verdict. */
type OnWriteError = (error: NodeJS.ErrnoException) => void;

const DEFAULT_WIDTH = 80;
const MAX_WIDTH = 120;

/** Work that is done within this needs no bar. */
const PROGRESS_DELAY_MS = 1000;

/** A bar that is redrawn more often than this flickers and costs time. */
const PROGRESS_INTERVAL_MS = 100;

const BAR_CELLS = 30;

/**
 * The terminal of a process, with colours judged for each stream by itself.
 *
 * @param writeDirectly writes to standard output where that needs no stream.
 */
export function createTerminal(
  process: ProcessLike,
  onWriteError: OnWriteError,
  writeDirectly: DirectWrite | null = null,
): Terminal {
  const open = guardStreams(process, onWriteError);
  let direct = writeDirectly;
  const tryDirect = (write: DirectWrite, text: string) => {
    try {
      return write(text);
    } catch (error) {
      onWriteError(error as NodeJS.ErrnoException);
      return null;
    }
  };
  const start = Date.now();
  let lastDrawn = 0;
  let isDrawn = false;
  const draw = (verb: string, { done, total }: Progress, counts: string) => {
    const now = Date.now();
    if (now - start < PROGRESS_DELAY_MS || now - lastDrawn < PROGRESS_INTERVAL_MS) return;
    lastDrawn = now;
    const stderr = open('stderr');
    if (stderr.isTTY !== true || process.env['TERM'] === 'dumb') return;
    isDrawn = true;
    stderr.write(`\r${verb} ${drawBar(total === 0 ? 1 : done / total)}  ${counts}\u001b[K`);
  };
  return {
    readLooks: () => readLooks(direct === null ? open('stdout') : NO_TERMINAL, process.env),
    write: (text) => {
      const rest = direct === null ? text : tryDirect(direct, text);
      if (rest === null) return;
      // What follows must not overtake it.
      direct = null;
      open('stdout').write(rest);
    },
    writeError: (message) => {
      open('stderr').write(`${message}\n`);
    },
    showProgress: (progress) => {
      draw('comparing', progress, `${toMegabytes(progress.done)} of ${toMegabytes(progress.total)} MB`);
    },
    showRuns: (progress) => {
      draw('running', progress, `${progress.done} of ${progress.total} runs`);
    },
    finishProgress: () => {
      if (isDrawn) open('stderr').write('\r\u001b[K');
      isDrawn = false;
    },
  };
}

/** Hands out the streams, each watched for write errors from the first time on. */
function guardStreams(
  process: ProcessLike,
  onWriteError: OnWriteError,
): (name: 'stdout' | 'stderr') => NodeJS.WriteStream {
  const watched = new Set<string>();
  return (name) => {
    const stream = process[name];
    if (!watched.has(name)) stream.on('error', name === 'stdout' ? onWriteError : () => {});
    watched.add(name);
    return stream;
  };
}

/** What is told of a terminal's size and kind, by a file or a pipe. */
const NO_TERMINAL = { isTTY: false, columns: 0 };

async function readLooks(
  stdout: Pick<NodeJS.WriteStream, 'isTTY' | 'columns'>,
  env: NodeJS.ProcessEnv,
): Promise<Looks> {
  return {
    width: stdout.isTTY === true ? Math.min(stdout.columns || DEFAULT_WIDTH, MAX_WIDTH) : DEFAULT_WIDTH,
    paint: createPaint(chooseColorLevel(stdout, env)),
  };
}

/**
 * How many colours a stream takes, 0 for none. NO_COLOR counts when it is not empty (no-color.org); FORCE_COLOR asks
 * for colour anywhere; else only a terminal that is not dumb gets it.
 */
export function chooseColorLevel(
  stream: { readonly isTTY?: boolean },
  env: NodeJS.ProcessEnv,
): ColorSupportLevel {
  if ((env['NO_COLOR'] ?? '') !== '') return 0;
  const forced = env['FORCE_COLOR'];
  if (forced !== undefined) return forced === '0' || forced === 'false' ? 0 : 1;
  return stream.isTTY === true && env['TERM'] !== 'dumb' ? 1 : 0;
}

function createPaint(level: ColorSupportLevel): Paint {
  if (level === 0) return (_tone, text) => text;
  const chalk = new Chalk({ level });
  const tones = {
    error: chalk.red.bold,
    warning: chalk.yellow,
    good: chalk.green,
    strong: chalk.bold,
    faint: chalk.dim,
  };
  return (tone, text) => tones[tone](text);
}

function drawBar(share: number): string {
  const filled = Math.round(share * BAR_CELLS);
  return `${'█'.repeat(filled)}${'░'.repeat(BAR_CELLS - filled)} ${Math.round(share * 100)} %`;
}

function toMegabytes(byteLength: number): number {
  return Math.round(byteLength / 1e6);
}
