// Reads a pickle as inert values: nothing in it is imported or called.

import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { type ByteRange, readRange, sliceRange } from '../../io/byte-source.js';
import { Cursor } from '../../io/cursor.js';
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
  type PayloadNode,
  type PickleValue,
  type TupleNode,
} from './pickle-values.js';

/**
 * What is read of a pickle, which is all of it but bytes and long texts: metadata, the largest of real models below
 * 20 MB. Beyond this it is a bomb.
 */
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

/** Longer texts stay in the file, as bytes do: an array, where protocol 2 writes it as text, or a vocabulary. */
const MAX_TEXT_BYTES = 64 * 1024;

/** The first window, at the start and behind what was skipped; it grows up to the largest while reading goes on. */
const FIRST_WINDOW_BYTES = 4 * 1024;
const LARGEST_WINDOW_BYTES = 1024 * 1024;
const WINDOW_GROWTH = 4;

/** Characters of a module and a name together: a path of nested packages and classes stays below 300. */
const MAX_GLOBAL_LENGTH = 512;

/** Dots in a name: classes nest in classes two or three deep. */
const MAX_NESTED_NAMES = 16;

/** Different names in one pickle: TorchScript names a class for every submodule, other pickles a hundred. */
const MAX_GLOBALS = 64 * 1024;

/** Bytes or digits of one integer: storage keys and seeds have under 20, the legacy magic number has 10 bytes. */
const MAX_INTEGER_BYTES = 1024;

/** How a pickle is read. */
export interface PickleOptions {
  /** What messages call it, such as `the pickle`. */
  readonly subject: string;
  /**
   * What a persistent id stands for. torch.save names storages so.
   *
   * @throws CheckpointError when the id is none that the container knows.
   */
  readonly resolvePersistentId: (id: PickleValue, offset: number | undefined) => PickleValue;
}

interface PickleResult {
  readonly value: PickleValue;
  /** How long the pickle is, its STOP included. */
  readonly end: number;
}

/**
 * Reads one pickle, protocols 0 to 5, as inert values (opcodes and their meaning: CPython's Lib/pickletools.py). Bytes and
 * long texts are passed over: they stay where they are, as {@link PayloadNode}s.
 *
 * @param range where the pickle begins, and the bytes that it may take.
 * @throws CheckpointError `refused` when it names a dangerous callable, `truncated` when the bytes end before STOP,
 * `malformed` and `limit-exceeded` otherwise; with the byte, where the file holds the range as it stands.
 */
export function readPickle(range: ByteRange, options: PickleOptions): Promise<PickleResult> {
  return new PickleMachine(range, options).run();
}

/**
 * The stack machine of one pickle. The opcodes at the end of this file drive it through its public methods. It reads
 * through a window: each opcode reads all of its own bytes before it changes anything, so that one which the window cuts
 * off is begun again in the next.
 */
class PickleMachine {
  readonly #range: ByteRange;
  readonly #options: PickleOptions;
  #cursor: Cursor;
  /** Where in the range the window begins. */
  #windowStart = 0;
  /** How many bytes were passed over. */
  #payloadBytes = 0;
  readonly #stack: PickleValue[] = [];
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, PickleValue>();
  /** Names that were found harmless: protocols 0 and 1 repeat them for every tensor. */
  readonly #globals = new Map<string, GlobalNode>();
  #operationCount = 0;
  #nodeCount = 0;
  #opcodePosition = 0;
  #opcodeName = 'the first opcode';
  #isStopped = false;
  /** The machine's own error, which a larger window would not help. */
  #failure: CheckpointError | null = null;

  constructor(range: ByteRange, options: PickleOptions) {
    this.#range = range;
    this.#options = options;
    this.#cursor = this.#openWindow(new Uint8Array(0), 0);
  }

  /** The bytes of the window. */
  get cursor(): Cursor {
    return this.#cursor;
  }

