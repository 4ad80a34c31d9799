// Compares the copies of a network that after holds as well, and says where one of them tells otherwise.

import type { Checkpoint, CheckpointCopy } from './checkpoint/checkpoint.js';
import { type AuditOptions, type AuditResults, compareCheckpoints } from './compare-checkpoints.js';
import { CheckpointError, quote, toShellWord, UsageError } from './errors.js';
import { isUnder } from './norm/naming.js';

/** Copies that are compared, each of which takes as long as the audit itself; files hold one or two. */
const MAX_COPIES = 4;

/**
 * Compares two checkpoints as {@link compareCheckpoints} does, and every copy that after holds of what it audits: weights
 * that were averaged beside the raw ones. Where errors are found in one and not in the other, a doubt says so.
 *
 * @throws as {@link compareCheckpoints}; not where only a copy cannot be compared.
 */
export async function compareWithCopies(
  before: Checkpoint,
  after: Checkpoint,
  options: AuditOptions,
): Promise<AuditResults> {
  const results = await compareCheckpoints(before, after, options);
  const copies = after.copies ?? [];
  const doubts: string[] = [];
  for (const copy of copies.slice(0, MAX_COPIES)) {
    const doubt = await compareCopy(copy, results, options);
    if (doubt !== null) doubts.push(doubt);
  }
  if (copies.length > MAX_COPIES)
    doubts.push(
      `after holds ${copies.length} copies of what was audited: ${MAX_COPIES} of them were compared`,
    );
  return { ...results, doubts: [...results.doubts, ...doubts] };
}

/** @returns what the user should know; null where the copy tells the same. */
async function compareCopy(
  copy: CheckpointCopy,
  { before, after, findings }: AuditResults,
  options: AuditOptions,
): Promise<string | null> {
  const select = `--select ${toShellWord(copy.path)}`;
  const part = after.checkpoint.parts === undefined ? '' : copy.of;
  const hasErrors = (found: AuditResults['findings']) =>
    found.some(({ level, layer }) => level === 'error' && isUnder(layer, part));
  try {
    // A copy goes with the same copy of before, where that holds one.
    const counterpart = before.checkpoint.copies?.find(({ path }) => path === copy.path);
    const { findings: others } = await compareCheckpoints(
      (await counterpart?.open()) ?? before.checkpoint,
      await copy.open(),
      { ...options, channels: false },
    );
    if (hasErrors(others) === hasErrors(findings)) return null;
    const [drifted, clean] = hasErrors(others) ? [copy.path, copy.of] : [copy.of, copy.path];
    return `the copies of one network in after disagree: ${quote(drifted)} has errors, ${quote(clean)} has none; ${quote(copy.of)} was audited, ${select} audits the other`;
  } catch (error) {
    if (!(error instanceof CheckpointError || error instanceof UsageError)) throw error;
    return `${quote(copy.path)}, a copy of ${quote(copy.of)} in after, could not be compared (${select} tries): ${error.message}`;
  }
}
