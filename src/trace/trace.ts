// A trace: every checkpoint of a training run against the one from before, in order. Read it from top to bottom.

import type { Checkpoint, OpenOptions } from '../checkpoint/checkpoint.js';
import { PieceDigests } from '../checkpoint/fingerprint.js';
import {
  type AuditOptions,
  type AuditResults,
  type CompareOptions,
  compareCheckpoints,
  compareWithCopies,
} from '../compare-checkpoints.js';
import { CheckpointError, describeError, quote } from '../errors.js';
import { DIRECTORY_NAMES } from '../formats/open.js';
import { type WithAfter, withBefore, withCheckpoint } from '../formats/with-checkpoint.js';
import { type ByteSource, listSources, orClose } from '../io/byte-source.js';
import { codeOf } from '../io/file-source.js';
import { findOnMachine, nameOf } from '../io/places.js';
import { identifyFile } from '../io/write-target.js';
import { checkOptions } from '../options.js';
import { type AuditReport, buildReport } from '../report/audit-report.js';
import type { SkippedCheckpoint, TraceReport } from '../report/trace-report.js';
import { areCopies, deduceStep, isChanged } from './judge-step.js';
import {
  areAtOnePlace,
  orderCheckpoints,
  type Progress,
  readNamedProgress,
  readProgress,
} from './order-checkpoints.js';
import { RunRecord } from './record-run.js';

/** What a trace is told beside its checkpoints. */
export interface TraceOptions extends Omit<AuditOptions, 'channels'> {
  /** Fail where a checkpoint is given twice or cannot be audited, instead of leaving it out. */
  readonly strict?: boolean | undefined;
}

/** A checkpoint of the run that could be opened. */
interface Surveyed extends Progress {
  readonly path: string;
  /** What has none, such as an optimizer, is hardly a checkpoint of the run: it does not keep the others from their order. */
  readonly hasLayers: boolean;
}

/**
 * Audits a whole training run: puts its checkpoints in order, audits each against the one from before, and follows every
 * norm layer through them.
 *
 * Every file is read once, before too, whatever the length of the run: what small reads gave is kept, and of the rest
 * digests, which tell what is equal. What only values tell is read again, of the files that are compared:
 *
 * - where a weight differs behind its first 16 KiB, or may be rounded: that piece, and those behind it until it is clear;
 * - what is stored in two types, quantised, folded or compressed; where before is a baseline, what was trained;
 * - small reads beyond those that a source keeps;
 * - headers of checkpoints that did not stay open: all with `select`, else those beyond {@link MAX_OPEN_FILES} and
 *   {@link MAX_OPEN_TENSORS}.
 *
 * @param paths the checkpoints, in any order.
 * @throws as audit where before cannot be read, or an option is wrong; CheckpointError where no checkpoint of the run can be
 *   audited, and with `strict` where one cannot, or is given twice.
 */
export async function trace(
  before: string,
  paths: readonly string[],
  options: TraceOptions = {},
): Promise<TraceReport> {
  checkOptions('trace', options);
  const { strict = false, ...auditing } = options;
  const skipped = new SkipList(strict);
  return withBefore(before, auditing, async (withAfter) => {
    const opener = new Opener(withAfter, auditing);
    try {
      const surveyed = await survey(listOnce(before, paths, skipped), opener, skipped);
      const withLayers = surveyed.filter(({ hasLayers }) => hasLayers);
      const others = withLayers.length === 0 ? [] : surveyed.filter(({ hasLayers }) => !hasLayers);
      const { ordered, by, doubts } = orderCheckpoints(others.length === 0 ? surveyed : withLayers);
      const record = new RunRecord();
      await auditInOrder([...ordered, ...others], opener, { options: auditing, record, skipped });
      if (record.length === 0) skipped.refuseAll();
      return record.conclude({ order: by, skipped: skipped.all, doubts });
    } finally {
      await opener.closeAll();
    }
  });
}

/** What is left out of a run, or, where it is strict, ends it. */
class SkipList {
  readonly all: SkippedCheckpoint[] = [];
  readonly #isStrict: boolean;
  #error: CheckpointError | null = null;

  constructor(isStrict: boolean) {
    this.#isStrict = isStrict;
  }

