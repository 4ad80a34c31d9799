// Reads a pickle as inert values: nothing in it is imported or called.

import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { Cursor, type CursorOrigin } from '../../io/cursor.js';
import { findModuleWithin, isDangerous } from './dangerous-globals.js';
import {
  describeValue,
  entriesOf,
  type GlobalNode,
  isGetattr,
  isNode,
  itemsOf,
  makeGlobalNode,
  makeObjectNode,
  type ObjectNode,
  type PickleValue,
  type TupleNode,
} from './pickle-values.js';

/** A pickle is metadata: the largest of real models stay below 20 MB. Beyond this it is a bomb or holds its own data. */
export const MAX_PICKLE_BYTES = 128 * 1024 * 1024;

/** Opcodes in one pickle. A model of 1,000 layers with its optimizer needs under a million. */
const MAX_OPERATIONS = 16 * 1024 * 1024;

/**
 * Containers and objects in one pickle. A tensor takes some 20, so that this is a model and optimizer of 50,000 tensors;
 * a dict takes up to 300 bytes of memory, so that a bomb of them stays near 300 MB.
 */
const MAX_NODES = 1024 * 1024;

/** Values on the stack at a time; picklers flush lists and dicts every 1,000. */
const MAX_STACK_DEPTH = 1024 * 1024;

/** Open MARKs, which is how deep values nest; Python's own pickler gives up at its recursion limit of 1,000. */
const MAX_OPEN_MARKS = 10_000;

/** Values remembered for later reference. */
const MAX_MEMO_ENTRIES = 4 * 1024 * 1024;

/** Bytes of one string: the source of a class or a vocabulary, not a payload. */
const MAX_STRING_BYTES = 64 * 1024 * 1024;

/** Characters of a module and a name together: a path of nested packages and classes stays below 300. */
const MAX_GLOBAL_LENGTH = 512;

/** Dots in a name: classes nest in classes two or three deep. */
const MAX_NESTED_NAMES = 16;

/** Different names in one pickle: TorchScript names a class for every submodule, other pickles a hundred. */
const MAX_GLOBALS = 64 * 1024;

/** Bytes or digits of one integer: storage keys and seeds have under 20, the legacy magic number has 10 bytes. */
const MAX_INTEGER_BYTES = 1024;

/** How a pickle is read. */
export interface PickleOptions extends CursorOrigin {
  /**
   * What a persistent id stands for. torch.save names storages so.
   *
   * @throws CheckpointError when the id is none that the container knows.
   */
  readonly resolvePersistentId: (id: PickleValue, offset: number | undefined) => PickleValue;
}

interface PickleResult {
  readonly value: PickleValue;
  /** Where in the bytes the pickle ends: the first byte after STOP. */
  readonly end: number;
}

/**
 * Reads one pickle, protocols 0 to 5, as inert values (opcodes and their meaning: CPython's Lib/pickletools.py).
 *
 * @param start where in `bytes` the pickle begins.
 * @throws CheckpointError `refused` when it names a dangerous callable, `truncated` when the bytes end before STOP,
 * `malformed` and `limit-exceeded` otherwise; always with the byte.
 */
export function readPickle(bytes: Uint8Array, options: PickleOptions, start = 0): PickleResult {
  return new PickleMachine(bytes, options, start).run();
}

/** The stack machine of one pickle. The opcodes drive it through its public methods. */
class PickleMachine {
  readonly cursor: Cursor;
  readonly #options: PickleOptions;
  readonly #stack: PickleValue[] = [];
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, PickleValue>();
  /** Names that were found harmless: protocols 0 and 1 repeat them for every tensor. */
  readonly #globals = new Map<string, GlobalNode>();
  #nodeCount = 0;
  #opcodePosition = 0;
  #opcodeName = 'the first opcode';
  #isStopped = false;

  constructor(bytes: Uint8Array, options: PickleOptions, start: number) {
    this.cursor = new Cursor(bytes, options, start);
    this.#options = options;
  }

