import { closeSync, constants, fstatSync, openSync, writeFileSync } from 'node:fs';
import { describeFailure } from '../io/file-failures.js';
import { areSame, identifyFile } from '../io/same-file.js';
import type { Terminal } from './terminal.js';

/** GitHub refuses the whole summary of a step that is longer. */
export const MAX_SUMMARY_BYTES = 1024 * 1024;

/** Whether the summary's file is one that the process reads: nothing is ever written there then. */
let isInput = false;

/** To be told of each file that a run reads, before anything can fail that the summary would tell of. */
export function noteInput(path: string): void {
  const summary = findSummary();
  if (isInput || summary === '') return;
  const [one, other] = [identifyFile(summary), identifyFile(path)];
  isInput = one !== null && other !== null && areSame(one, other);
}

/**
 * Appends Markdown to the file that GITHUB_STEP_SUMMARY names, where there is one: the first of the versions that fits
 * beside what the step has written already. A summary that cannot be written fails no audit.
 */
export function appendJobSummary(versions: readonly string[], terminal: Terminal): void {
  const path = findSummary();
  if (path === '') return;
  const problem = isInput ? 'could not be written: it is a file that this run reads' : append(versions, path);
  if (problem !== null) terminal.writeError(`bn-audit: the job summary ${problem}`);
}

/** Null where it is done, or what kept it from being done. */
function append(versions: readonly string[], path: string): string | null {
  const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK } = constants;
  let descriptor: number | null = null;
  try {
    // A pipe that nobody reads would keep a blocking open waiting for ever.
    descriptor = openSync(path, O_WRONLY | O_APPEND | O_CREAT | (O_NONBLOCK ?? 0));
    const facts = fstatSync(descriptor);
    if (!facts.isFile()) return 'could not be written: it is no regular file';
    const fitting = versions.find((text) => facts.size + Buffer.byteLength(text) + 1 <= MAX_SUMMARY_BYTES);
    if (fitting === undefined) return 'is full: no report was added';
    writeFileSync(descriptor, facts.size === 0 ? fitting : `\n${fitting}`);
    return null;
  } catch (error) {
    return `could not be written: ${describeFailure(error).writing}`;
  } finally {
    if (descriptor !== null) closeSync(descriptor);
  }
}

function findSummary(): string {
  return process.env['GITHUB_STEP_SUMMARY'] ?? '';
}