  /** @throws CheckpointError the error itself, where the run is strict. */
  fail(path: string, error: CheckpointError): void {
    if (this.#isStrict) throw error;
    this.#error ??= error;
    this.all.push({ path: nameOf(path), reason: 'failed', code: error.code, message: describeError(error) });
  }

  /** @throws CheckpointError `same-file`, where the run is strict. */
  repeat(path: string, what: string): void {
    const error = new CheckpointError(`expected a checkpoint of its own, found ${what}`, {
      code: 'same-file',
      file: nameOf(path),
      hint: 'Name it once, or leave out --strict.',
    });
    if (this.#isStrict) throw error;
    this.#error ??= error;
    this.all.push({ path: nameOf(path), reason: 'duplicate', code: null, message: describeError(error) });
  }

  /** @throws CheckpointError the first that there was. */
  refuseAll(): never {
    throw this.#error ?? new Error('a run without checkpoints was traced');
  }
}

/** The paths without those that lead to a file that was there already. */
function listOnce(before: string, paths: readonly string[], skipped: SkipList): readonly string[] {
  const seen = new Map<string, string>();
  const keysOf = (path: string): readonly string[] => {
    const identity = identifyFile(findOnMachine(path, DIRECTORY_NAMES));
    return identity === null
      ? [path]
      : [identity.realPath, ...(identity.inode === null ? [] : [identity.inode])];
  };
  for (const key of keysOf(before)) seen.set(key, `before itself (${quote(nameOf(before))})`);
  return paths.filter((path) => {
    const keys = keysOf(path);
    const twin = keys.map((key) => seen.get(key)).find((name) => name !== undefined);
    if (twin !== undefined) skipped.repeat(path, twin);
    else for (const key of keys) seen.set(key, `${quote(nameOf(path))} again`);
    return twin === undefined;
  });
}

/** How far each checkpoint is: opens one after the other, and reads no weights. */
async function survey(
  paths: readonly string[],
  opener: Opener,
  skipped: SkipList,
): Promise<readonly Surveyed[]> {
  const surveyed: Surveyed[] = [];
  for (const path of paths) {
    const progress = await attempt(path, skipped, () => opener.makeRoom(() => opener.survey(path)));
    if (progress !== undefined) surveyed.push({ path, ...progress });
  }
  return surveyed;
}

/** @returns undefined where it failed, and was left out. */
async function attempt<Result>(
  path: string,
  skipped: SkipList,
  work: () => Promise<Result>,
): Promise<Result | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    skipped.fail(path, error);
    return undefined;
  }
}

interface Running {
  readonly options: AuditOptions;
  readonly record: RunRecord;
  readonly skipped: SkipList;
}

/** A checkpoint that was audited, and stays open. */
interface Audited extends Held {
  readonly results: AuditResults;
  readonly report: AuditReport;
  /** Against the checkpoint that came before it; null where nothing is to be learned from that. */
  readonly step: AuditReport | null;
}

/** The checkpoint of the run that was audited last. */
interface Followed extends Audited {
  readonly place: Surveyed;
}

/** Audits each checkpoint; the one that came before it stays open meanwhile. */
async function auditInOrder(
  ordered: readonly Surveyed[],
  opener: Opener,
  { options: auditing, record, skipped }: Running,
): Promise<void> {
  const options = { ...auditing, digests: new PieceDigests() };
  let previous: Followed | null = null;
  try {
    for (const place of ordered) {
      const { path, epoch, step: steps, batches } = place;
      const named = readNamedProgress(path);
      const progress = { epoch: epoch ?? named.epoch, step: steps ?? named.step, batches };
      const last: Followed | null = previous;
      const isOnePlace: boolean = last !== null && areAtOnePlace(last.place, place);
      const audited: Audited | undefined = await attempt(
        path,
        skipped,
        (): Promise<Audited> =>
          opener.makeRoom(async () => auditBeside(last, await opener.open(path), { options, isOnePlace })),
      );
      if (audited === undefined) continue;
      const { report, step } = audited;
      if (last !== null && isOnePlace && step !== null && areCopies(step)) {
        await audited.close();
        skipped.repeat(path, `a copy of ${quote(nameOf(last.place.path))}`);
        continue;
      }
      await last?.close();
      previous = { ...audited, place };
      record.add({ progress, report, step });
    }
  } finally {
    await previous?.close();
  }
}

/** Audits a checkpoint that is held open against before and, where that is not enough, against the one that came before it. */
function auditBeside(
  previous: Audited | null,
  held: Held,
  { options, isOnePlace }: { readonly options: CompareOptions; readonly isOnePlace: boolean },
): Promise<Audited> {
  return orClose(held, async () => {
    const results = await compareWithCopies(held.before, held.after, options);
    const report = buildReport(results);
    const isStepNeeded = previous !== null && (isOnePlace || haveBothChanged(previous.report, report));
    const step = isStepNeeded ? await auditStep(previous, { ...held, results }, options) : null;
    // The training may go on meanwhile, and write its last checkpoint anew.
    for (const source of listFiles(held.before, held.after)) source.refuseChanged?.();
    return { ...held, results, report, step };
  });
}

/** What checkpoints are read from. */
function listFiles(...checkpoints: readonly Checkpoint[]): Iterable<ByteSource> {
  return listSources(checkpoints.flatMap(({ tensors }) => [...tensors.values()].map(({ range }) => range)));
}

