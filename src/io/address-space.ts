import { readFileSync } from 'node:fs';
import { platform } from 'node:os';

/**
 * Whether the process may use as much address space as it likes, as far as the system tells: `ulimit -v` limits it on
 * Linux. V8 ends the whole process where it cannot reserve what it wants for another thread, some 600 MB.
 *
 * @param limitsPath the limits of this process, as proc(5) has them.
 */
export function isAddressSpaceUnlimited(system = platform(), limitsPath = '/proc/self/limits'): boolean {
  // These two have no such limit, or do not keep it.
  if (system === 'darwin' || system === 'win32') return true;
  try {
    return /^Max address space +unlimited /m.test(readFileSync(limitsPath, 'latin1'));
  } catch {
    // Where the limits cannot be read, there may be one.
    return false;
  }
}
