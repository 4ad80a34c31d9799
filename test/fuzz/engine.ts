import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { type Coverage, CoverageMap, type Share } from './coverage.js';
import { countBytes, type Input, writeInput } from './input.js';
import { minimise } from './minimise.js';
import { mutateBytes } from './mutate-bytes.js';
import { Fault, Meter } from './oracle.js';
import type { Random } from './random.js';
import type { Reader } from './readers.js';

/** What an engine works with. */
export interface Workplace {
  readonly fixtures: string;
  /** A folder of its own, for one input at a time: should the process die, it holds what it died of. */
  readonly directory: string;
  readonly coverage: Coverage;
}

/** A fault and an input that brings it about. */
export interface FoundFault {
  readonly reader: string;
  readonly key: string;
  readonly message: string;
  readonly input: Input;
}

/** What is told of a run while it goes on. */
export interface Listener {
  readonly onFault: (fault: FoundFault) => void;
  /** After each input: nothing hangs. */
  readonly onExecuted: () => void;
  /** An input that made something run that none before did. */
  readonly onKept: (reader: string, input: Input) => void;
}

/** What came of one reader. */
export interface Tally {
  readonly executions: number;
  readonly seconds: number;
  readonly corpus: number;
  readonly share: Share;
}

/** Coverage is read after so many executions: that takes some milliseconds, as one execution does. */
const BATCH = 32;

/** Inputs must not grow for ever. */
const MAX_INPUT_BYTES = 300_000;

/** Tries for a smaller input end then. */
const MINIMISE_MS = 10_000;

/** An input is slow that was so often slow in a row: once may be the compiler's time, or the machine's. */
const SLOW_RUNS = 4;

/** Runs one input under the oracle. */
export async function execute(
  reader: Reader,
  input: Input,
  workplace: Omit<Workplace, 'coverage'>,
): Promise<Fault | null> {
  writeInput(workplace.directory, reader.name, input);
  let fault = await executeOnce(reader, input, workplace);
  for (let runs = 1; fault?.key === 'slow' && runs < SLOW_RUNS; runs++)
    fault = await executeOnce(reader, input, workplace);
  return fault;
}

async function executeOnce(
  reader: Reader,
  input: Input,
  workplace: Omit<Workplace, 'coverage'>,
): Promise<Fault | null> {
  const meter = new Meter();
  try {
    await reader.run(workplace, input);
    meter.check();
    return null;
  } catch (error) {
    if (error instanceof Fault) return error;
    throw error;
  }
}

/** One reader's corpus: inputs that together run all that was reached so far. */
export class ReaderFuzzer {
  readonly #reader: Reader;
  readonly #workplace: Workplace;
  readonly #random: Random;
  readonly #listener: Listener;
  readonly #corpus: Input[] = [];
  readonly #map = new CoverageMap();
  readonly #known = new Set<string>();
  #executions = 0;
  #seconds = 0;

  constructor(
    reader: Reader,
    workplace: Workplace,
    { random, listener }: { random: Random; listener: Listener },
  ) {
    this.#reader = reader;
    this.#workplace = workplace;
    this.#random = random;
    this.#listener = listener;
  }

  get name(): string {
    return this.#reader.name;
  }

  tally(): Tally {
    return {
      executions: this.#executions,
      seconds: this.#seconds,
      corpus: this.#corpus.length,
      share: this.#workplace.coverage.measure(this.#map, this.#reader.sources),
    };
  }

