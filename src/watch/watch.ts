// Watches a directory and audits each checkpoint that lands in it: polls, since network file systems tell of no changes.

import { setTimeout } from 'node:timers/promises';
import { type AuditNext, type AuditOptions, withAudits } from '../audit.js';
import { fail, quote } from '../errors.js';
import type { AuditReport } from '../report/audit-report.js';
import { type AuditFailure, isFailure } from '../report/audit-set.js';
import { Landings } from './landings.js';
import {
  type FoundCheckpoint,
  type KnownFile,
  type Listing,
  type ListingOptions,
  listCheckpoints,
  rememberFiles,
  type Stamp,
  stampFiles,
} from './list-checkpoints.js';

/** What a watch is told beside the checkpoint from before and the directory. */
export interface WatchOptions extends Pick<ListingOptions, 'match'> {
  readonly audit: AuditOptions;
  /** Seconds from one look at the directory to the next. */
  readonly interval: number;
  /** Ends after so many seconds. */
  readonly timeout?: number | undefined;
  /** Ends when nothing has landed or changed for so many seconds. */
  readonly idle?: number | undefined;
  /** Ends the watch, also in the middle of an audit. */
  readonly signal: AbortSignal;
  readonly surroundings?: Surroundings;
}

/** What a watch sees of the world; tests hand in their own. */
export interface Surroundings {
  /** Milliseconds from some beginning on, never less than before. */
  readonly now: () => number;
  /** Settles after so many milliseconds, or when the signal comes. */
  readonly sleep: (milliseconds: number, signal: AbortSignal) => Promise<void>;
  readonly list: (directory: string, options: ListingOptions) => Listing;
  readonly stamp: (files: readonly string[]) => Stamp | null;
}

/** What a watch tells as it happens. */
export type WatchEvent =
  | { readonly kind: 'audited'; readonly path: string; readonly report: AuditReport }
  /** It could not be audited, and stands still. When it changes it is tried again. */
  | { readonly kind: 'failed'; readonly path: string; readonly failure: AuditFailure }
  /** It was deleted before it could be audited. */
  | { readonly kind: 'gone'; readonly path: string }
  /** What else the user should know: a plain sentence. */
  | { readonly kind: 'note'; readonly message: string };

/** How a watch ended, and what it leaves. */
export interface WatchEnd {
  /** `told` is when whoever was told of an event wanted no more. */
  readonly by: 'told' | 'signal' | 'timeout' | 'idle';
  /** Checkpoints that are there and could not be audited. */
  readonly failed: number;
  /** Paths of those that may not be complete, or that the end came before. */
  readonly changing: readonly string[];
  /** Files that were passed over, and one of them. */
  readonly passed: Listing['passed'];
}

/** Told of each event, in order; settles to whether the watch goes on. */
export type OnEvent = (event: WatchEvent) => Promise<boolean>;

/**
 * Audits each checkpoint under a directory against one from before, which is opened once: those that are there and those
 * that land, in the order in which they were written; one that is written anew, anew.
 *
 * A checkpoint has landed when its files stood still, in size and time, from one look to the next. What changed while it
 * was audited was not: it is audited when it stands still again.
 *
 * @throws CheckpointError where before cannot be opened, or was changed, and where the directory is none.
 */
export function watch(
  { before, directory }: { readonly before: string; readonly directory: string },
  options: WatchOptions,
  onEvent: OnEvent,
): Promise<WatchEnd> {
  const reference = new Reference(before, (options.surroundings ?? REAL).stamp);
  const onOpenFile = (file: string) => {
    options.audit.onOpenFile?.(file);
    reference.note(file);
  };
  return withAudits(before, { ...options.audit, onOpenFile }, (auditNext) =>
    new Watch({ directory, options, auditNext, reference, onEvent }).run(),
  );
}

const REAL: Surroundings = {
  now: () => performance.now(),
  // It rejects when the signal comes, and at no other time.
  sleep: (milliseconds, signal) => setTimeout(milliseconds, undefined, { signal }).catch(() => undefined),
  list: listCheckpoints,
  stamp: stampFiles,
};

/** Files beside a checkpoint that tell of its framework: trainers write them again and again, and they hold no tensor. */
const CONFIG = /config\.json$/;

/** The files of the checkpoint from before, which must stay as they were when they were opened. */
class Reference {
  readonly #path: string;
  readonly #stamp: Surroundings['stamp'];
  readonly #opened = new Map<string, Stamp | null>();
  readonly files: KnownFile[] = [];
  #isGone = false;

  constructor(path: string, stamp: Surroundings['stamp']) {
    this.#path = path;
    this.#stamp = stamp;
  }