/** Whether some layer's learned tensors are not before's in either: whether they stayed from one to the other is open. */
function haveBothChanged(previous: AuditReport, current: AuditReport): boolean {
  const changed = new Set(previous.layers.filter(isChanged).map(({ before }) => before.name));
  return current.layers.some((layer) => isChanged(layer) && changed.has(layer.before.name));
}

/** The audit of a checkpoint against the one that came before it. Names are those of the run already: no map is needed. */
async function auditStep(
  previous: Audited,
  current: Pick<Audited, 'after' | 'results'>,
  options: CompareOptions,
): Promise<AuditReport> {
  const known = deduceStep(previous.results.learned, current.results.learned);
  const { map: _, onProgress: __, ...judging } = options;
  return buildReport(await compareCheckpoints(previous.after, current.after, { ...judging, known }));
}

/** A checkpoint that stays open beside before until it is closed. */
interface Held {
  readonly before: Checkpoint;
  readonly after: Checkpoint;
  readonly close: () => Promise<void>;
}

/** Files that stay open from when their checkpoints are put in order to when they are audited: systems allow twice as many. */
const MAX_OPEN_FILES = 512;

/** Tensors that those files have together: what is known of so many takes 8 to 30 MB. */
const MAX_OPEN_TENSORS = 16_000;

/** Opens the checkpoints of a run; those that were surveyed are open already, as far as there is room. */
class Opener {
  readonly #withAfter: WithAfter;
  readonly #options: OpenOptions;
  readonly #open = new Map<string, Held>();
  /** What each was read from when it was surveyed. */
  readonly #files = new Map<string, Iterable<ByteSource>>();
  #room = { files: MAX_OPEN_FILES, tensors: MAX_OPEN_TENSORS };

  constructor(withAfter: WithAfter, options: OpenOptions) {
    this.#withAfter = withAfter;
    this.#options = options;
  }

  /** How far a checkpoint is. */
  async survey(path: string): ReturnType<typeof readProgress> {
    const { select, ...opening } = this.#options;
    // What `select` means is only known beside before; how far the training is, no part of a file tells alone.
    if (select !== undefined) return withCheckpoint(path, opening, (whole) => this.#look(path, whole));
    let files = 0;
    const onOpenFile = (file: string) => {
      files++;
      opening.onOpenFile?.(file);
    };
    const held = await this.#hold(path, { ...opening, onOpenFile });
    return orClose(held, async () => {
      const progress = await this.#look(path, held.after);
      const tensors = held.after.tensors.size;
      const room = { files: this.#room.files - files, tensors: this.#room.tensors - tensors };
      if (Math.min(room.files, room.tensors) < 0) await held.close();
      else {
        this.#room = room;
        this.#open.set(path, held);
      }
      return progress;
    });
  }

  /** Opens a checkpoint for longer than one piece of work: what comes after it in the run is compared with it. */
  async open(path: string): Promise<Held> {
    const held = this.#open.get(path);
    this.#open.delete(path);
    if (held !== undefined) return held;
    for (const source of this.#files.get(path) ?? []) source.refuseChanged?.();
    return this.#hold(path, this.#options);
  }

  /** Does some work again, with no more files open than it needs, where the system lets no more be open: some open late. */
  async makeRoom<Result>(work: () => Promise<Result>): Promise<Result> {
    try {
      return await work();
    } catch (error) {
      if (this.#open.size === 0 || !isOutOfFiles(error)) throw error;
      await this.closeAll();
      return work();
    }
  }

  /** Closes what was surveyed and not opened since; from here on nothing stays open. */
  async closeAll(): Promise<void> {
    this.#room = { files: 0, tensors: 0 };
    for (const held of this.#open.values()) await held.close();
    this.#open.clear();
  }

  #look(path: string, checkpoint: Checkpoint): ReturnType<typeof readProgress> {
    this.#files.set(path, listFiles(checkpoint));
    return readProgress(checkpoint);
  }

  #hold(path: string, options: OpenOptions): Promise<Held> {
    return new Promise((resolve, reject) => {
      let release = () => {};
      const released = new Promise<void>((done) => {
        release = done;
      });
      const closed = this.#withAfter(path, options, async (before, after) => {
        for (const source of listFiles(before, after)) source.keepSmallReads?.();
        const close = () => {
          release();
          return closed;
        };
        resolve({ before, after, close });
        await released;
      });
      closed.catch(reject);
    });
  }
}

function isOutOfFiles(error: unknown): boolean {
  if (error instanceof CheckpointError) return isOutOfFiles(error.cause);
  return /^E[MN]FILE$/.test(codeOf(error));
}
