import { appendFileSync, statSync } from 'node:fs';
import { describeFailure } from '../io/file-failures.js';
import type { Terminal } from './terminal.js';

/** GitHub refuses the whole summary of a step that is longer. */
export const MAX_SUMMARY_BYTES = 1024 * 1024;

/**
 * Appends Markdown to the file that GITHUB_STEP_SUMMARY names, where there is one: the first of the versions that fits
 * beside what the step has written already. A summary that cannot be written fails no audit.
 */
export function appendJobSummary(versions: readonly string[], terminal: Terminal): void {
  const path = process.env['GITHUB_STEP_SUMMARY'] ?? '';
  if (path === '') return;
  try {
    const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    const fitting = versions.find((text) => size + Buffer.byteLength(text) + 1 <= MAX_SUMMARY_BYTES);
    if (fitting === undefined) terminal.writeError('bn-audit: the job summary is full: no report was added');
    else appendFileSync(path, size === 0 ? fitting : `\n${fitting}`);
  } catch (error) {
    terminal.writeError(`bn-audit: the job summary could not be written: ${describeFailure(error).writing}`);
  }
}
