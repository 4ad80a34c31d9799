// Checks the options of the library's functions, and suggests the name that was meant.

import { quote, UsageError } from './errors.js';

/** What a value must be, in words, and whether it is. */
interface Expectation {
  readonly expected: string;
  readonly isMet: (value: unknown) => boolean;
}

const STRINGS: Expectation = {
  expected: 'a list of strings',
  isMet: (value) => Array.isArray(value) && value.every((item) => typeof item === 'string'),
};

/** Several times the longest module path of real models; a glob over files may begin with a longer directory. */
export const MAX_GLOB_LENGTH = 1_024;

const GLOBS: Expectation = {
  expected: `a list of globs, each of 1 to ${MAX_GLOB_LENGTH} characters`,
  isMet: (value) =>
    Array.isArray(value) &&
    value.every((item) => typeof item === 'string' && item !== '' && item.length <= MAX_GLOB_LENGTH),
};

const NON_NEGATIVE: Expectation = {
  expected: 'a number, zero or larger',
  isMet: (value) => typeof value === 'number' && Number.isFinite(value) && value >= 0,
};

const PREFIX_EDITS: Expectation = {
  expected: 'a list of {from, to}',
  isMet: (value) => Array.isArray(value) && value.every(isPrefixEdit),
};

const STRING: Expectation = { expected: 'a string', isMet: (value) => typeof value === 'string' };
const BOOLEAN: Expectation = { expected: 'true or false', isMet: (value) => typeof value === 'boolean' };
const FUNCTION: Expectation = { expected: 'a function', isMet: (value) => typeof value === 'function' };

/** So many samples run for days on any machine; a mistyped number must not. */
const MAX_SAMPLES = 1_000_000;

const SHAPES: Expectation = {
  expected: 'a list of {name, dims}, with dims of 1 or more',
  isMet: (value) => Array.isArray(value) && value.every(isInputShape),
};

function wholeNumber(least: number, most: number): Expectation {
  return {
    expected:
      most === Number.MAX_SAFE_INTEGER
        ? `a whole number, ${least} or larger`
        : `a whole number from ${least} to ${most}`,
    isMet: (value) => isWhole(value) && value >= least && value <= most,
  };
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

/** A function of the library that takes options. */
export type OptionTaker =
  | 'openCheckpoint'
  | 'audit'
  | 'inspect'
  | 'createBaseline'
  | 'restore'
  | 'probe'
  | 'render'
  | 'renderProbe';

const OPENERS: readonly OptionTaker[] = ['openCheckpoint', 'audit', 'inspect', 'restore', 'probe'];
const RENDERERS: readonly OptionTaker[] = ['render', 'renderProbe'];

/** Every option: what it must be, and who takes it. */
const OPTIONS: readonly (readonly [
  name: string,
  expectation: Expectation,
  takers: readonly OptionTaker[],
])[] = [
  ['select', STRING, OPENERS],
  ['allowExternalSymlinks', BOOLEAN, OPENERS],
  ['onOpenFile', FUNCTION, OPENERS],
  ['frozen', GLOBS, ['audit']],
  ['allow', GLOBS, ['audit']],
  ['minShift', NON_NEGATIVE, ['audit']],
  ['exact', BOOLEAN, ['audit']],
  ['epsilon', NON_NEGATIVE, ['audit', 'inspect', 'restore', 'probe']],
  ['map', PREFIX_EDITS, ['audit', 'restore', 'probe']],
  ['channels', BOOLEAN, ['audit', 'inspect']],
  ['layers', GLOBS, ['restore', 'probe']],
  ['keepBatches', BOOLEAN, ['restore']],
  ['dataName', STRING, ['restore']],
  ['force', BOOLEAN, ['restore']],
  ['dryRun', BOOLEAN, ['restore']],
  ['inputs', STRINGS, ['probe']],
  ['samples', wholeNumber(1, MAX_SAMPLES), ['probe']],
  ['seed', wholeNumber(0, Number.MAX_SAFE_INTEGER), ['probe']],
  ['shapes', SHAPES, ['probe']],
  ['batch', wholeNumber(1, MAX_SAMPLES), ['probe']],
  ['ablations', wholeNumber(0, Number.MAX_SAFE_INTEGER), ['probe']],
  ['importRuntime', FUNCTION, ['probe']],
  ['onProgress', FUNCTION, ['audit', 'createBaseline', 'restore', 'probe']],
  ['format', STRING, RENDERERS],
  ['width', wholeNumber(1, Number.MAX_SAFE_INTEGER), RENDERERS],
  ['paint', FUNCTION, RENDERERS],
  ['all', BOOLEAN, RENDERERS],
  ['layer', STRING, ['render']],
  ['root', STRING, ['render']],
];

/**
 * Checks options that come from callers whom no compiler has checked: a wrong one would turn up as numbers that are none,
 * and one whose name is misspelt would be ignored, as if nothing had been asked for. What is undefined is not given.
 *
 * @throws UsageError that names the option, what was expected and what was found.
 */
export function checkOptions(taker: OptionTaker, options: object): void {
  if (typeof options !== 'object' || options === null) fail('options', 'an object', options);
  const taken = OPTIONS.filter(([, , takers]) => takers.includes(taker));
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const [, expectation] = taken.find(([known]) => known === name) ?? [];
    if (expectation === undefined)
      failUnknown(
        name,
        taker,
        taken.map(([known]) => known),
      );
    if (!expectation.isMet(value)) fail(name, expectation.expected, value);
  }
}

