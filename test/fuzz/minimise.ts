import type { Input } from './input.js';
import { splice } from './mutate-bytes.js';

/**
 * A smaller input that still brings about the same: blocks are left out, halves first and single bytes last, then bytes
 * are made plain.
 *
 * @param isSame tries an input.
 * @param hasTime asked before each try.
 */
export async function minimise(
  input: Input,
  isSame: (input: Input) => Promise<boolean>,
  hasTime: () => boolean,
): Promise<Input> {
  let smallest = input;
  for (const name of input.files.keys()) {
    const attempt = async (bytes: Uint8Array) => {
      const candidate = { ...smallest, files: new Map(smallest.files).set(name, bytes) };
      if (!hasTime() || !(await isSame(candidate))) return false;
      smallest = candidate;
      return true;
    };
    const current = () => smallest.files.get(name) ?? new Uint8Array(0);
    for (let size = current().length >> 1; size >= 1 && hasTime(); size >>= 1) {
      for (let at = 0; at < current().length && hasTime(); )
        if (!(await attempt(splice(current(), at, size, new Uint8Array(0))))) at += size;
    }
    for (let at = 0; at < current().length && hasTime(); at++)
      if (current()[at] !== PLAIN_BYTE) await attempt(splice(current(), at, 1, Uint8Array.of(PLAIN_BYTE)));
  }
  return smallest;
}

/** A zero as numbers have it: bytes that are anything else matter. */
const PLAIN_BYTE = 0;
