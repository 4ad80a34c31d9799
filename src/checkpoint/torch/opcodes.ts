import { quote } from '../../errors.js';
import type { PickleMachine } from './pickle.js';
import {
  describeValue,
  entriesOf,
  isGetattr,
  isNode,
  type ObjectNode,
  type PickleValue,
  type TupleNode,
} from './pickle-values.js';

/** One opcode: its name in CPython's Lib/pickletools.py, and what it does to the machine. */
export interface Opcode {
  readonly name: string;
  readonly apply: (machine: PickleMachine) => void;
}

/** The highest protocol that Python has defined. */
const HIGHEST_PROTOCOL = 5;

/** Every opcode of protocols 0 to 5 by its byte. */
export const OPCODES: readonly (Opcode | undefined)[] = makeTable({
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
  s: { name: 'SETITEM', apply: setItem },
  u: { name: 'SETITEMS', apply: (machine) => setItems(machine, machine.popToMark()) },
  '\x8f': { name: 'EMPTY_SET', apply: (machine) => machine.pushNode({ kind: 'set', items: [] }) },
  '\x90': { name: 'ADDITEMS', apply: addItems },
  '\x91': {
    name: 'FROZENSET',
    apply: (machine) => machine.pushNode({ kind: 'set', items: machine.popToMark() }),
  },

  // Names, instances, persistent ids: where other readers import and call, this one notes.
  c: { name: 'GLOBAL', apply: pushGlobal },
  '\x93': { name: 'STACK_GLOBAL', apply: pushStackGlobal },
  R: { name: 'REDUCE', apply: reduce },
  i: { name: 'INST', apply: instantiateNamed },
  o: { name: 'OBJ', apply: instantiateMarked },
  '\x81': { name: 'NEWOBJ', apply: (machine) => instantiate(machine, machine.pop()) },
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
  if (protocol > HIGHEST_PROTOCOL) {
    throw machine.fail(`expected a protocol up to ${HIGHEST_PROTOCOL}, found ${protocol}`);
  }
}

/** Frames only help readers that read ahead; what matters is that the bytes are there. */
function checkFrame(machine: PickleMachine): void {
  const byteLength = machine.cursor.readU64();
  if (byteLength > machine.cursor.remaining) {
    throw machine.fail(
      `expected a frame of ${byteLength} bytes, found only ${machine.cursor.remaining} before the end`,
      'truncated',
    );
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
  const items: PickleValue[] = [];
  for (let i = 0; i < length; i++) items.unshift(machine.pop());
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

function setItem(machine: PickleMachine): void {
  const value = machine.pop();
  const key = machine.pop();
  setItems(machine, [key, value]);
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

function pushGlobal(machine: PickleMachine): void {
  const module = machine.cursor.readTextLine();
  machine.pushNode(machine.makeGlobal(module, machine.cursor.readTextLine()));
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
  const module = machine.cursor.readTextLine();
  const callee = machine.refuseGetattr(machine.makeGlobal(module, machine.cursor.readTextLine()));
  machine.pushInstance(callee, machine.popToMark());
}

function instantiateMarked(machine: PickleMachine): void {
  const [callee, ...args] = machine.popToMark();
  if (callee === undefined) throw machine.fail('OBJ expects a class above the MARK');
  machine.checkCallable(callee);
  machine.pushInstance(callee, args);
}

/** NEWOBJ below its arguments has a class, which may itself have been made by a call. */
function instantiate(
  machine: PickleMachine,
  argsValue: PickleValue,
  keywords: ObjectNode['keywords'] = null,
): void {
  if (!isNode(argsValue, 'tuple'))
    throw machine.fail(`expected a tuple of arguments, found ${describeValue(argsValue)}`);
  const callee = machine.pop();
  if (!isNode(callee, 'global') && !isNode(callee, 'object')) {
    throw machine.fail(`expected a class, found ${describeValue(callee)}`);
  }
  machine.pushInstance(callee, argsValue.items, keywords);
}

function instantiateWithKeywords(machine: PickleMachine): void {
  const keywords = machine.pop();
  if (!isNode(keywords, 'dict')) {
    throw machine.fail(`expected a dict of keyword arguments, found ${describeValue(keywords)}`);
  }
  instantiate(machine, machine.pop(), keywords.entries);
}

function popTuple(machine: PickleMachine): readonly PickleValue[] {
  const value = machine.pop();
  if (!isNode(value, 'tuple'))
    throw machine.fail(`expected a tuple of arguments, found ${describeValue(value)}`);
  return value.items;
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
