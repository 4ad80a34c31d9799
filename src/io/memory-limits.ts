import { readFileSync } from 'node:fs';
import { platform } from 'node:os';

/** What `ulimit -v` and `ulimit -d` limit on Linux, as proc(5) names it. */
const LIMITS = ['Max address space', 'Max data size'];

/**
 * Whether the process may reserve as much memory as it likes, as far as its limits go. Where V8 cannot reserve what it
 * wants for another thread, some 600 MB, it ends the whole process.
 *
 * @param limitsPath the limits of this process.
 */
export function isMemoryUnlimited(system = platform(), limitsPath = '/proc/self/limits'): boolean {
  // These two have no such limits, or do not keep them.
  if (system === 'darwin' || system === 'win32') return true;
  try {
    const limits = readFileSync(limitsPath, 'latin1');
    return LIMITS.every((name) => new RegExp(`^${name} +unlimited `, 'm').test(limits));
  } catch {
    // Where the limits cannot be read, there may be some.
    return false;
  }
}
