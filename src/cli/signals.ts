// Signals that ask the process to end, and how it ends by one.

/** From a keyboard, a supervisor, or a terminal that was closed. */
export const ENDING_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** One of {@link ENDING_SIGNALS}. */
export type EndingSignal = (typeof ENDING_SIGNALS)[number];

/** Ends the process as if nothing had waited for the signal, so that whoever started it sees why it ended. */
export function endBySignal(signal: NodeJS.Signals): void {
  process.kill(process.pid, signal);
}

/** Signals that are waited for. */
export interface CaughtSignals {
  /** Aborted by the first one; the next ends the process at once. */
  readonly signal: AbortSignal;
  /** The one that came; null where none did. */
  readonly readCaught: () => EndingSignal | null;
  /** Waits for them no longer. */
  readonly release: () => void;
}

/** Waits for signals until one comes. */
export function catchSignals(): CaughtSignals {
  const controller = new AbortController();
  let caught: EndingSignal | null = null;
  const onSignal = (signal: NodeJS.Signals) => {
    caught = ENDING_SIGNALS.find((one) => one === signal) ?? null;
    release();
    controller.abort();
  };
  const release = () => {
    for (const one of ENDING_SIGNALS) process.off(one, onSignal);
  };
  for (const one of ENDING_SIGNALS) process.on(one, onSignal);
  return { signal: controller.signal, readCaught: () => caught, release };
}
