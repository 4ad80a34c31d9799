import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ByteSource, memorySource } from '../../src/io/byte-source.js';

/** A source that counts what is read of it. */
export interface CountingSource extends ByteSource {
  readonly bytesRead: number;
  readonly isClosed: boolean;
}

/** Bytes in memory as a source that counts what is read of it. */
export function countingSource(name: string, bytes: Uint8Array): CountingSource {
  const inner = memorySource(name, bytes);
  let bytesRead = 0;
  let isClosed = false;
  return {
    name,
    byteLength: inner.byteLength,
    get bytesRead() {
      return bytesRead;
    },
    get isClosed() {
      return isClosed;
    },
    async readInto(target, position) {
      bytesRead += target.byteLength;
      await inner.readInto(target, position);
    },
    async close() {
      isClosed = true;
    },
  };
}

/** An empty directory in another one, such as that of {@link makeTempDirectory}. */
export function makeSubdirectory(parent: string): string {
  return mkdtempSync(join(parent, 'run-'));
}

/** Where the directories of the running test file are. */
let place: string | null = null;

/** Called after each test file, see test/setup.ts. */
export function removeTempDirectories(): void {
  if (place !== null) rmSync(place, { recursive: true, force: true });
  place = null;
}

/** A new empty directory, removed when the test file is done. */
export function makeTempDirectory(): string {
  place ??= mkdtempSync(join(tmpdir(), 'bn-audit-test-'));
  return makeSubdirectory(place);
}
