import type { CheckpointError } from '../../errors.js';
import { FUNCTION, type MessageSchema, NODE, TENSOR } from './schema.js';

/** Everything but the payloads. The largest graphs in the wild (language models with external data) stay under 20 MB. */
const MAX_SKELETON_BYTES = 64 * 1024 * 1024;

/** Nodes of all graphs and functions; the largest graphs in the wild have some ten thousands. */
const MAX_NODES = 200_000;

/** Tensors of all graphs and attributes; large models have some thousands. */
const MAX_TENSORS = 100_000;

/** Local functions; an exporter makes one for every kind of module. */
const MAX_FUNCTIONS = 20_000;

/** Messages of every kind, most of them attributes; each becomes objects and arrays of some hundred bytes. */
const MAX_MESSAGES = 500_000;

/** All kept messages and scalars; each becomes an object of some hundred bytes or an array element. */
const MAX_FIELDS = 4_000_000;

/** Messages within messages; protobuf's own implementations stop here. */
const MAX_DEPTH = 100;

/** Counts what a model's skeleton costs, and stops before a hostile one costs too much. */
export class SkeletonLimits {
  readonly #makeError: (message: string) => CheckpointError;
  #keptBytes = 0;
  #fields = 0;
  #messages = 0;
  #nodes = 0;
  #tensors = 0;
  #functions = 0;

  constructor(makeError: (message: string) => CheckpointError) {
    this.#makeError = makeError;
  }

  /** Counts a field that is kept, with the bytes of its content. */
  countField(byteLength: number): void {
    this.#keptBytes += byteLength;
    this.#check(this.#keptBytes, MAX_SKELETON_BYTES, 'bytes beside its tensors');
    this.#check(++this.#fields, MAX_FIELDS, 'fields');
  }

  /** Counts a message that is walked. */
  countMessage(schema: MessageSchema): void {
    this.#check(++this.#messages, MAX_MESSAGES, 'messages');
    if (schema === NODE) this.#check(++this.#nodes, MAX_NODES, 'nodes');
    if (schema === TENSOR) this.#check(++this.#tensors, MAX_TENSORS, 'tensors');
    if (schema === FUNCTION) this.#check(++this.#functions, MAX_FUNCTIONS, 'functions');
  }

  /** Checks how many messages or groups are open at once. */
  checkDepth(depth: number): void {
    if (depth <= MAX_DEPTH) return;
    const limit = `at most ${MAX_DEPTH} deep, which is protobuf's own limit`;
    throw this.#makeError(`expected messages nested ${limit}, found deeper nesting`);
  }

  #check(count: number, limit: number, what: string): void {
    if (count > limit)
      throw this.#makeError(`expected a model of at most ${limit} ${what}, found more: too large`);
  }
}
