import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Models as they are shipped; fixtures/README.md says what is there. */
export const SHIPPED = fileURLToPath(new URL('../../fixtures/shipped', import.meta.url));

/** What intervals tell of the factors between two quantised weights, by channel. */
export interface Intervals {
  readonly intervals: readonly (readonly [low: number, high: number | null] | null)[];
  readonly withoutOne: readonly number[];
  readonly empty: readonly number[];
  readonly biasMoved?: readonly number[];
  readonly steps?: readonly number[];
}

/** A pair of files and what may be said of it; layers by the names of their modules in after. */
export interface ShippedCase {
  readonly before: string;
  readonly after: string;
  readonly options: readonly string[];
  readonly exitCode: number | readonly number[];
  readonly statuses: Readonly<Record<string, readonly string[]>>;
  readonly measures?: Readonly<Record<string, Readonly<Record<string, number>>>>;
  /** `logStdRatio` of branches whose means cannot be told, and what the means of their block did together. */
  readonly spreads?: Readonly<Record<string, number>>;
  readonly blockShifts?: Readonly<Record<string, number>>;
  readonly factors?: Readonly<Record<string, readonly number[]>>;
  readonly intervals?: Readonly<Record<string, Intervals>>;
  readonly pairedBy?: Readonly<Record<string, string>>;
  readonly mentions?: readonly string[];
  readonly why: string;
}

/** An expected.json. */
export interface ShippedTruth {
  readonly note: string;
  readonly torch: string;
  /** The old path of the norm layer that was folded into a module. */
  readonly norms?: Readonly<Record<string, string>>;
  readonly cases: readonly ShippedCase[];
}

/** The directories of shipped models, sorted. */
export function listShipped(): readonly string[] {
  return readdirSync(SHIPPED).sort();
}

/** What numpy says of a directory's files. */
export function readTruth(directory: string): ShippedTruth {
  return JSON.parse(readFileSync(join(SHIPPED, directory, 'expected.json'), 'utf8'));
}
