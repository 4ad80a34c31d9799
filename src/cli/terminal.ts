// The process as commands see it: two streams, colours, width, and a progress bar.

import { fstatSync, writeFileSync } from 'node:fs';
import { Chalk, type ColorSupportLevel } from 'chalk';
import type { ColorChoice } from '../options.js';
import type { Paint } from '../report/text-layout.js';

/** How standard output shows text. */
interface Looks {
  /** Columns: those that COLUMNS names, else the terminal's, else 80. */
  readonly width: number;
  /** Whether names stay whole, since it is no terminal. */
  readonly wholeNames: boolean;
  /** Colours, none where they cannot be shown. */
  readonly paint: Paint;
}

/** What the commands need of the process. A stream is built when it is first asked for: a quiet run asks for none. */
export interface Terminal {
  /** Judges standard output. */
  readonly readLooks: () => Looks;
  /** What the user says of colours, which counts more than what the environment does. */
  readonly chooseColor: (choice: ColorChoice) => void;
  /** Writes data to standard output, and settles when it is written: a slow reader holds up the work, not the memory. */
  readonly write: (text: string) => Promise<void>;
  /** Writes a message and a line end to standard error. */
  readonly writeError: (message: string) => void;
  /** Shows how far the work is, on a terminal, once it has lasted a second: how many bytes are compared. */
  readonly showProgress: (progress: Progress) => void;
  /** The same of a probe: how often the model has run. */
  readonly showRuns: (progress: Progress) => void;
  readonly finishProgress: () => void;
}

interface Progress {
  readonly done: number;
  readonly total: number;
}

type ProcessLike = Pick<NodeJS.Process, 'stdout' | 'stderr' | 'env'>;

/** Told when standard output can no longer be written to. Messages that nobody can be told change no verdict. */
type OnWriteError = (error: NodeJS.ErrnoException) => void;

const DEFAULT_WIDTH = 80;

/** Wider lines than those of any screen were not meant. */
const MAX_WIDTH = 1000;

/** Work that is done within this needs no bar. */
const PROGRESS_DELAY_MS = 1000;

/** A bar that is redrawn more often than this flickers and costs time. */
const PROGRESS_INTERVAL_MS = 100;

/** Columns of the bar where the line has room for them. */
const BAR_CELLS = 30;

/** The terminal of a process, with colours judged for each stream by itself. */
export function createTerminal(process: ProcessLike, onWriteError: OnWriteError): Terminal {
  const open = guardStreams(process, onWriteError);
  const start = Date.now();
  let color: ColorChoice = 'auto';
  let lastDrawn = 0;
  let isDrawn = false;
  const draw = (verb: string, { done, total }: Progress, counts: string) => {
    const now = Date.now();
    if (now - start < PROGRESS_DELAY_MS || now - lastDrawn < PROGRESS_INTERVAL_MS) return;
    lastDrawn = now;
    const stderr = open('stderr');
    if (stderr.isTTY !== true || process.env['TERM'] === 'dumb') return;
    isDrawn = true;
    const [share, width] = [total === 0 ? 1 : done / total, readWidth(stderr, process.env)];
    const line = [verb, `${Math.round(share * 100)} %  ${counts}`];
    // A line that the terminal breaks could not be drawn over; the last column is the cursor's.
    const cells = Math.min(BAR_CELLS, width - 3 - line.join('').length);
    const shown = cells < 1 ? line : line.toSpliced(1, 0, drawBar(share, cells));
    stderr.write(`\r${shown.join(' ').slice(0, width - 1)}\u001b[K`);
  };
  return {
    readLooks: () => readLooks(open('stdout'), process.env, color),
    chooseColor: (choice) => {
      color = choice;
    },
    write: (text) => writeAll(open('stdout'), text, onWriteError),
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

type Stream = NodeJS.WriteStream & { readonly fd: number };

/** Hands out the streams, each watched for write errors from the first time on. */
function guardStreams(
  process: ProcessLike,
  onWriteError: OnWriteError,
): (name: 'stdout' | 'stderr') => Stream {
  const watched = new Set<string>();
  return (name) => {
    const stream = process[name];
    if (!watched.has(name)) stream.on('error', name === 'stdout' ? onWriteError : () => {});
    watched.add(name);
    return stream;
  };
}

async function writeAll(stdout: Stream, text: string, onWriteError: OnWriteError): Promise<void> {
  if (!fstatSync(stdout.fd).isFile()) return new Promise((resolve) => stdout.write(text, () => resolve()));
  // On a full disk, Node's stream takes half a write to a file for a whole one.
  try {
    writeFileSync(stdout.fd, text);
  } catch (error) {
    onWriteError(error as NodeJS.ErrnoException);
  }
}

function readWidth({ isTTY, columns }: NodeJS.WriteStream, env: NodeJS.ProcessEnv): number {
  const asked = /^\d{1,9}$/.test(env['COLUMNS'] ?? '') ? Number(env['COLUMNS']) : 0;
  return Math.min(asked || (isTTY === true && columns) || DEFAULT_WIDTH, MAX_WIDTH);
}

function readLooks(stdout: NodeJS.WriteStream, env: NodeJS.ProcessEnv, color: ColorChoice): Looks {
  const { isTTY } = stdout;
  const level = color === 'auto' ? chooseColorLevel({ isTTY }, env) : color === 'always' ? 1 : 0;
  return { width: readWidth(stdout, env), wholeNames: isTTY !== true, paint: createPaint(level) };
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

function drawBar(share: number, cells: number): string {
  const filled = Math.round(share * cells);
  return `${'█'.repeat(filled)}${'░'.repeat(cells - filled)}`;
}

function toMegabytes(byteLength: number): number {
  return Math.round(byteLength / 1e6);
}