  /** Runs the seeds, the smallest first, and what was kept by a run before; keeps those that show something. */
  async start(kept: readonly Input[]): Promise<void> {
    const seeds = await this.#reader.listSeeds(this.#workplace.fixtures);
    this.#workplace.coverage.take();
    const inputs = [...[...seeds].sort((x, y) => countBytes(x) - countBytes(y)), ...kept];
    for (const input of inputs) await this.#keepNews([input], () => {});
    // Seeds that refuse all the same are better than none.
    if (this.#corpus.length === 0) this.#corpus.push(...seeds.slice(0, 1));
  }

  /** A batch of mutated inputs. */
  async runBatch(): Promise<void> {
    const started = performance.now();
    const inputs = Array.from({ length: BATCH }, () => this.#mutate());
    await this.#keepNews(inputs, (input) => this.#listener.onKept(this.name, input));
    this.#seconds += (performance.now() - started) / 1000;
  }

  /** Runs inputs together; where that shows anything, by halves, until it shows whose it is. */
  async #keepNews(inputs: readonly Input[], onKept: (input: Input) => void): Promise<void> {
    for (const input of inputs) await this.#execute(input);
    const ran = this.#workplace.coverage.take();
    if (!this.#map.hasNews(ran)) return;
    const [only] = inputs;
    if (inputs.length === 1 && only !== undefined) {
      this.#corpus.push(only);
      onKept(only);
    } else {
      const middle = inputs.length >> 1;
      await this.#keepNews(inputs.slice(0, middle), onKept);
      await this.#keepNews(inputs.slice(middle), onKept);
    }
    // What runs only once in a process is nobody's.
    this.#map.add(ran);
  }

  async #execute(input: Input): Promise<void> {
    this.#executions++;
    const fault = await this.#try(input);
    if (fault === null || this.#known.has(fault.key)) return;
    this.#known.add(fault.key);
    const deadline = performance.now() + MINIMISE_MS;
    const isSame = async (candidate: Input) => (await this.#try(candidate))?.key === fault.key;
    const smallest = await minimise(input, isSame, () => performance.now() < deadline);
    this.#listener.onFault({ reader: this.name, key: fault.key, message: fault.message, input: smallest });
  }

  async #try(input: Input): Promise<Fault | null> {
    const fault = await execute(this.#reader, input, this.#workplace);
    this.#listener.onExecuted();
    return fault;
  }

  #mutate(): Input {
    const random = this.#random;
    // Half of the time one of the latest: what they reached is known least.
    const latest = this.#corpus.slice(-Math.ceil(this.#corpus.length / 5));
    const parent = random.pick(random.oneIn(2) ? latest : this.#corpus);
    const donor = random.pick(this.#corpus);
    if (parent === undefined) throw new Error(`${this.name}: expected inputs to start from, found none`);
    const files = new Map(parent.files);
    for (let changes = random.pick([1, 1, 1, 2, 3, 5]); changes > 0; changes--) {
      const name = random.pick([...files.keys()]) ?? parent.main;
      const bytes = files.get(name) ?? new Uint8Array(0);
      const changed = this.#mutateFile(
        name,
        bytes,
        donor?.files.get(donor.files.has(name) ? name : donor.main) ?? bytes,
      );
      if (changed.length <= MAX_INPUT_BYTES) files.set(name, changed);
    }
    const reference = (random.oneIn(3) ? donor : parent)?.reference ?? parent.reference;
    return { ...parent, files, reference, draw: random.below(2 ** 30) };
  }

  /** What no longer has the structure that a mutator needs is changed as bytes. */
  #mutateFile(name: string, bytes: Uint8Array, donor: Uint8Array): Uint8Array {
    try {
      return this.#reader.chooseMutator(name)(bytes, this.#random, donor);
    } catch {
      return mutateBytes(bytes, this.#random, donor);
    }
  }
}

/** Lets all readers take turns until the time is over. */
export async function runInTurns(fuzzers: readonly ReaderFuzzer[], isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    for (const fuzzer of fuzzers) {
      if (isOver()) return;
      await fuzzer.runBatch();
      // What is read is read at once: without a pause no message would come through.
      await setImmediate();
    }
  }
}

/** Where an engine keeps the input that it runs. */
export const inputDirectoryOf = (workspace: string): string => join(workspace, 'input');
