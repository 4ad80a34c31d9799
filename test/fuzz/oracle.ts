import { CheckpointError, UsageError } from '../../src/errors.js';

/** What no input may bring about. */
export class Fault extends Error {
  override readonly name = 'Fault';
  /** The same for all inputs that bring about the same: what was wrong, and where. */
  readonly key: string;

  constructor(message: string, key: string, cause?: unknown) {
    super(message, { cause });
    this.key = key;
  }
}

/** No message is longer: a line stays a line. */
const MAX_MESSAGE_LENGTH = 4_000;

/** Characters that end a line or steer a terminal. */
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;

/** Those that no report holds either, which consists of lines. */
const CONTROLS_IN_LINES = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/;

/** How a refusal ends that is no fault of the files. */
const OWN_FAILURE = 'Please report this';

/**
 * What a piece of work gives; null where it refuses with a CheckpointError or a UsageError, of one line.
 *
 * @throws Fault for any other error, and for a refusal that blames the program.
 */
export async function expectResultOrRefusal<Result>(
  step: string,
  work: () => Result | Promise<Result>,
): Promise<Result | null> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CheckpointError || error instanceof UsageError)) throw unexpected(step, error);
    const line = [error.message, error.hint ?? ''].join(' ');
    if (line.includes(OWN_FAILURE)) throw new Fault(`${step}: ${line}`, `${step}: own failure`, error);
    if (CONTROLS.test(line))
      throw new Fault(`${step}: control characters in ${JSON.stringify(line)}`, `${step}: message`);
    if (line.length > MAX_MESSAGE_LENGTH)
      throw new Fault(`${step}: a message of ${line.length} characters`, `${step}: long`);
    return null;
  }
}

/** @throws Fault where a report holds characters that steer a terminal. */
export function checkReport(step: string, report: string): void {
  const found = CONTROLS_IN_LINES.exec(report);
  if (found === null) return;
  const around = report.slice(Math.max(0, found.index - 40), found.index + 40);
  throw new Fault(`${step}: control characters in ${JSON.stringify(around)}`, `${step}: report`);
}

/** An error that is neither; its key is its kind and the functions that it came from. */
function unexpected(step: string, error: unknown): Fault {
  if (!(error instanceof Error)) return new Fault(`${step}: threw ${String(error)}`, `${step}: thrown`);
  const frames = [...(error.stack ?? '').matchAll(/^ +at (?:async )?([\w.#<>]+) \(/gm)].map(
    ([, name]) => name,
  );
  return new Fault(
    `${step}: ${error.name}: ${error.message}`,
    `${error.name} ${frames.slice(0, 2).join(' < ')}`,
    error,
  );
}

/** CPU seconds and bytes of memory that one execution may take. */
const LIMITS = { cpuSeconds: 1, memoryBytes: 300_000_000 };

/** Measures what an execution takes of the processor and, at its peak, of memory. */
export class Meter {
  readonly #cpu = process.cpuUsage();
  readonly #memory = process.memoryUsage.rss();
  readonly #peak = process.resourceUsage().maxRSS;
  readonly #limits: typeof LIMITS;

  constructor(limits = LIMITS) {
    this.#limits = limits;
  }

  /** @throws Fault where it was more than one execution may take. */
  check(): void {
    const { user, system } = process.cpuUsage(this.#cpu);
    const seconds = (user + system) / 1e6;
    if (seconds > this.#limits.cpuSeconds)
      throw new Fault(`took ${seconds.toFixed(1)} s of the processor`, 'slow');
    // The process's peak says of an execution only that it was higher than all before.
    const peak = process.resourceUsage().maxRSS;
    const grown = peak * 1024 - this.#memory;
    if (peak > this.#peak && grown > this.#limits.memoryBytes)
      throw new Fault(`took ${Math.round(grown / 1e6)} MB of memory`, 'memory');
  }
}
