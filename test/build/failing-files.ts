import nodeFs from 'node:fs';
import { promisify } from 'node:util';

type Files = typeof nodeFs;

/** An error as Node throws it where the operating system refuses something. */
export function systemError(code: string, syscall = 'any'): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: raw words, ${syscall}`), { code, syscall });
}

/** The file system, in which one function fails. */
export function failingFiles(name: keyof Files, code: string): Files {
  const fail = () => {
    throw systemError(code, name);
  };
  // Called as a promise, as what waits for the disk is.
  const failing = Object.assign(fail, { [promisify.custom]: async () => fail() });
  return { ...nodeFs, [name]: failing };
}
