// The policy file `bn-audit.config.json`: finds it, checks it, and suggests one.

import { lstatSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Checkpoint } from './checkpoint/checkpoint.js';
import {
  describeJson,
  isJsonArray,
  isJsonNumber,
  isJsonObject,
  type JsonObject,
  type JsonValue,
  readJsonObject,
} from './checkpoint/json-reader.js';
import type { PrefixEdit } from './compare/pair-layers.js';
import type { AuditOptions } from './compare-checkpoints.js';
import { CheckpointError, quote, UsageError } from './errors.js';
import { readRange, wholeOf } from './io/byte-source.js';
import { explainFileError, openFileSource } from './io/file-source.js';
import { isGitName } from './io/write-target.js';
import { findLayersAndLearned } from './norm/find-layers.js';
import { isUnder } from './norm/naming.js';
import { type FailOn, POLICY_FILE_NAME, POLICY_RULES, suggestName } from './options.js';
import { REPORT_FORMATS, type ReportFormat } from './report/formats.js';

/** A policy is written by people; 1 MB is thousands of globs. */
export const MAX_POLICY_BYTES = 1_000_000;

/** Lists longer than this are no work of people. */
export const MAX_ITEMS = 1_000;

/** Longer globs and paths than any file system or model has. */
export const MAX_STRING_LENGTH = 4_096;

/** A report to write to a file. */
export interface ReportTarget {
  readonly format: ReportFormat;
  readonly file: string;
}

/** What a policy says about an audit; what it leaves out keeps its default. */
export interface PolicyRules
  extends Pick<AuditOptions, 'frozen' | 'allow' | 'minShift' | 'epsilon' | 'exact' | 'map' | 'remote'> {
  readonly failOn?: FailOn | undefined;
}

/** Checkpoints that are audited together under a name. Paths and globs are relative to the policy file. */
export interface NamedPair extends PolicyRules {
  readonly before: string;
  readonly after: readonly string[];
}

/** A training run that is traced under a name. Paths and globs are relative to the policy file. */
export interface NamedRun extends PolicyRules {
  readonly before: string;
  readonly checkpoints: readonly string[];
}

/** The contents of a policy file. */
export interface Policy extends PolicyRules {
  readonly pairs: ReadonlyMap<string, NamedPair>;
  readonly runs: ReadonlyMap<string, NamedRun>;
  /** Files are relative to the policy file, and lie in its directory or below. */
  readonly reports: readonly ReportTarget[];
}

/** Where a value stands: the file, and the path of keys to it. */
interface Place {
  readonly file: string;
  readonly key: string;
}

type ReadValue<Value> = (value: JsonValue, place: Place) => Value;

type Readers<Shape> = { readonly [Key in keyof Shape]-?: ReadValue<NonNullable<Shape[Key]>> };

/** A reader for each rule: the table's names are those of the type, which a test proves. */
const RULE_READERS = Object.fromEntries(
  POLICY_RULES.map(({ name, is, expected, isMet }) => {
    if (is === 'globs') return [name, readList('a list of globs over module paths', readString)];
    return [name, is === 'map' ? readMap : readScalar(expected, isMet)];
  }),
) as Readers<PolicyRules>;

const PAIR_READERS: Readers<NamedPair> = { before: readPath, after: readPaths, ...RULE_READERS };

const RUN_READERS: Readers<NamedRun> = { before: readPath, checkpoints: readPaths, ...RULE_READERS };

const POLICY_READERS: Readers<Policy & { $schema: string }> = {
  $schema: readString,
  ...RULE_READERS,
  pairs: readNamed('pair', PAIR_READERS, 'after'),
  runs: readNamed('run', RUN_READERS, 'checkpoints'),
  reports: readReports,
};

/**
 * Reads a policy from the bytes of a file: strict JSON with the keys of docs/bn-audit.config.schema.json and no others.
 *
 * @param file how messages name it.
 * @throws UsageError that names the key, what was expected and what was found.
 * @throws CheckpointError `malformed` with line and column, where it is no JSON or has a key twice.
 */