  note(file: string): void {
    if (CONFIG.test(file) || this.#opened.has(file)) return;
    this.#opened.set(file, this.#stamp([file]));
    this.files.push(...rememberFiles([file]));
  }

  /**
   * @returns whether one of the files has just gone; what is open can still be read.
   * @throws CheckpointError `refused` where one was changed or replaced.
   */
  check(): boolean {
    const wasGone = this.#isGone;
    for (const [file, opened] of this.#opened) {
      const stamp = this.#stamp([file]);
      if (stamp === null) this.#isGone = true;
      else if (stamp.content !== opened?.content)
        fail(
          this.#path,
          `expected the checkpoint from before as it was opened, found ${quote(file)} changed: what came after would be compared with another one`,
          'refused',
          { hint: 'Watch against a copy that stays, or a baseline: bn-audit baseline CHECKPOINT -o FILE' },
        );
    }
    return this.#isGone && !wasGone;
  }
}

interface Setting {
  readonly directory: string;
  readonly options: WatchOptions;
  readonly auditNext: AuditNext;
  readonly reference: Reference;
  readonly onEvent: OnEvent;
}

class Watch {
  readonly #setting: Setting;
  readonly #world: Surroundings;
  readonly #landings = new Landings();
  /** The latest look at the directory. */
  #listing: Listing | null = null;
  #end: WatchEnd['by'] | null = null;

  constructor(setting: Setting) {
    this.#setting = setting;
    this.#world = setting.options.surroundings ?? REAL;
  }

  async run(): Promise<WatchEnd> {
    const {
      interval,
      timeout = Number.POSITIVE_INFINITY,
      idle = Number.POSITIVE_INFINITY,
      signal,
    } = this.#setting.options;
    const end = this.#world.now() + timeout * 1000;
    let lastBusy = this.#world.now();
    while (this.#end === null) {
      const isBusy = await this.#look();
      const now = this.#world.now();
      if (isBusy) lastBusy = now;
      if (signal.aborted) this.#end = 'signal';
      else if (now >= end) this.#end ??= 'timeout';
      else if (!isBusy && now - lastBusy >= idle * 1000) this.#end ??= 'idle';
      if (this.#end === null) await this.#world.sleep(Math.min(interval * 1000, end - now), signal);
    }
    const { untold, ...rest } = this.#landings.listRest();
    for (const failure of untold) await this.#tell({ kind: 'failed', path: failure.after, failure });
    return { by: this.#end, passed: this.#listing?.passed ?? { count: 0, example: null }, ...rest };
  }

  /** @returns whether anything is under way. */
  async #look(): Promise<boolean> {
    const { directory, options, reference } = this.#setting;
    const last = this.#listing;
    const listing = this.#world.list(directory, { match: options.match, without: reference.files });
    this.#listing = listing;
    await this.#checkReference();
    for (const message of listRemarks(directory, listing, last)) await this.#tell({ kind: 'note', message });
    const { landed, stuck, gone, isBusy } = this.#landings.take(listing);
    for (const path of gone) await this.#tell({ kind: 'gone', path });
    for (const failure of stuck) await this.#tell({ kind: 'failed', path: failure.after, failure });
    for (const found of landed) if (this.#end === null && !options.signal.aborted) await this.#audit(found);
    return isBusy;
  }

  async #audit(found: FoundCheckpoint): Promise<void> {
    const { options, auditNext } = this.#setting;
    const { stamp } = this.#world;
    const opened = new Map<string, Stamp | null>();
    const onOpenFile = (file: string) => {
      options.audit.onOpenFile?.(file);
      opened.set(file, stamp([file]));
    };
    const outcome = await untilAborted(
      auditNext(found.path, { ...options.audit, onOpenFile }),
      options.signal,
    );
    if (outcome === null) return;
    await this.#checkReference();
    const isThere = stamp(found.files) !== null;
    const isSame = (files: readonly string[], then: Stamp | null) => {
      const now = stamp(files);
      return now === null ? !isThere : now.content === then?.content;
    };
    const isWhole =
      isSame(found.files, found.stamp) && [...opened].every(([file, then]) => isSame([file], then));
    // What changed lands again, and what is gone is told of as such, unless it was read in time.
    if (!isWhole || (isFailure(outcome) && !isThere)) return;
    this.#landings.conclude(found.path, isFailure(outcome) ? outcome : null);
    if (!isFailure(outcome)) await this.#tell({ kind: 'audited', path: found.path, report: outcome });
  }

  async #checkReference(): Promise<void> {
    if (this.#setting.reference.check())
      await this.#tell({
        kind: 'note',
        message: 'the checkpoint from before is gone from its place: it is compared with as it was opened',
      });
  }

  async #tell(event: WatchEvent): Promise<void> {
    const goesOn = await this.#setting.onEvent(event);
    if (!goesOn) this.#end ??= 'told';
  }
}

/** What is to be said of the directory itself that was not said at the last look. */
function listRemarks(
  directory: string,
  { isThere, unread }: Listing,
  last: Listing | null,
): readonly string[] {
  const wait = last === null ? 'there is no such directory yet' : 'the directory is gone';
  return [
    ...(!isThere && last?.isThere !== false ? [`${quote(directory)}: ${wait}: it is waited for`] : []),
    ...unread
      .filter(
        ({ path, message }) => !last?.unread.some((one) => one.path === path && one.message === message),
      )
      .map(({ path, message }) => `${quote(path)}: ${message}: it is looked at again each time`),
  ];
}

/** What some work comes to; null where the signal comes first, and the work is left to itself. */
async function untilAborted<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result | null> {
  let onAbort = () => {};
  const aborted = new Promise<null>((resolve) => {
    onAbort = () => resolve(null);
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) resolve(null);
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
