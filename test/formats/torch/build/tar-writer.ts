import { bytesOf, utf8 } from '../../../build/bytes.js';

/** A ustar archive. */
export function tar(members: Record<string, Uint8Array>): Uint8Array {
  const parts = Object.entries(members).flatMap(([name, bytes]) => {
    const header = new Uint8Array(512);
    header.set(utf8(name), 0);
    header.set(utf8(`${bytes.length.toString(8).padStart(11, '0')} `), 124);
    header.set(utf8('0'), 156);
    header.set(utf8('ustar'), 257);
    return [header, bytes, new Uint8Array((512 - (bytes.length % 512)) % 512)];
  });
  return bytesOf(...parts, new Uint8Array(1024));
}
