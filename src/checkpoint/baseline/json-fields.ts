import { CheckpointError, quote } from '../../errors.js';
import {
  describeJson,
  isJsonArray,
  isJsonObject,
  type JsonObject,
  JsonReader,
  type JsonValue,
  toUnsignedInteger,
} from '../json-reader.js';

/** Numbers that JSON cannot hold. */
const NON_FINITE: ReadonlyMap<string, number> = new Map(
  [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map((value) => [String(value), value]),
);

/**
 * Writes a value as JSON that {@link parseObject} reads again: Maps become objects in their own order, numbers that
 * JSON cannot hold become strings, undefined members are left out.
 */
export function toJson(value: unknown): string {
  if (value instanceof Map) return [...writeMembers(value)].join('');
  if (Array.isArray(value)) return `[${value.map(toJson).join(',')}]`;
  if (typeof value === 'object' && value !== null) return [...writeMembers(Object.entries(value))].join('');
  if (typeof value === 'number' && !Number.isFinite(value)) return JSON.stringify(String(value));
  return JSON.stringify(typeof value === 'string' ? value.toWellFormed() : value);
}

/** An object of these members in pieces, as {@link toJson} writes it: of many, one at a time need be in memory. */
export function* writeMembers(members: Iterable<readonly [string, unknown]>): Iterable<string> {
  let opening = '{';
  for (const [key, value] of members) {
    if (value === undefined) continue;
    yield `${opening}${JSON.stringify(key.toWellFormed())}:${toJson(value)}`;
    opening = ',';
  }
  yield opening === '{' ? '{}' : '}';
}

/**
 * Parses a metadata value that holds a JSON object.
 *
 * @throws CheckpointError `malformed` naming the key.
 */
export function parseObject(text: string, key: string, file: string): Fields {
  const members = new Map<string, JsonValue>();
  new JsonReader(new TextEncoder().encode(text), `${file}: ${key}`).readTopObject((name, value) =>
    members.set(name, value),
  );
  return new Fields(members, key, file);
}

/** An object of a baseline's metadata: its members by the type that they must have. */
export class Fields {
  readonly members: JsonObject;
  /** What messages call it. */
  readonly where: string;
  readonly file: string;

  constructor(members: JsonObject, where: string, file: string) {
    this.members = members;
    this.where = where;
    this.file = file;
  }

  /** Every member, which must be an object itself. */
  *objects(): Generator<readonly [name: string, fields: Fields]> {
    for (const name of this.members.keys()) yield [name, this.object(name)];
  }

  object(key: string): Fields {
    const value = this.members.get(key);
    if (!isJsonObject(value)) return this.fail(key, 'an object');
    return new Fields(value, `${this.where}: ${quote(key)}`, this.file);
  }

  objectOr<Other>(key: string, absent: Other): Fields | Other {
    return this.has(key) ? this.object(key) : absent;
  }

  listOfObjects(key: string): readonly Fields[] {
    return this.#list(key).map((value, index) => {
      if (!isJsonObject(value)) return this.fail(key, 'a list of objects');
      return new Fields(value, `${this.where}: ${quote(key)} ${index}`, this.file);
    });
  }

  strings(key: string): readonly string[] {
    return this.#listOr(key).map((value) =>
      typeof value === 'string' ? value : this.fail(key, 'a list of strings'),
    );
  }

  string(key: string): string {
    const value = this.members.get(key);
    return typeof value === 'string' ? value : this.fail(key, 'a string');
  }

  stringOr<Other>(key: string, absent: Other): string | Other {
    return this.has(key) ? this.string(key) : absent;
  }

  boolean(key: string): boolean {
    if (!this.has(key)) return false;
    const value = this.members.get(key);
    return typeof value === 'boolean' ? value : this.fail(key, 'true or false');
  }

  booleanOr<Other>(key: string, absent: Other): boolean | Other {
    return this.has(key) ? this.boolean(key) : absent;
  }

  number(key: string): number {
    const value = this.members.get(key);
    if (typeof value === 'string') return NON_FINITE.get(value) ?? this.fail(key, 'a number');
    if (typeof value !== 'object' || value === null || !('digits' in value))
      return this.fail(key, 'a number');
    return Number(value.digits);
  }

  numberOr<Other>(key: string, absent: Other): number | Other {
    return this.has(key) ? this.number(key) : absent;
  }

  /** A whole number from 0 on. */
  count(key: string): number {
    return this.#toCount(this.members.get(key)) ?? this.fail(key, 'a whole number');
  }

  countOr<Other>(key: string, absent: Other): number | Other {
    return this.has(key) ? this.count(key) : absent;
  }

  counts(key: string): readonly number[] {
    return this.#list(key).map((value) => this.#toCount(value) ?? this.fail(key, 'a list of whole numbers'));
  }

  /** One of a few words. */
  word<Word extends string>(key: string, words: readonly Word[]): Word {
    const value = this.members.get(key);
    return words.find((word) => word === value) ?? this.fail(key, words.join(' or '));
  }

  has(key: string): boolean {
    return this.members.has(key);
  }

  /** Says what a member must be. */
  fail(key: string, expected: string): never {
    const found = describeJson(this.members.get(key));
    throw new CheckpointError(
      `${this.where}: expected ${expected} under ${quote(key)}, found ${found}: not a baseline as bn-audit writes it`,
      { code: 'malformed', file: this.file },
    );
  }

  #list(key: string): readonly JsonValue[] {
    const value = this.members.get(key);
    return isJsonArray(value) ? value : this.fail(key, 'a list');
  }

  #listOr(key: string): readonly JsonValue[] {
    return this.has(key) ? this.#list(key) : [];
  }

  #toCount(value: JsonValue | undefined): number | null {
    const integer = toUnsignedInteger(value);
    return integer === null || integer > BigInt(Number.MAX_SAFE_INTEGER) ? null : Number(integer);
  }
}