export function parsePolicy(bytes: Uint8Array, file: string): Policy {
  let members: JsonObject;
  try {
    members = readJsonObject(bytes, file);
  } catch (error) {
    throw error instanceof CheckpointError ? placeInText(error, bytes) : error;
  }
  const { $schema: _, ...policy } = readMembers(members, { file, key: '' }, POLICY_READERS);
  return { pairs: new Map(), runs: new Map(), reports: [], ...policy };
}

/** An error at a byte of a text that people edit: editors go by line and column, counted from 1. */
function placeInText(error: CheckpointError, bytes: Uint8Array): CheckpointError {
  const { message, code, file, offset } = error;
  if (offset === undefined) return error;
  const lines = new TextDecoder().decode(bytes.subarray(0, Number(offset))).split('\n');
  const column = [...(lines.at(-1) ?? '')].length + 1;
  const placed = `${message} (line ${lines.length}, column ${column})`;
  return new CheckpointError(placed, { code, file, cause: error });
}

function readMembers<Shape>(
  object: JsonObject,
  { file, key: parent }: Place,
  readers: Readers<Shape>,
): Partial<Shape> {
  const known = Object.keys(readers);
  const entries = [...object].map(([name, value]) => {
    const key = joinKey(parent, name);
    if (!known.includes(name)) {
      // A key that belongs elsewhere is not misspelt.
      const meant = Object.hasOwn(POLICY_READERS, name) ? '' : suggestName(name, known);
      fail({ file, key }, `unknown key${meant}`, `Keys here: ${known.join(', ')}`);
    }
    const read: ReadValue<unknown> = readers[name as keyof Shape];
    return [name, read(value, { file, key })];
  });
  // Every key is one of Shape's, and its reader returned that key's type.
  return Object.fromEntries(entries) as Partial<Shape>;
}

function joinKey(parent: string, name: string): string {
  const shown = /^[\w$-]{1,80}$/.test(name) ? name : quote(name);
  return parent === '' ? shown : `${parent}.${shown}`;
}

function fail({ file, key }: Place, message: string, hint?: string): never {
  throw new UsageError(`${file}: ${key}: ${message}`, hint);
}

function failType(place: Place, expected: string, found: JsonValue): never {
  fail(place, `expected ${expected}, found ${describeJson(found)}`);
}

function readString(value: JsonValue, place: Place): string {
  if (typeof value !== 'string' || value === '') failType(place, 'a string that is not empty', value);
  if (value.length > MAX_STRING_LENGTH)
    fail(place, `expected at most ${MAX_STRING_LENGTH} characters, found ${value.length}`);
  return value;
}

function readPath(value: JsonValue, place: Place): string {
  const path = readString(value, place);
  if (path.includes('\0')) failType(place, 'a path without NUL characters', value);
  return path;
}

function readPaths(value: JsonValue, place: Place): readonly string[] {
  if (typeof value === 'string') return [readPath(value, place)];
  const paths = readList('a path or a list of paths', readPath)(value, place);
  if (paths.length === 0) fail(place, 'expected at least one path, found an empty list');
  return paths;
}

function readList<Item>(expected: string, readItem: ReadValue<Item>): ReadValue<readonly Item[]> {
  return (value, place) => {
    if (!isJsonArray(value)) failType(place, expected, value);
    if (value.length > MAX_ITEMS) fail(place, `expected at most ${MAX_ITEMS} items, found ${value.length}`);
    return value.map((item, index) => readItem(item, { ...place, key: `${place.key}[${index}]` }));
  };
}

function readScalar(expected: string, isMet: (value: unknown) => boolean): ReadValue<unknown> {
  return (value, place) => {
    const scalar = isJsonNumber(value) ? Number(value.digits) : value;
    return isMet(scalar) ? scalar : failType(place, expected, value);
  };
}

