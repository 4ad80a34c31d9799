import { Chalk, type ColorSupportLevel } from 'chalk';
import type { Paint } from '../report/text-layout.js';

/** What the commands need of the process: two streams, their looks, and a progress bar. */
export interface Terminal {
  /** Columns of standard output; 80 where it is no terminal. */
  readonly width: number;
  /** Colours as standard output shows them. */
  readonly paint: Paint;
  /** Writes data to standard output. */
  readonly write: (text: string) => void;
  /** Writes a message and a line end to standard error. */
  readonly writeError: (message: string) => void;
  /** Shows how far the work is, on a terminal, once it has lasted a second. */
  readonly showProgress: (progress: { done: number; total: number }) => void;
  /** Takes the progress bar away. */
  readonly finishProgress: () => void;
}

type ProcessLike = Pick<NodeJS.Process, 'stdout' | 'stderr' | 'env'>;

const DEFAULT_WIDTH = 80;
const MAX_WIDTH = 120;

/** Work that is done within this needs no bar. */
const PROGRESS_DELAY_MS = 1000;

/** A bar that is redrawn more often than this flickers and costs time. */
const PROGRESS_INTERVAL_MS = 100;

const BAR_CELLS = 30;

/** The terminal of a process, with colours judged for each stream by itself. */
export function createTerminal({ stdout, stderr, env }: ProcessLike): Terminal {
  const hasProgress = stderr.isTTY === true && env['TERM'] !== 'dumb';
  const start = performance.now();
  let lastDrawn = 0;
  let isDrawn = false;
  return {
    width: stdout.isTTY === true ? Math.min(stdout.columns || DEFAULT_WIDTH, MAX_WIDTH) : DEFAULT_WIDTH,
    paint: createPaint(chooseColorLevel(stdout, env)),
    write: (text) => {
      stdout.write(text);
    },
    writeError: (message) => {
      stderr.write(`${message}\n`);
    },
    showProgress: ({ done, total }) => {
      const now = performance.now();
      if (!hasProgress || now - start < PROGRESS_DELAY_MS || now - lastDrawn < PROGRESS_INTERVAL_MS) return;
      lastDrawn = now;
      isDrawn = true;
      stderr.write(`\r${drawProgress(done, total)}\u001b[K`);
    },
    finishProgress: () => {
      if (isDrawn) stderr.write('\r\u001b[K');
      isDrawn = false;
    },
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

function drawProgress(done: number, total: number): string {
  const share = total === 0 ? 1 : done / total;
  const filled = Math.round(share * BAR_CELLS);
  const megabytes = (bytes: number) => Math.round(bytes / 1e6);
  return `comparing ${'█'.repeat(filled)}${'░'.repeat(BAR_CELLS - filled)} ${Math.round(share * 100)} %  ${megabytes(done)} of ${megabytes(total)} MB`;
}
