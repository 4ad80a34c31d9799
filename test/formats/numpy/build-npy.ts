import { bytesOf } from '../../build/bytes.js';

/** What an .npy array may be besides what NumPy writes today. */
export interface NpyParts {
  readonly version?: number;
  readonly isFortran?: boolean;
  /** Instead of the header that the other arguments make. */
  readonly header?: string;
}

/** An .npy array, byte by byte. */
export function npy(descr: string, shape: string, elements: Uint8Array, parts: NpyParts = {}): Uint8Array {
  const { version = 1, isFortran = false } = parts;
  const order = isFortran ? 'True' : 'False';
  const header = parts.header ?? `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': ${shape}, }`;
  const text = `${header}\n`;
  const length = [text.length & 255, text.length >> 8, ...(version === 1 ? [] : [0, 0])];
  return bytesOf(0x93, 'NUMPY', version, 0, ...length, text, elements);
}