/** `{"FROM": "TO"}`: names of before that start with FROM start with TO in after. Either may be empty. */
function readMap(value: JsonValue, place: Place): readonly PrefixEdit[] {
  return readEntries(value, place, 'an object of FROM: TO prefixes').map(([from, to, at]) => {
    if (typeof to !== 'string') failType(at, 'a prefix', to);
    return { from: trimDot(from), to: trimDot(to) };
  });
}

/** A prefix without the dot at its end: `backbone.` means `backbone`. */
export function trimDot(prefix: string): string {
  return prefix.replace(/\.$/, '');
}

/** An object of what goes together by name: `before`, and under `others` what it is compared with. */
function readNamed<Shape extends { readonly before: string }>(
  noun: string,
  readers: Readers<Shape>,
  others: keyof Shape & string,
): ReadValue<ReadonlyMap<string, Shape>> {
  const readOne = (value: JsonValue, place: Place): Shape => {
    if (!isJsonObject(value)) failType(place, `an object with "before" and "${others}"`, value);
    const members = readMembers(value, place, readers);
    for (const key of ['before', others] as const)
      if (members[key] === undefined) fail(place, `expected the key "${key}", found none`);
    // What is required is there, and all else may be left out.
    return members as Shape;
  };
  return (value, place) =>
    new Map(
      readEntries(value, place, `an object of named ${noun}s`).map(([name, one, at]) => [
        name,
        readOne(one, at),
      ]),
    );
}

function readReports(value: JsonValue, place: Place): readonly ReportTarget[] {
  return readEntries(value, place, 'an object of FORMAT: FILE').map(([name, file, at]) => {
    const format = REPORT_FORMATS.find((one) => one === name);
    if (format === undefined)
      fail(at, `unknown format${suggestName(name, REPORT_FORMATS)}`, `Formats: ${REPORT_FORMATS.join(', ')}`);
    return { format, file: readReportPath(file, at) };
  });
}

/** A policy may come with a checkout that nobody has read yet: it must not write outside its directory. */
function readReportPath(value: JsonValue, place: Place): string {
  const path = readPath(value, place);
  const components = path.split(/[\\/]/);
  const leads = /^[A-Za-z]:/.test(path) || components[0] === '' || components.includes('..');
  if (leads || components.some(isGitName))
    failType(place, "a file in the policy file's directory or below", value);
  return path;
}

function readEntries(
  value: JsonValue,
  place: Place,
  expected: string,
): readonly (readonly [name: string, value: JsonValue, place: Place])[] {
  if (!isJsonObject(value)) failType(place, expected, value);
  if (value.size > MAX_ITEMS) fail(place, `expected at most ${MAX_ITEMS} keys, found ${value.size}`);
  return [...value].map(([name, item]) => [name, item, { ...place, key: joinKey(place.key, name) }] as const);
}

/**
 * The policy file that holds for a directory: in it, or in the nearest one above, up to the root of the repository
 * (where `.git` is) or of the file system.
 *
 * @param directory an absolute path.
 * @returns null where there is none.
 * @throws CheckpointError where a directory cannot be looked into: a policy that is passed over asserts nothing.
 */
export function findPolicyFile(directory: string): string | null {
  for (let current = directory; ; current = dirname(current)) {
    const candidate = join(current, POLICY_FILE_NAME);
    if (exists(candidate)) return candidate;
    if (exists(join(current, '.git')) || dirname(current) === current) return null;
  }
}

function exists(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch (error) {
    const { message, code } = explainFileError(error, path);
    const hint = 'Name the policy with --config FILE, or go without one: --no-config';
    throw new CheckpointError(`looking for a policy: ${message}`, { code, file: path, hint, cause: error });
  }
}

/**
 * Reads a policy file.
 *
 * @param name how messages name it, where that differs from the path.
 * @throws CheckpointError when it cannot be read, is too large or is no JSON.
 * @throws UsageError when a key or value is none of the schema's.
 */
