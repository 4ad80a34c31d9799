import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { f32 } from '../build/bytes.js';
import { safetensorsBytes } from '../build/safetensors.js';

/** Two checkpoints of one drifted norm layer beside a large frozen head, so that writing takes a while. */
export function makeLargePair(
  directory: string,
  megabytes = 8,
): { readonly before: string; readonly after: string } {
  const write = (name: string, value: number) => {
    const statistics = { dtype: 'F32', shape: [2], data: f32(value, value) };
    const bytes = safetensorsBytes({
      'bn.weight': { dtype: 'F32', shape: [2], data: f32(1.5, 2) },
      'bn.running_mean': statistics,
      'bn.running_var': statistics,
      head: { dtype: 'U8', shape: [megabytes, 1024, 1024], data: new Uint8Array(megabytes * 1024 * 1024) },
    });
    writeFileSync(join(directory, name), bytes);
    return join(directory, name);
  };
  return { before: write('before.safetensors', 1), after: write('after.safetensors', 2) };
}
