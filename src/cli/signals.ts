// Signals that ask the process to end, and how it ends by one.

/** From a keyboard, a supervisor, or a terminal that was closed. */
export const ENDING_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** What ends a command that goes on and on: SIGPIPE too, when nobody reads any more what it prints. */
const STOPPING_SIGNALS = [...ENDING_SIGNALS, 'SIGPIPE'] as const;

/** Ends the process as if nothing had waited for the signal, so that whoever started it sees why it ended. */
export function endBySignal(signal: NodeJS.Signals): void {
  process.kill(process.pid, signal);
}

/** Signals that are waited for. */
interface CaughtSignals {
  /** Aborted by the first one; the next ends the process at once. */
  readonly signal: AbortSignal;
  /** The one that came; null where none did. */
  readonly readCaught: () => NodeJS.Signals | null;
  /** Waits for them no longer: from then on each ends the process. */
  readonly release: () => void;
}

/** Waits for signals until one comes. */
export function catchSignals(): CaughtSignals {
  const controller = new AbortController();
  let caught: NodeJS.Signals | null = null;
  const onSignal = (signal: NodeJS.Signals) => {
    // Whatever is printed yet would bring the same signal again.
    if (signal !== 'SIGPIPE') release();
    caught ??= signal;
    controller.abort();
  };
  const release = () => {
    for (const one of STOPPING_SIGNALS) process.off(one, onSignal);
  };
  for (const one of STOPPING_SIGNALS) process.on(one, onSignal);
  return { signal: controller.signal, readCaught: () => caught, release };
}