  /** The byte of the file at which the current opcode stands, for errors and values. */
  get offset(): number | undefined {
    return this.cursor.fileOffset(this.#opcodePosition);
  }

  run(): PickleResult {
    for (let operations = 0; !this.#isStopped; operations++) {
      if (operations === MAX_OPERATIONS) throw this.exceeded(`${MAX_OPERATIONS} opcodes`);
      this.#step();
    }
    const value = this.pop();
    if (this.#stack.length > 0)
      throw this.fail(`STOP leaves ${this.#stack.length} values too many on the stack`);
    return { value, end: this.cursor.position };
  }

  stop(): void {
    if (this.#marks.length > 0) throw this.fail('STOP comes before a MARK was closed');
    this.#isStopped = true;
  }

  push(value: PickleValue): void {
    if (this.#stack.length === MAX_STACK_DEPTH) throw this.exceeded(`${MAX_STACK_DEPTH} values on the stack`);
    this.#stack.push(value);
  }

  /** Pushes a new container or object, and counts it against the limit. */
  pushNode(value: PickleValue): void {
    this.#countNodes(1);
    this.push(value);
  }

  #countNodes(count: number): void {
    this.#nodeCount += count;
    if (this.#nodeCount > MAX_NODES) throw this.exceeded(`${MAX_NODES} containers and objects`);
  }

  /**
   * The state of an instance that is given several: the attributes of all, the later ones over the earlier; or the last
   * one, where one of them holds no attributes. Copied attributes count as nodes.
   */
  joinStates(states: readonly PickleValue[]): PickleValue {
    const given = states.filter((state) => state !== null);
    const last = given.at(-1) ?? null;
    if (given.length < 2) return last;
    const entries = new Map<PickleValue, PickleValue>();
    for (const state of given) {
      const added = entriesOf(state);
      if (added === null) return last;
      this.#countNodes(added.size);
      for (const [name, value] of added) entries.set(name, value);
    }
    return { kind: 'dict', entries, state: null };
  }

  pop(): PickleValue {
    return this.refuseGetattr(this.popCallee());
  }

  /** As {@link pop}, for what REDUCE is about to call: nothing else may be getattr. */
  popCallee(): PickleValue {
    const value = this.top();
    this.#stack.pop();
    return value;
  }

  /** The topmost value above the last MARK. */
  top(): PickleValue {
    const floor = this.#marks.at(-1) ?? 0;
    const value = this.#stack.length > floor ? this.#stack.at(-1) : undefined;
    if (value === undefined) throw this.fail(`${this.#opcodeName} needs a value, but the stack is empty`);
    return value;
  }

  mark(): void {
    if (this.#marks.length === MAX_OPEN_MARKS) throw this.exceeded(`${MAX_OPEN_MARKS} open MARKs`);
    this.#marks.push(this.#stack.length);
  }

  /** Takes everything above the last MARK off the stack, and the MARK. */
  popToMark(): PickleValue[] {
    const floor = this.#marks.pop();
    if (floor === undefined)
      throw this.fail(`${this.#opcodeName} needs a MARK, but there is none on the stack`);
    const values = this.#stack.splice(floor);
    for (const value of values) this.refuseGetattr(value);
    return values;
  }

  /** POP takes a MARK off when nothing is above it. */
  popValueOrMark(): void {
    if (this.#marks.at(-1) === this.#stack.length) this.#marks.pop();
    else this.pop();
  }

  /** Stores the topmost value; `index` is null for MEMOIZE, which counts by itself. */
  memoize(index: number | null): void {
    if (this.#memo.size >= MAX_MEMO_ENTRIES) throw this.exceeded(`${MAX_MEMO_ENTRIES} memo entries`);
    this.#memo.set(index ?? this.#memo.size, this.top());
  }

  pushFromMemo(index: number): void {
    const value = this.#memo.get(index);
    if (value === undefined)
      throw this.fail(`${this.#opcodeName} asks for memo entry ${index}, which was never stored`);
    this.push(value);
  }

  /** Checks the length that an opcode states for its string. */
  checkStringLength(byteLength: number | bigint): void {
    if (byteLength > MAX_STRING_BYTES)
      throw this.exceeded(`${MAX_STRING_BYTES} bytes in one string`, `a length of ${byteLength}`);
  }

  /** A signed little-endian integer of `byteLength` bytes. */
  readInteger(byteLength: number): number | bigint {
    if (byteLength < 0) throw this.fail(`${this.#opcodeName} has a negative length, ${byteLength}`);
    if (byteLength > MAX_INTEGER_BYTES)
      throw this.exceeded(`${MAX_INTEGER_BYTES} bytes in one integer`, `a length of ${byteLength}`);
    const bytes = this.cursor.readBytes(byteLength);
    if (bytes.length === 0) return 0;
    const digits = Buffer.from(bytes).reverse().toString('hex');
    return toSafeNumber(BigInt.asIntN(8 * bytes.length, BigInt(`0x${digits}`)));
  }

  /** A decimal integer as text, with the `L` that Python 2 wrote. */
  parseInteger(text: string): number | bigint {
    if (text.length > MAX_INTEGER_BYTES) throw this.exceeded(`${MAX_INTEGER_BYTES} digits in one integer`);
    const match = /^\s*([+-]?)(\d+)L?\s*$/.exec(text);
    if (match === null) throw this.fail(`${this.#opcodeName} expects an integer, found ${quote(text)}`);
    const magnitude = BigInt(match[2] ?? '0');
    return toSafeNumber(match[1] === '-' ? -magnitude : magnitude);
  }

  /** A name that loading would import, as data; no dangerous one but getattr, which only REDUCE may take. */
  makeGlobal(module: PickleValue, name: PickleValue): GlobalNode {
    if (typeof module !== 'string' || typeof name !== 'string') {
      const found = `found ${describeValue(module)} and ${describeValue(name)}`;
      throw this.fail(`${this.#opcodeName} expects the names of a module and of a callable, ${found}`);
    }
    const length = module.length + name.length;
    if (length > MAX_GLOBAL_LENGTH)
      throw this.exceeded(`${MAX_GLOBAL_LENGTH} characters in a name to import`, `${length}`);
    if (name.split('.').length > MAX_NESTED_NAMES) throw this.exceeded(`${MAX_NESTED_NAMES} nested names`);
    const key = `${module}\n${name}`;
    const known = this.#globals.get(key);
    if (known !== undefined) return known;
    if (this.#globals.size === MAX_GLOBALS) throw this.exceeded(`${MAX_GLOBALS} different names`);
    const made = makeGlobalNode(module, name);
    this.#checkGlobal(made);
    this.#globals.set(key, made);
    return made;
  }

  /**
   * `getattr(a.b, 'c')` is how protocols 2 and 3 write a nested class, and all of them a class's method or an enum's
   * member: the global `a.b.c`.
   *
   * @throws CheckpointError `refused` when it takes anything else, or what loading must not reach.
   */
  pushAttribute(args: readonly PickleValue[]): void {
    const [object, attribute] = args;
    if (isNode(object, 'object'))
      throw this.refuse('takes an attribute of what another call returned', { hint: OWN_FILE_HINT });
    const isName = typeof attribute === 'string' && attribute !== '' && !attribute.includes('.');
    if (!isNode(object, 'global') || !isName || args.length !== 2) {
      throw this.refuse('calls getattr', { why: 'with something else than a class and an attribute of it' });
    }
    this.pushNode(this.makeGlobal(object.module, `${object.name}.${attribute}`));
  }

  #checkGlobal(node: GlobalNode): void {
    const { module, name, qualifiedName } = node;
    if (isGetattr(node)) return;
    if (isDangerous(module, name)) throw this.refuse(`names ${quote(qualifiedName)}`);
    const within = findModuleWithin(module, name);
    if (within === null) return;
    throw this.refuse(`takes ${quote(qualifiedName.slice(within.length + 1))} from ${quote(within)}`, {
      why: 'which may be a module and hand out whatever it imported',
      hint: OWN_FILE_HINT,
    });
  }

  /** Lets everything through but getattr, which reaches any callable from where it is handed to. */
  refuseGetattr(value: PickleValue): PickleValue {
    if (isGetattr(value)) throw this.refuse(`names ${quote(value.qualifiedName)}`);
    return value;
  }

  /** An instance that loading would make. Containers of the standard library become containers. */
  pushInstance(
    callee: PickleValue,
    args: readonly PickleValue[],
    keywords: ObjectNode['keywords'] = null,
  ): void {
    // Protocols 0 and 1 make instances as `copyreg._reconstructor(class, base, state)`.
    const isReconstructor = isNode(callee, 'global') && RECONSTRUCTOR.test(callee.qualifiedName);
    const made = isReconstructor ? { callee: args[0] ?? null, args: [] } : { callee, args };
    const container = makeContainer(callee, args);
    this.pushNode(container ?? makeObjectNode({ ...made, keywords, offset: this.offset }));
  }

  /**
   * REDUCE calls its callee. What another call returned is how attacks reach a callable without naming it, and
   * nothing that picklers write.
   */
  checkCallable(callee: PickleValue): void {
    if (isNode(callee, 'global')) return;
    if (isNode(callee, 'object')) throw this.refuse('calls what another call returned');
    throw this.fail(`${this.#opcodeName} expects a callable, found ${describeValue(callee)}`);
  }

  pushPersistent(id: PickleValue): void {
    this.pushNode(this.#options.resolvePersistentId(id, this.offset));
  }

  /** An error at the current opcode. */
  fail(message: string, code: CheckpointErrorCode = 'malformed'): CheckpointError {
    return this.#failAs(code, `the pickle is malformed: ${message}`);
  }

  #failAs(code: CheckpointErrorCode, message: string, hint?: string): CheckpointError {
    return new CheckpointError(message, { code, file: this.#options.file, offset: this.offset, hint });
  }

  /** An error about a `MAX_` constant, such as `4194304 memo entries`. */
  exceeded(limit: string, found = 'more'): CheckpointError {
    return this.#failAs('limit-exceeded', `expected a pickle with at most ${limit}, found ${found}`);
  }

  #step(): void {
    this.#opcodePosition = this.cursor.position;
    const code = this.cursor.readU8();
    const opcode = OPCODES[code];
    if (opcode === undefined) {
      this.#opcodeName = 'the opcode';
      throw this.fail(`expected an opcode, found the byte 0x${code.toString(16).padStart(2, '0')}`);
    }
    this.#opcodeName = opcode.name;
    opcode.apply(this);
  }

  /** An error about a callable that loading would reach. */
  refuse(what: string, { why, hint }: Readonly<{ why?: string; hint?: string }> = {}): CheckpointError {
    const reason = why ?? 'which would run when the file is loaded';
    return this.#failAs('refused', `refused: the pickle ${what}, ${reason}`, hint ?? FOREIGN_FILE_HINT);
  }
}

const FOREIGN_FILE_HINT =
  'Nothing was run. Do not load this file with torch.load or pickle; get it again from a source that you trust.';

/** For what sound files may hold too. */
const OWN_FILE_HINT =
  'Nothing was run. Where the file is your own, save its state dict alone: torch.save(model.state_dict(), PATH). ' +
  'Else do not load it with torch.load or pickle; get it again from a source that you trust.';

const DICT_CLASS =
  /^(?:(?:collections|ordereddict)\.OrderedDict|collections\.defaultdict|(?:builtins|__builtin__)\.dict)$/;
const SET_CLASS = /^(?:(?:builtins|__builtin__)\.(?:set|frozenset)|sets\.Set)$/;
const RECONSTRUCTOR = /^copy_?reg\._reconstructor$/;

/** The container that calling a standard class makes; null for every other callee. */
function makeContainer(callee: PickleValue, args: readonly PickleValue[]): PickleValue {
  if (!isNode(callee, 'global')) return null;
  const name = callee.qualifiedName;
  if (DICT_CLASS.test(name)) {
    const entries = new Map<PickleValue, PickleValue>();
    for (const pair of itemsOf(args[0])) {
      const [key, value] = itemsOf(pair);
      if (key !== undefined && value !== undefined) entries.set(key, value);
    }
    return { kind: 'dict', entries, state: null };
  }
  if (SET_CLASS.test(name)) return { kind: 'set', items: [...itemsOf(args[0])] };
  return null;
}

function toSafeNumber(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** One opcode: its name in CPython's Lib/pickletools.py, and what it does to the machine. */
interface Opcode {
  readonly name: string;
  readonly apply: (machine: PickleMachine) => void;
}

const HIGHEST_PROTOCOL = 5;

/** Every opcode of protocols 0 to 5 by its byte. */
const OPCODES: readonly (Opcode | undefined)[] = makeTable({
  // Framing and the stack.
  '\x80': { name: 'PROTO', apply: checkProtocol },
  '\x95': { name: 'FRAME', apply: checkFrame },
  '.': { name: 'STOP', apply: (machine) => machine.stop() },
  '(': { name: 'MARK', apply: (machine) => machine.mark() },
  '0': { name: 'POP', apply: (machine) => machine.popValueOrMark() },
  '1': { name: 'POP_MARK', apply: (machine) => void machine.popToMark() },
  '2': { name: 'DUP', apply: (machine) => machine.push(machine.top()) },

  // The memo.
  p: { name: 'PUT', apply: (machine) => machine.memoize(readIndexLine(machine)) },
  q: { name: 'BINPUT', apply: (machine) => machine.memoize(machine.cursor.readU8()) },
  r: { name: 'LONG_BINPUT', apply: (machine) => machine.memoize(machine.cursor.readU32()) },
  '\x94': { name: 'MEMOIZE', apply: (machine) => machine.memoize(null) },
  g: { name: 'GET', apply: (machine) => machine.pushFromMemo(readIndexLine(machine)) },
  h: { name: 'BINGET', apply: (machine) => machine.pushFromMemo(machine.cursor.readU8()) },
  j: { name: 'LONG_BINGET', apply: (machine) => machine.pushFromMemo(machine.cursor.readU32()) },

  // Constants and numbers.
  N: { name: 'NONE', apply: (machine) => machine.push(null) },
  '\x88': { name: 'NEWTRUE', apply: (machine) => machine.push(true) },
  '\x89': { name: 'NEWFALSE', apply: (machine) => machine.push(false) },
  I: { name: 'INT', apply: pushIntegerLine },
  L: { name: 'LONG', apply: (machine) => machine.push(machine.parseInteger(machine.cursor.readTextLine())) },
  J: { name: 'BININT', apply: (machine) => machine.push(machine.cursor.readI32()) },
  K: { name: 'BININT1', apply: (machine) => machine.push(machine.cursor.readU8()) },
  M: { name: 'BININT2', apply: (machine) => machine.push(machine.cursor.readU16()) },
  '\x8a': { name: 'LONG1', apply: (machine) => machine.push(machine.readInteger(machine.cursor.readU8())) },
  '\x8b': { name: 'LONG4', apply: (machine) => machine.push(machine.readInteger(machine.cursor.readI32())) },
  F: { name: 'FLOAT', apply: pushFloatLine },
  G: { name: 'BINFLOAT', apply: (machine) => machine.push(machine.cursor.readBigEndianF64()) },

  // Strings and bytes.
  S: { name: 'STRING', apply: pushQuotedLine },
  V: { name: 'UNICODE', apply: pushUnicodeLine },
  T: { name: 'BINSTRING', apply: (machine) => pushText(machine, machine.cursor.readU32()) },
  U: { name: 'SHORT_BINSTRING', apply: (machine) => pushText(machine, machine.cursor.readU8()) },
  X: { name: 'BINUNICODE', apply: (machine) => pushText(machine, machine.cursor.readU32()) },
  '\x8c': { name: 'SHORT_BINUNICODE', apply: (machine) => pushText(machine, machine.cursor.readU8()) },
  '\x8d': { name: 'BINUNICODE8', apply: (machine) => pushText(machine, machine.cursor.readU64()) },
  B: { name: 'BINBYTES', apply: (machine) => pushBytes(machine, machine.cursor.readU32()) },
  C: { name: 'SHORT_BINBYTES', apply: (machine) => pushBytes(machine, machine.cursor.readU8()) },
  '\x8e': { name: 'BINBYTES8', apply: (machine) => pushBytes(machine, machine.cursor.readU64()) },
  '\x96': { name: 'BYTEARRAY8', apply: (machine) => pushBytes(machine, machine.cursor.readU64()) },
  '\x97': { name: 'NEXT_BUFFER', apply: refuseBuffer },
  '\x98': { name: 'READONLY_BUFFER', apply: refuseBuffer },

  // Containers.
  ']': { name: 'EMPTY_LIST', apply: (machine) => machine.pushNode({ kind: 'list', items: [] }) },
  l: { name: 'LIST', apply: (machine) => machine.pushNode({ kind: 'list', items: machine.popToMark() }) },
  a: { name: 'APPEND', apply: (machine) => appendItems(machine, [machine.pop()]) },
  e: { name: 'APPENDS', apply: (machine) => appendItems(machine, machine.popToMark()) },
  ')': { name: 'EMPTY_TUPLE', apply: (machine) => machine.pushNode({ kind: 'tuple', items: [] }) },
  t: { name: 'TUPLE', apply: (machine) => machine.pushNode({ kind: 'tuple', items: machine.popToMark() }) },
  '\x85': { name: 'TUPLE1', apply: (machine) => pushTuple(machine, 1) },
  '\x86': { name: 'TUPLE2', apply: (machine) => pushTuple(machine, 2) },
  '\x87': { name: 'TUPLE3', apply: (machine) => pushTuple(machine, 3) },
  '}': { name: 'EMPTY_DICT', apply: (machine) => pushDict(machine, []) },
  d: { name: 'DICT', apply: (machine) => pushDict(machine, machine.popToMark()) },
  s: { name: 'SETITEM', apply: (machine) => setItems(machine, [machine.pop(), machine.pop()].reverse()) },
  u: { name: 'SETITEMS', apply: (machine) => setItems(machine, machine.popToMark()) },
  '\x8f': { name: 'EMPTY_SET', apply: (machine) => machine.pushNode({ kind: 'set', items: [] }) },
  '\x90': { name: 'ADDITEMS', apply: addItems },
  '\x91': {
    name: 'FROZENSET',
    apply: (machine) => machine.pushNode({ kind: 'set', items: machine.popToMark() }),
  },

  // Names, instances, persistent ids: where other readers import and call, this one notes.
  c: { name: 'GLOBAL', apply: (machine) => machine.pushNode(readGlobal(machine)) },
  '\x93': { name: 'STACK_GLOBAL', apply: pushStackGlobal },
  R: { name: 'REDUCE', apply: reduce },
  i: { name: 'INST', apply: instantiateNamed },
  o: { name: 'OBJ', apply: instantiateMarked },
  '\x81': { name: 'NEWOBJ', apply: (machine) => instantiate(machine) },
  '\x92': { name: 'NEWOBJ_EX', apply: instantiateWithKeywords },
  b: { name: 'BUILD', apply: build },
  P: { name: 'PERSID', apply: (machine) => machine.pushPersistent(machine.cursor.readTextLine()) },
  Q: { name: 'BINPERSID', apply: (machine) => machine.pushPersistent(machine.pop()) },
  '\x82': { name: 'EXT1', apply: refuseExtension },
  '\x83': { name: 'EXT2', apply: refuseExtension },
  '\x84': { name: 'EXT4', apply: refuseExtension },
});

function makeTable(opcodes: Readonly<Record<string, Opcode>>): readonly (Opcode | undefined)[] {
  const table = new Array<Opcode | undefined>(256).fill(undefined);
  for (const [character, opcode] of Object.entries(opcodes)) table[character.charCodeAt(0)] = opcode;
  return table;
}

function checkProtocol(machine: PickleMachine): void {
  const protocol = machine.cursor.readU8();
  if (protocol > HIGHEST_PROTOCOL)
    throw machine.fail(`expected a protocol up to ${HIGHEST_PROTOCOL}, found ${protocol}`);
}

/** Frames only help readers that read ahead; what matters is that the bytes are there. */
function checkFrame(machine: PickleMachine): void {
  const byteLength = machine.cursor.readU64();
  if (byteLength > machine.cursor.remaining) {
    const found = `found only ${machine.cursor.remaining} before the end`;
    throw machine.fail(`expected a frame of ${byteLength} bytes, ${found}`, 'truncated');
  }
}

function readIndexLine(machine: PickleMachine): number {
  const index = machine.parseInteger(machine.cursor.readTextLine());
  if (typeof index === 'number' && index >= 0) return index;
  throw machine.fail(`expected the number of a memo entry, found ${describeValue(index)}`);
}

function pushText(machine: PickleMachine, byteLength: number | bigint): void {
  machine.checkStringLength(byteLength);
  machine.push(machine.cursor.readText(byteLength));
}

/** Copied, so that a small value does not keep the whole pickle in memory. */
function pushBytes(machine: PickleMachine, byteLength: number | bigint): void {
  machine.checkStringLength(byteLength);
  machine.pushNode(machine.cursor.readBytes(byteLength).slice());
}

/** `I00` and `I01` are False and True since protocol 1 (pickletools: INT). */
function pushIntegerLine(machine: PickleMachine): void {
  const text = machine.cursor.readTextLine();
  if (text === '00') machine.push(false);
  else if (text === '01') machine.push(true);
  else machine.push(machine.parseInteger(text));
}

function pushFloatLine(machine: PickleMachine): void {
  const text = machine.cursor.readTextLine().trim().toLowerCase();
  const named = /^([+-]?)(inf|infinity|nan)$/.exec(text);
  const value =
    named === null ? Number(text) : named[2] === 'nan' ? Number.NaN : Number(`${named[1]}Infinity`);
  if (text === '' || (named === null && !Number.isFinite(value)))
    throw machine.fail('FLOAT expects a number');
  machine.push(value);
}

/** STRING is a Python string literal: quotes and backslash escapes. */
function pushQuotedLine(machine: PickleMachine): void {
  const literal = machine.cursor.readTextLine().trim();
  const quoted = /^(["'])([\s\S]*)\1$/.exec(literal);
  if (quoted === null) throw machine.fail('STRING expects quotes around its text');
  machine.push(decodeLiteral(quoted[2] ?? ''));
}

const LETTER_ESCAPES: ReadonlyMap<string, string> = new Map(
  Object.entries({ n: '\n', r: '\r', t: '\t', b: '\b', f: '\f', v: '\v', a: '\x07' }),
);

const LITERAL_ESCAPES = /\\(?:x([0-9a-f]{2})|([0-7]{1,3})|([\s\S]))/gi;

function decodeLiteral(text: string): string {
  return text.replace(LITERAL_ESCAPES, (_, hex?: string, octal?: string, letter?: string) => {
    if (hex !== undefined) return String.fromCharCode(Number.parseInt(hex, 16));
    if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
    return LETTER_ESCAPES.get(letter ?? '') ?? letter ?? '';
  });
}

/** UNICODE is raw-unicode-escape: only `\uXXXX` and `\UXXXXXXXX` are escapes. */
function pushUnicodeLine(machine: PickleMachine): void {
  const text = machine.cursor
    .readTextLine()
    .replace(/\\u([0-9a-f]{4})|\\U([0-9a-f]{8})/gi, (written, short, long) => {
      const codePoint = Number.parseInt(short ?? long, 16);
      return codePoint <= 0x10ffff ? String.fromCodePoint(codePoint) : written;
    });
  machine.push(text);
}

function refuseBuffer(machine: PickleMachine): never {
  throw machine.fail('it asks for an out-of-band buffer, which a file cannot hold');
}

function pushTuple(machine: PickleMachine, length: number): void {
  const items = Array.from({ length }, () => machine.pop()).reverse();
  machine.pushNode({ kind: 'tuple', items });
}

function appendItems(machine: PickleMachine, items: readonly PickleValue[]): void {
  const target = machine.top();
  if (isNode(target, 'list')) pushAll(target.items, items);
  else if (isNode(target, 'object')) {
    target.items ??= [];
    pushAll(target.items, items);
  } else throw machine.fail(`expected a list to append to, found ${describeValue(target)}`);
}

function addItems(machine: PickleMachine): void {
  const items = machine.popToMark();
  const target = machine.top();
  if (!isNode(target, 'set')) throw machine.fail(`expected a set to add to, found ${describeValue(target)}`);
  pushAll(target.items, items);
}

/** A spread would put every item on the call stack. */
function pushAll(target: PickleValue[], items: readonly PickleValue[]): void {
  for (const item of items) target.push(item);
}

function pushDict(machine: PickleMachine, pairs: readonly PickleValue[]): void {
  machine.pushNode({ kind: 'dict', entries: new Map(), state: null });
  setItems(machine, pairs);
}

function setItems(machine: PickleMachine, pairs: readonly PickleValue[]): void {
  if (pairs.length % 2 !== 0)
    throw machine.fail('expected keys and values in pairs, found a key without a value');
  const target = machine.top();
  if (isNode(target, 'object')) target.entries ??= new Map();
  const entries = isNode(target, 'dict') || isNode(target, 'object') ? target.entries : null;
  if (entries === null) throw machine.fail(`expected a dict to set items in, found ${describeValue(target)}`);
  for (let i = 0; i < pairs.length; i += 2) entries.set(pairs[i] ?? null, pairs[i + 1] ?? null);
}

function readGlobal(machine: PickleMachine): GlobalNode {
  const module = machine.cursor.readTextLine();
  return machine.makeGlobal(module, machine.cursor.readTextLine());
}

function pushStackGlobal(machine: PickleMachine): void {
  const name = machine.pop();
  machine.pushNode(machine.makeGlobal(machine.pop(), name));
}

function reduce(machine: PickleMachine): void {
  const args = popTuple(machine);
  const callee = machine.popCallee();
  if (isGetattr(callee)) {
    machine.pushAttribute(args);
  } else {
    machine.checkCallable(callee);
    machine.pushInstance(callee, args);
  }
}

function instantiateNamed(machine: PickleMachine): void {
  const callee = machine.refuseGetattr(readGlobal(machine));
  machine.pushInstance(callee, machine.popToMark());
}

function instantiateMarked(machine: PickleMachine): void {
  const [callee, ...args] = machine.popToMark();
  if (callee === undefined) throw machine.fail('OBJ expects a class above the MARK');
  machine.checkCallable(callee);
  machine.pushInstance(callee, args);
}

/** NEWOBJ below its arguments has a class, which may itself have been made by a call. */
function instantiate(machine: PickleMachine, keywords: ObjectNode['keywords'] = null): void {
  const args = popTuple(machine);
  const callee = machine.pop();
  if (!isNode(callee, 'global') && !isNode(callee, 'object'))
    throw machine.fail(`expected a class, found ${describeValue(callee)}`);
  machine.pushInstance(callee, args, keywords);
}

function instantiateWithKeywords(machine: PickleMachine): void {
  const keywords = machine.pop();
  if (!isNode(keywords, 'dict'))
    throw machine.fail(`expected a dict of keyword arguments, found ${describeValue(keywords)}`);
  instantiate(machine, keywords.entries);
}

function popTuple(machine: PickleMachine): readonly PickleValue[] {
  const value = machine.pop();
  if (isNode(value, 'tuple')) return value.items;
  throw machine.fail(`expected a tuple of arguments, found ${describeValue(value)}`);
}

/**
 * BUILD hands a state to an instance (load_build in CPython's Lib/pickle.py). Attributes join those that it has; in a
 * pair of dicts, the second one holds its slots. Any other state takes the place of the one before.
 */
function build(machine: PickleMachine): void {
  const state = machine.pop();
  const target = machine.top();
  if (isNode(target, 'global')) {
    throw machine.refuse(`sets attributes of ${quote(target.qualifiedName)}`, {
      why: 'which would change what runs when the file is loaded',
    });
  }
  if (!isNode(target, 'dict') && !isNode(target, 'object')) return;
  target.state = machine.joinStates([target.state, ...(hasSlots(state) ? state.items : [state])]);
}

function hasSlots(state: PickleValue): state is TupleNode {
  if (!isNode(state, 'tuple') || state.items.length !== 2) return false;
  const [attributes, slots] = state.items;
  return entriesOf(slots) !== null && (attributes === null || entriesOf(attributes) !== null);
}

function refuseExtension(machine: PickleMachine): never {
  throw machine.refuse('takes a callable from the extension registry of Python (EXT opcode)');
}
