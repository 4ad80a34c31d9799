// The inert values that a pickle is read into.

import { quoteUnlessPlain } from '../../errors.js';
import type { ByteRange } from '../../io/byte-source.js';

/**
 * What a pickle holds, as inert data. Nothing here is ever imported, called or opened: a call becomes a node that
 * says which callable would have been called with what.
 *
 * Nodes may be shared and may form cycles, as pickles may: whoever walks them keeps a visited set or a depth limit.
 */
export type PickleValue = null | boolean | number | bigint | string | PickleNode;

/** What a dict holds, or an instance by the names of its attributes. */
export type Entries = ReadonlyMap<PickleValue, PickleValue>;

/** A value of its own identity: it may be shared, and hold itself. */
export type PickleNode =
  | ListNode
  | TupleNode
  | SetNode
  | DictNode
  | GlobalNode
  | ObjectNode
  | StorageNode
  | PayloadNode;

interface ListNode {
  readonly kind: 'list';
  readonly items: PickleValue[];
}

/** A tuple. */
export interface TupleNode {
  readonly kind: 'tuple';
  readonly items: readonly PickleValue[];
}

/** A set or frozenset, in the order in which it was filled. */
interface SetNode {
  readonly kind: 'set';
  readonly items: PickleValue[];
}

/** A dict, OrderedDict or defaultdict, in insertion order. */
export interface DictNode {
  readonly kind: 'dict';
  readonly entries: Map<PickleValue, PickleValue>;
  /** What BUILD gave it: the attributes of an OrderedDict, such as a state dict's `_metadata`. */
  state: PickleValue;
}

/** A name that loading would import. */
export interface GlobalNode {
  readonly kind: 'global';
  readonly module: string;
  readonly name: string;
  /** Both, joined by a dot. */
  readonly qualifiedName: string;
}

/** An instance that loading would make by calling `callee` with `args`. */
export interface ObjectNode {
  readonly kind: 'object';
  readonly callee: PickleValue;
  readonly args: readonly PickleValue[];
  /** Arguments by name, where the call has any. */
  readonly keywords: Entries | null;
  /** What BUILD would hand to `__setstate__`: the attributes, mostly as a dict; those of several BUILDs joined. */
  state: PickleValue;
  /** What SETITEMS put into it: a subclass of dict. */
  entries: Map<PickleValue, PickleValue> | null;
  /** What APPENDS put into it: a subclass of list. */
  items: PickleValue[] | null;
  /** The byte of the file at which it is made, for messages. */
  readonly offset: number | undefined;
}

/** A persistent id of torch.save: where a tensor's elements are. */
export interface StorageNode {
  readonly kind: 'storage';
  /** The storage class without its module, such as `FloatStorage`. */
  readonly typeName: string;
  readonly key: string;
  /** Elements of the storage's own type. */
  readonly elementCount: PickleValue;
  /** Legacy only: the storage is a part of the one that `key` names, in elements. */
  readonly view: {
    readonly key: string;
    readonly offset: PickleValue;
    readonly elementCount: PickleValue;
  } | null;
  readonly offset: number | undefined;
}

/** Bytes, or a long text, which are left in the file: the elements of an array, mostly. */
export interface PayloadNode {
  readonly kind: 'payload';
  readonly range: ByteRange;
  /** Whether it is text, in UTF-8. */
  readonly isText: boolean;
  /** How a short string of Python 2 reads that is no UTF-8, with U+FFFD where it is none. */
  readonly text?: string;
}

/** Whether `value` is a node of the kind. */
export function isNode<K extends PickleNode['kind']>(
  value: PickleValue | undefined,
  kind: K,
): value is Extract<PickleNode, { kind: K }> {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === kind;
}

/** The name that loading a module's attribute would resolve, as data. */
export function makeGlobalNode(module: string, name: string): GlobalNode {
  return { kind: 'global', module, name, qualifiedName: `${module}.${name}` };
}

/** An instance as the call that makes it leaves it: nothing was put into it yet. */
export function makeObjectNode(
  call: Pick<ObjectNode, 'callee' | 'args' | 'offset'> & Partial<Pick<ObjectNode, 'keywords'>>,
): ObjectNode {
  return { kind: 'object', keywords: null, ...call, state: null, entries: null, items: null };
}

/** The full dotted name of a global; null for anything else. */
export function qualifiedName(value: PickleValue | undefined): string | null {
  return isNode(value, 'global') ? value.qualifiedName : null;
}

/** Whether a value is Python's own `getattr`, under its name in Python 2 or 3. */
export function isGetattr(value: PickleValue): value is GlobalNode {
  const name = qualifiedName(value);
  return name === 'builtins.getattr' || name === '__builtin__.getattr';
}

/** The entries of a dict or of an instance of a dict subclass; null for anything else. */
export function entriesOf(value: PickleValue | undefined): Entries | null {
  if (isNode(value, 'dict')) return value.entries;
  return isNode(value, 'object') ? value.entries : null;
}

/** The items of a list or tuple; none for anything else. */
export function itemsOf(value: PickleValue | undefined): readonly PickleValue[] {
  return isNode(value, 'list') || isNode(value, 'tuple') ? value.items : [];
}

/** The attributes of an instance by name; null where its state is no dict. Classes with a state of their own mostly put them first. */
export function attributesOf(node: ObjectNode): Entries | null {
  const state = isNode(node.state, 'tuple') ? node.state.items[0] : node.state;
  return entriesOf(state);
}

/** A pickled integer as a number; null for anything else and beyond 2^53. */
export function asInteger(value: PickleValue | undefined): number | null {
  return typeof value === 'number' && Number.isSafeInteger(value) ? value : null;
}

/** The integers of a tuple, list or torch.Size; null where any item is something else. */
export function asIntegers(value: PickleValue | undefined): readonly number[] | null {
  if (isNode(value, 'object') && qualifiedName(value.callee) === 'torch.Size')
    return asIntegers(value.args[0]);
  if (!isNode(value, 'tuple') && !isNode(value, 'list')) return null;
  const integers = value.items.flatMap((item) => asInteger(item) ?? []);
  return integers.length === value.items.length ? integers : null;
}

/** A short description of a value for messages. */
export function describeValue(value: PickleValue | undefined): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'None';
  if (typeof value === 'string') return 'a string';
  if (typeof value === 'number' || typeof value === 'bigint') {
    const digits = String(value);
    return digits.length <= 24 ? digits : `an integer of ${digits.length} digits`;
  }
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (isNode(value, 'payload')) return value.isText ? 'a string' : 'bytes';
  if (value.kind !== 'object') return `a ${value.kind}`;
  const name = qualifiedName(value.callee);
  return name === null ? 'a made-up object' : `a ${quoteUnlessPlain(name)}`;
}