function failUnknown(name: string, taker: OptionTaker, known: readonly string[]): never {
  throw new UsageError(
    `${quote(name)}: no such option${suggestName(name, known)}`,
    `Options of ${taker}: ${known.join(', ')}`,
  );
}

function isPrefixEdit(value: unknown): boolean {
  return (
    typeof value === 'object' &&
    value !== null &&
    'from' in value &&
    'to' in value &&
    typeof value.from === 'string' &&
    typeof value.to === 'string'
  );
}

function isInputShape(value: unknown): boolean {
  return (
    typeof value === 'object' &&
    value !== null &&
    'name' in value &&
    'dims' in value &&
    (value.name === null || typeof value.name === 'string') &&
    Array.isArray(value.dims) &&
    value.dims.every((size) => isWhole(size) && size >= 1)
  );
}

/** Longer values are shortened in messages: a line stays a line. */
const MAX_SHOWN_LENGTH = 80;

function fail(name: string, expected: string, value: unknown): never {
  const found = show(value);
  const shown = found.length > MAX_SHOWN_LENGTH ? `${found.slice(0, MAX_SHOWN_LENGTH)}…` : found;
  throw new UsageError(`${name}: expected ${expected}, found ${shown}`);
}

/** JSON where it says what the value is: it has no word for NaN. */
function show(value: unknown): string {
  if (typeof value !== 'object' && typeof value !== 'string') return String(value);
  try {
    return JSON.stringify(value);
  } catch {
    return 'an object';
  }
}

/** More changes than this make another word. */
const MAX_CHANGES = 3;

/** `; did you mean "…"?` with the known name that is nearest to the one given; empty where none is near. */
export function suggestName(name: string, known: readonly string[]): string {
  if (name.length > 80) return '';
  const ranked = known
    .map((candidate) => ({ candidate, changes: countChanges(fold(name), fold(candidate)) }))
    .filter(({ candidate, changes }) => changes <= Math.min(MAX_CHANGES, candidate.length / 2))
    .sort((x, y) => x.changes - y.changes);
  const [nearest] = ranked;
  return nearest === undefined ? '' : `; did you mean "${nearest.candidate}"?`;
}

/** `fail-on`, `fail_on` and `failOn` are the same word. */
function fold(name: string): string {
  return name.toLowerCase().replace(/[-_]/g, '');
}

/** Levenshtein distance: how many characters must be added, taken away or replaced. */
function countChanges(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
