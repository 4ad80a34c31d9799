import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** What one execution gets: the files of a folder. */
export interface Input {
  /** The file that is opened. */
  readonly main: string;
  /** All files by name. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** What a checkpoint is compared with, from fixtures/. */
  readonly reference: string;
  /** Chooses among orders, options and formats. */
  readonly draw: number;
}

/** What says how the files of an input are used; it stands beside them. */
export const DESCRIPTION_FILE = 'input.json';

/** Writes an input to a folder, in the place of the one that is there. */
export function writeInput(directory: string, reader: string, { main, files, reference, draw }: Input): void {
  mkdirSync(directory, { recursive: true });
  for (const name of readdirSync(directory)) if (!files.has(name)) rmSync(join(directory, name));
  for (const [name, bytes] of files) writeFileSync(join(directory, name), bytes);
  writeFileSync(join(directory, DESCRIPTION_FILE), `${JSON.stringify({ reader, main, reference, draw })}\n`);
}

/** Reads what {@link writeInput} wrote. */
export function readInput(directory: string): { readonly reader: string; readonly input: Input } {
  const { reader, main, reference, draw } = JSON.parse(
    readFileSync(join(directory, DESCRIPTION_FILE), 'utf8'),
  );
  const names = readdirSync(directory).filter((name) => name !== DESCRIPTION_FILE && name !== FAULT_FILE);
  const files = new Map(
    names.sort().map((name) => [name, new Uint8Array(readFileSync(join(directory, name)))]),
  );
  return { reader, input: { main, files, reference, draw } };
}

/** Says what an input brought about; it stands beside its files. */
export const FAULT_FILE = 'fault.txt';

/** The bytes of all files. */
export function countBytes({ files }: Input): number {
  return [...files.values()].reduce((sum, { length }) => sum + length, 0);
}