  /** Where in the range the next byte is. */
  get #position(): number {
    return this.#windowStart + this.#cursor.position;
  }

  /** How many bytes the range still has, in the window and behind it. */
  get remaining(): number {
    return this.#range.byteLength - this.#position;
  }

  /** The byte of the file at which the current opcode stands, for errors and values. */
  get offset(): number | undefined {
    const { source, offset } = this.#range;
    return source.computedFrom === undefined ? offset + this.#opcodePosition : undefined;
  }

  async run(): Promise<PickleResult> {
    while (!this.#isStopped) {
      try {
        while (!this.#isStopped) this.#step();
      } catch (error) {
        if (!this.#isCutOff(error)) throw error;
        await this.#load();
      }
    }
    const value = this.pop();
    if (this.#stack.length > 0)
      throw this.fail(`STOP leaves ${this.#stack.length} values too many on the stack`);
    return { value, end: this.#position };
  }

  /** Whether an opcode came to the end of the window, where the range goes on. */
  #isCutOff(error: unknown): boolean {
    const isTruncated = error instanceof CheckpointError && error.code === 'truncated';
    return isTruncated && error !== this.#failure && this.#windowEnd < this.#range.byteLength;
  }

  get #windowEnd(): number {
    return this.#windowStart + this.#cursor.bytes.byteLength;
  }

  /** Brings more bytes into the window, from the current opcode on. */
  async #load(): Promise<void> {
    const start = this.#opcodePosition;
    const known = this.#windowEnd - start;
    const grown = Math.min(LARGEST_WINDOW_BYTES, WINDOW_GROWTH * this.#cursor.bytes.byteLength);
    const byteLength = Math.min(
      Math.max(FIRST_WINDOW_BYTES, grown, 2 * known),
      this.#range.byteLength - start,
      MAX_PICKLE_BYTES - (start - this.#payloadBytes),
    );
    if (byteLength <= known) throw this.exceeded(`${MAX_PICKLE_BYTES} bytes apart from those of arrays`);
    const bytes = await readRange(sliceRange(this.#range, start, start + byteLength));
    this.#cursor = this.#openWindow(bytes, start);
  }

  #openWindow(bytes: Uint8Array, start: number): Cursor {
    const { source, offset } = this.#range;
    this.#windowStart = start;
    return new Cursor(bytes, {
      file: source.name,
      baseOffset: source.computedFrom === undefined ? offset + start : null,
      subject: this.#options.subject,
    });
  }

  /**
   * Leaves the next bytes where they are.
   *
   * @param isText whether they are text in UTF-8.
   */
  skipPayload(byteLength: number | bigint, isText: boolean): PayloadNode {
    const { remaining } = this;
    if (byteLength > remaining) {
      const found = `found only ${remaining} before the end of ${this.#options.subject}`;
      throw this.#failAs('truncated', `expected ${byteLength} bytes, ${found}`);
    }
    const [start, end] = [this.#position, this.#position + Number(byteLength)];
    if (end <= this.#windowEnd) this.#cursor.skip(end - start);
    else this.#cursor = this.#openWindow(new Uint8Array(0), end);
    this.#payloadBytes += end - start;
    return { kind: 'payload', range: sliceRange(this.#range, start, end), isText };
  }

  /** The bytes that were just read as a text, which they are not: names of Python 2 in another encoding, or an array. */
  payloadBehind(byteLength: number, text: string): PayloadNode {
    const range = sliceRange(this.#range, this.#position - byteLength, this.#position);
    return { kind: 'payload', range, isText: false, ...(byteLength <= MAX_GLOBAL_LENGTH ? { text } : {}) };
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
    if (!isNode(object, 'global') || !isName || args.length !== 2)
      throw this.refuse('calls getattr', { why: 'with something else than a class and an attribute of it' });
    this.pushNode(this.makeGlobal(object.module, `${object.name}.${attribute}`));
  }

  #checkGlobal(node: GlobalNode): void {
    const { module, name, qualifiedName } = node;
    if (isGetattr(node)) return;
    if (OUT_OF_BAND_ARRAYS.test(qualifiedName)) throw this.#refuseOutOfBand(qualifiedName);
    if (isDangerous(module, name)) throw this.refuse(`names ${quote(qualifiedName)}`);
    const within = findModuleWithin(module, name);
    if (within === null) return;
    throw this.refuse(`takes ${quote(qualifiedName.slice(within.length + 1))} from ${quote(within)}`, {
      why: 'which may be a module and hand out whatever it imported',
      hint: OWN_FILE_HINT,
    });
  }

  #refuseOutOfBand(name: string): CheckpointError {
    const message = `expected a pickle that holds its arrays, found ${name}: joblib writes them between the opcodes`;
    return this.#failAs('unsupported', message, SAVE_WITHOUT_JOBLIB);
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
    // A copy of a dict, in a few bytes of the file.
    if (isNode(container, 'dict')) this.#countNodes(container.entries.size);
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
    const failure = new CheckpointError(message, {
      code,
      file: this.#range.source.name,
      offset: this.offset,
      hint,
    });
    this.#failure = failure;
    return failure;
  }

  /** An error about a `MAX_` constant, such as `4194304 memo entries`. */
  exceeded(limit: string, found = 'more'): CheckpointError {
    return this.#failAs('limit-exceeded', `expected a pickle with at most ${limit}, found ${found}`);
  }

  #step(): void {
    this.#opcodePosition = this.#position;
    const code = this.#cursor.readU8();
    if (++this.#operationCount > MAX_OPERATIONS) throw this.exceeded(`${MAX_OPERATIONS} opcodes`);
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

/** How joblib marks the arrays that follow in the file. Loading one calls no less than numpy's own loaders. */
const OUT_OF_BAND_ARRAYS = /^joblib\.numpy_pickle(?:_compat)?\.Z?(?:NumpyArray|NDArray)Wrapper$/;

const SAVE_WITHOUT_JOBLIB =
  'If you trust the file, save its arrays with pickle, and audit that: ' +
  "pickle.dump(joblib.load('FILE'), open('weights.pkl', 'wb'))";

/** For what sound files may hold too. */
const OWN_FILE_HINT =
  'Nothing was run. Where the file is your own, save its state dict alone: torch.save(model.state_dict(), PATH). ' +
  'Else do not load it with torch.load or pickle; get it again from a source that you trust.';

const DICT_CLASS =
  /^(?:(?:collections|ordereddict)\.OrderedDict|collections\.defaultdict|(?:builtins|__builtin__)\.dict|flax\.core\.frozen_dict\.FrozenDict)$/;
const TUPLE_CLASS = /^(?:builtins|__builtin__)\.tuple$/;
const SET_CLASS = /^(?:(?:builtins|__builtin__)\.(?:set|frozenset)|sets\.Set)$/;
const RECONSTRUCTOR = /^copy_?reg\._reconstructor$/;

/** The container that calling a standard class makes; null for every other callee. */
function makeContainer(callee: PickleValue, args: readonly PickleValue[]): PickleValue {
  if (!isNode(callee, 'global')) return null;
  const name = callee.qualifiedName;
  if (DICT_CLASS.test(name)) {
    const entries = new Map(entriesOf(args[0]) ?? []);
    for (const pair of itemsOf(args[0])) {
      const [key, value] = itemsOf(pair);
      if (key !== undefined && value !== undefined) entries.set(key, value);
    }
    return { kind: 'dict', entries, state: null };
  }
  // PaddlePaddle writes a tensor as tuple((name, array)).
  if (TUPLE_CLASS.test(name)) return { kind: 'tuple', items: itemsOf(args[0]) };
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
  T: { name: 'BINSTRING', apply: (machine) => pushTextOrBytes(machine, machine.cursor.readU32()) },
  U: { name: 'SHORT_BINSTRING', apply: (machine) => pushTextOrBytes(machine, machine.cursor.readU8()) },
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
  if (byteLength > machine.remaining) {
    const found = `found only ${machine.remaining} before the end`;
    throw machine.fail(`expected a frame of ${byteLength} bytes, ${found}`, 'truncated');
  }
}

function readIndexLine(machine: PickleMachine): number {
  const index = machine.parseInteger(machine.cursor.readTextLine());
  if (typeof index === 'number' && index >= 0) return index;
  throw machine.fail(`expected the number of a memo entry, found ${describeValue(index)}`);
}

function pushText(machine: PickleMachine, byteLength: number | bigint): void {
  if (byteLength > MAX_TEXT_BYTES) machine.pushNode(machine.skipPayload(byteLength, true));
  else machine.push(machine.cursor.readText(byteLength));
}

function pushBytes(machine: PickleMachine, byteLength: number | bigint): void {
  machine.pushNode(machine.skipPayload(byteLength, false));
}

/** Python 2 has one type for texts and bytes. */
function pushTextOrBytes(machine: PickleMachine, byteLength: number): void {
  if (byteLength > MAX_TEXT_BYTES) {
    pushBytes(machine, byteLength);
    return;
  }
  const text = machine.cursor.readText(byteLength);
  if (!text.includes('\uFFFD')) machine.push(text);
  else machine.pushNode(machine.payloadBehind(byteLength, text));
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

/** UNICODE is raw-unicode-escape: Latin-1, in which only `\uXXXX` and `\UXXXXXXXX` are escapes. */
function pushUnicodeLine(machine: PickleMachine): void {
  const text = machine.cursor
    .readTextLine(true)
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
  for (let i = 0; i < pairs.length; i += 2) entries.set(toKey(pairs[i] ?? null), pairs[i + 1] ?? null);
}

/** Names of Python 2 in another encoding than UTF-8 are names all the same. */
function toKey(key: PickleValue): PickleValue {
  return isNode(key, 'payload') ? (key.text ?? key) : key;
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
  if (isGetattr(callee)) machine.pushAttribute(args);
  else {
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
  if (isNode(target, 'global'))
    throw machine.refuse(`sets attributes of ${quote(target.qualifiedName)}`, {
      why: 'which would change what runs when the file is loaded',
    });
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
