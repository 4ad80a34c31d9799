// Tells from listings, one after the other, which checkpoints have landed: written completely, and not audited as they are.

import { compareNaturally } from '../norm/naming.js';
import type { AuditFailure } from '../report/audit-set.js';
import { type FoundCheckpoint, type Listing, prefixOf } from './list-checkpoints.js';

/** What a listing tells that the one before did not. */
interface Changes {
  /** Checkpoints that stood still from one listing to the next, in the order in which they were written. */
  readonly landed: readonly FoundCheckpoint[];
  /** Those that stand still and could not be audited; each is told once until it is audited. */
  readonly stuck: readonly AuditFailure[];
  /** Paths of those that were deleted before they could be audited. */
  readonly gone: readonly string[];
  /** Whether there is one that is being written, or has yet to be audited or told of. */
  readonly isBusy: boolean;
}

/** What is known of a checkpoint that is there. */
interface Known {
  readonly found: FoundCheckpoint;
  /** It may be in the middle of being written; it was audited; or it could not be. */
  readonly state: 'changing' | 'audited' | 'failed';
  readonly failure: AuditFailure | null;
  /** Whether it was told that it cannot be audited. */
  readonly isTold: boolean;
}

/**
 * The checkpoints under a directory, from one look at it to the next. What is deleted is forgotten: the memory that this
 * takes grows with what is there, not with what was seen.
 */
export class Landings {
  #known = new Map<string, Known>();

  /** Takes what a look at the directory found. */
  take({ checkpoints, unread }: Pick<Listing, 'checkpoints' | 'unread'>): Changes {
    const next = new Map<string, Known>();
    const lost = new Map(this.#known);
    for (const { path } of checkpoints) lost.delete(path);
    const byIdentity = new Map([...lost.values()].map((known) => [known.found.identity, known]));
    const landed: FoundCheckpoint[] = [];
    const stuck: AuditFailure[] = [];
    let isBusy = false;
    for (const found of checkpoints) {
      const last = this.#known.get(found.path) ?? byIdentity.get(found.identity);
      if (last !== undefined) lost.delete(last.found.path);
      const known = follow(last, found);
      if (known.state === 'changing' && last !== undefined && isAsItWas(last, found)) landed.push(found);
      isBusy ||= known.state === 'changing' || (known.state === 'failed' && !known.isTold);
      if (known.failure !== null && !known.isTold) stuck.push(known.failure);
      next.set(found.path, { ...known, isTold: known.isTold || known.failure !== null });
    }
    const isHidden = (file: string) =>
      unread.some(({ path }) => file === path || file.startsWith(prefixOf(path)));
    const gone: string[] = [];
    for (const [path, known] of lost) {
      if (isHidden(path)) next.set(path, known);
      else if (known.state !== 'audited') gone.push(path);
    }
    this.#known = next;
    return {
      landed: landed.sort(inOrderOfWriting),
      stuck,
      gone: gone.sort(compareNaturally),
      isBusy: isBusy || gone.length > 0,
    };
  }

  /** Notes what became of a checkpoint that landed. What has changed meanwhile lands again. */
  conclude(path: string, failure: AuditFailure | null): void {
    const known = this.#known.get(path);
    if (known === undefined) return;
    const isTold = failure !== null && known.isTold;
    const state = failure === null ? 'audited' : 'failed';
    this.#known.set(path, { ...known, state, failure, isTold });
  }

  /** What is there and was not audited. */
  listRest() {
    const rest = [...this.#known.values()];
    const failed = rest.filter(({ state }) => state === 'failed');
    return {
      failed: failed.length,
      untold: failed.flatMap(({ failure, isTold }) => (failure === null || isTold ? [] : failure)),
      changing: rest.filter(({ state }) => state === 'changing').map(({ found }) => found.path),
    };
  }
}

/** What is known of a checkpoint after another look at it. */
function follow(last: Known | undefined, found: FoundCheckpoint): Known {
  if (last === undefined) return { found, state: 'changing', failure: null, isTold: false };
  if (isAsItWas(last, found)) return { ...last, found };
  return { found, state: 'changing', failure: null, isTold: last.isTold };
}

/** Permissions tell only of what could not be read: a link to a file that was audited changes no more of it. */
function isAsItWas({ found: { stamp }, state }: Known, found: FoundCheckpoint): boolean {
  return state === 'failed' ? stamp.all === found.stamp.all : stamp.content === found.stamp.content;
}

/** Those of one time as people count: `epoch9` before `epoch10`. */
function inOrderOfWriting(one: FoundCheckpoint, other: FoundCheckpoint): number {
  if (one.stamp.written !== other.stamp.written) return one.stamp.written < other.stamp.written ? -1 : 1;
  return compareNaturally(one.path, other.path);
}
