import { UsageError } from './errors.js';

/** What a value must be, in words, and whether it is. */
interface Expectation {
  readonly expected: string;
  readonly isMet: (value: unknown) => boolean;
}

const STRINGS: Expectation = {
  expected: 'a list of strings',
  isMet: (value) => Array.isArray(value) && value.every((item) => typeof item === 'string'),
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

/** What an option of this name must be, whichever function takes it. */
const EXPECTATIONS: Readonly<Record<string, Expectation>> = {
  frozen: STRINGS,
  allow: STRINGS,
  layers: STRINGS,
  minShift: NON_NEGATIVE,
  epsilon: NON_NEGATIVE,
  map: PREFIX_EDITS,
  channels: BOOLEAN,
  select: STRING,
  allowExternalSymlinks: BOOLEAN,
  onOpenFile: FUNCTION,
  onProgress: FUNCTION,
  keepBatches: BOOLEAN,
  dataName: STRING,
  force: BOOLEAN,
  dryRun: BOOLEAN,
};

/**
 * Checks options that come from callers whom no compiler has checked: a wrong one would be ignored, or turn up as
 * numbers that are none.
 *
 * @throws UsageError that names the option, what was expected and what was found.
 */
export function checkOptions(options: object): void {
  if (typeof options !== 'object' || options === null) fail('options', 'an object', options);
  for (const [name, value] of Object.entries(options)) {
    const expectation = Object.hasOwn(EXPECTATIONS, name) ? EXPECTATIONS[name] : undefined;
    if (value === undefined || expectation === undefined || expectation.isMet(value)) continue;
    fail(name, expectation.expected, value);
  }
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