export async function readPolicyFile(path: string, name: string = path): Promise<Policy> {
  const source = openFileSource(name, path);
  try {
    if (source.byteLength > MAX_POLICY_BYTES) {
      const message = `expected a policy of at most ${MAX_POLICY_BYTES} bytes, found ${source.byteLength}`;
      throw new CheckpointError(message, { code: 'limit-exceeded', file: name });
    }
    return parsePolicy(await readRange(wholeOf(source)), name);
  } finally {
    await source.close();
  }
}

/** A part of a model, as a policy would name it. */
export interface ModuleCandidate {
  readonly path: string;
  readonly layers: number;
  readonly learned: number;
}

/** The parts of a model, and which of them people freeze as a rule. */
export interface FrozenSuggestion {
  readonly frozen: readonly ModuleCandidate[];
  readonly others: readonly ModuleCandidate[];
}

/** Names that libraries give to the part that is pretrained and frozen. */
const BACKBONE =
  /^(?:.*_)?(?:backbone|body|encoder|trunk|features?|feature_extractor|bottom_up|stem|base_model)$/i;

/** Names that libraries give to the part that is trained for a task. */
const HEAD =
  /^(?:.*_)?(?:head|heads|classifier|fc|decoder|neck|predictor|logits|proj|projector|top|output)$/i;

/** What holds the model as its only part nests a few deep: model.net. */
const MAX_WRAPPERS = 8;

/**
 * What to put under `frozen` for a model: from one checkpoint alone no one can tell what will be frozen, but a part
 * named like a backbone is meant where there is one; else every part that holds norm layers or feeds them and is not
 * named like a head.
 */
export function suggestFrozen(checkpoint: Checkpoint): FrozenSuggestion {
  const { layers, learned: tensors } = findLayersAndLearned(checkpoint);
  const learned = [...tensors.keys()];
  const feeding = new Set(layers.flatMap(({ neighbours }) => neighbours));
  const parts = listParts([...learned, ...layers.map(({ name }) => `${name}.`)]);
  const candidates = parts.map((path) => ({
    path,
    layers: layers.filter(({ name }) => isUnder(name, path)).length,
    learned: learned.filter((name) => isUnder(name, path)).length,
  }));
  const feeds = (path: string) => learned.some((name) => feeding.has(name) && isUnder(name, path));
  const named = candidates.filter(({ path, layers: count }) => count > 0 && BACKBONE.test(lastOf(path)));
  const unnamed = candidates.filter(
    ({ path, layers: count }) => !HEAD.test(lastOf(path)) && (count > 0 || feeds(path)),
  );
  const frozen = named.length > 0 ? named : unnamed;
  return { frozen, others: candidates.filter((candidate) => !frozen.includes(candidate)) };
}

/** The modules below the wrappers: the first level of the tree where it divides, in the checkpoint's order. */
function listParts(names: readonly string[]): readonly string[] {
  let depth = 1;
  let parts = listModules(names, depth);
  while (parts.length === 1 && depth <= MAX_WRAPPERS && !BACKBONE.test(lastOf(parts[0] ?? ''))) {
    const deeper = listModules(names, depth + 1);
    if (deeper.length === 0) break;
    parts = deeper;
    depth++;
  }
  return parts;
}

/** Modules at a depth; a tensor's own name is no module. */
function listModules(names: readonly string[], depth: number): readonly string[] {
  const modules = names
    .map((name) => name.split('.').slice(0, -1))
    .filter((path) => path.length >= depth)
    .map((path) => path.slice(0, depth).join('.'));
  return [...new Set(modules)];
}

/** A glob that means a module and what is below it: a name from a file may hold characters that globs give a meaning. */
export function toGlob(path: string): string {
  return path === '' ? '**' : path.replace(/[\\*?[\]{}()!+@|^$"'<>]/g, '\\$&');
}

function lastOf(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1);
}
