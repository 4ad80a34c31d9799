// npm run fuzz -- --minutes N [--seed S] [--reader NAME] [--faults DIR] [--replay DIR]: see docs/fuzzing.md.
import { type ChildProcess, fork } from 'node:child_process';
import { accessSync, constants, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CoverageMeter } from './coverage.js';
import {
  execute,
  type FoundFault,
  inputDirectoryOf,
  ReaderFuzzer,
  runInTurns,
  type Tally,
} from './engine.js';
import { FAULT_FILE, type Input, readInput, writeInput } from './input.js';
import { Random } from './random.js';
import { READERS } from './readers.js';
import { renderTallies } from './table.js';

/** What the engine, a process of its own, is told; it may be one that takes over from one that died. */
interface Orders {
  readonly workspace: string;
  readonly fixtures: string;
  readonly readers: readonly string[];
  readonly seed: number;
  readonly milliseconds: number;
  readonly kept: readonly { readonly reader: string; readonly input: Input }[];
}

type Report =
  | { readonly kind: 'fault'; readonly fault: FoundFault }
  | { readonly kind: 'kept'; readonly reader: string; readonly input: Input }
  | {
      readonly kind: 'tally';
      readonly tallies: readonly (readonly [reader: string, tally: Tally])[];
      readonly isLast: boolean;
    };

/** An engine says so often how it goes, and is ended after so long a silence: it hangs. Seconds mean little on a busy machine. */
const TALLY_MS = 5_000;
const SILENCE_MS = 60_000;

/** An engine that dies takes what it knew with it; so many have shown enough. */
const MAX_ENGINES = 20;

/** Where live objects take more, the process ends. */
const HEAP_MB = 400;

const { values: options } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string', default: '1' },
    reader: { type: 'string', multiple: true, default: [] },
    faults: { type: 'string' },
    replay: { type: 'string' },
    fixtures: { type: 'string', default: 'fixtures' },
    engine: { type: 'boolean', default: false },
  },
});

if (options.engine) process.once('message', (orders: Orders) => void runEngine(orders));
else if (options.replay !== undefined) await replay(options.replay);
else await supervise();

async function runEngine(orders: Orders): Promise<void> {
  const send = (report: Report, onSent = () => {}) => void process.send?.(report, onSent);
  const coverage = new CoverageMeter(import.meta.url, readFileSync(fileURLToPath(import.meta.url), 'utf8'));
  const directory = inputDirectoryOf(orders.workspace);
  let told = performance.now();
  const listener = {
    onFault: (fault: FoundFault) => send({ kind: 'fault', fault }),
    onKept: (reader: string, input: Input) => send({ kind: 'kept', reader, input }),
    onExecuted: () => {
      if (performance.now() < told + TALLY_MS) return;
      told = performance.now();
      report(false);
    },
  };
  const end = performance.now() + orders.milliseconds;
  // Who gave the orders is gone, and cleaned up before this process stopped writing.
  process.once('disconnect', () => {
    rmSync(orders.workspace, { recursive: true, force: true });
    process.exit();
  });
  const fuzzers = orders.readers.flatMap((name, index) => {
    const reader = READERS.find((one) => one.name === name);
    const random = new Random(orders.seed * 1_000 + index);
    return reader === undefined
      ? []
      : [new ReaderFuzzer(reader, { ...orders, directory, coverage }, { random, listener })];
  });
  const report = (isLast: boolean) => {
    const tallies = fuzzers.map((fuzzer) => [fuzzer.name, fuzzer.tally()] as const);
    send({ kind: 'tally', tallies, isLast }, isLast ? () => process.disconnect() : undefined);
  };
  for (const fuzzer of fuzzers)
    await fuzzer.start(orders.kept.filter(({ reader }) => reader === fuzzer.name).map(({ input }) => input));
  await runInTurns(fuzzers, () => performance.now() >= end);
  report(true);
}

/** Has engines fuzz until the time is over: one after the other, since one may die of an input. */
async function supervise(): Promise<void> {
  const [minutes, seed] = [Number(options.minutes), Number(options.seed)];
  if (!(minutes > 0) || !Number.isSafeInteger(seed))
    throw new Error('--minutes takes a number larger than 0, and --seed a whole number');
  const readers = chooseReaders(options.reader);
  const workspace = makeWorkspace();
  const faults = options.faults ?? mkdtempSync(join(tmpdir(), 'bn-audit-faults-'));
  const end = Date.now() + minutes * 60_000;
  const kept: { reader: string; input: Input }[] = [];
  const done: (readonly [string, Tally])[][] = [];
  const found: FoundFault[] = [];
  const onFault = (fault: FoundFault) => {
    const directory = join(
      faults,
      `${found.push(fault)}-${fault.reader}-${fault.key}`.replaceAll(/[^\w.-]+/g, '-').slice(0, 100),
    );
    writeInput(directory, fault.reader, fault.input);
    writeFileSync(join(directory, FAULT_FILE), `${fault.message}\n`);
    console.log(`FAULT ${fault.reader}: ${fault.message}\n  ${directory}`);
  };
  process.once('exit', () => rmSync(workspace, { recursive: true, force: true }));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => process.exit(1));
  mkdirSync(faults, { recursive: true });
  console.log(
    `Fuzzing ${readers.join(', ')} for ${minutes} minutes with seed ${seed}; faults go to ${faults}`,
  );
  for (let engines = 0; Date.now() < end && engines < MAX_ENGINES; engines++) {
    const orders = {
      workspace,
      fixtures: options.fixtures,
      readers,
      seed: seed + engines * 1_009,
      milliseconds: end - Date.now(),
      kept,
    };
    const { tallies, died } = await runChild(orders, { onFault, onKept: (one) => kept.push(one) });
    done.push([...tallies]);
    if (died !== null) onFault(explainDeath(workspace, died));
    else break;
  }
  console.log(renderTallies(done, found));
  process.exitCode = found.length > 0 ? 1 : 0;
}

function chooseReaders(wanted: readonly string[]): readonly string[] {
  const names = READERS.map(({ name }) => name);
  const unknown = wanted.find((name) => !names.includes(name));
  if (unknown !== undefined) throw new Error(`--reader ${unknown}: the readers are ${names.join(', ')}`);
  return wanted.length === 0 ? names : wanted;
}

/** In memory where the system has such a place: inputs are written thousands of times a second. */
function makeWorkspace(): string {
  const inMemory = '/dev/shm';
  try {
    accessSync(inMemory, constants.W_OK);
    return mkdtempSync(join(inMemory, 'bn-audit-fuzz-'));
  } catch {
    return mkdtempSync(join(tmpdir(), 'bn-audit-fuzz-'));
  }
}

interface Outcome {
  readonly tallies: readonly (readonly [string, Tally])[];
  /** How the process ended, where it did not end well. */
  readonly died: string | null;
}

function runChild(
  orders: Orders,
  {
    onFault,
    onKept,
  }: { onFault: (fault: FoundFault) => void; onKept: (kept: { reader: string; input: Input }) => void },
): Promise<Outcome> {
  const child: ChildProcess = fork(fileURLToPath(import.meta.url), ['--engine'], {
    serialization: 'advanced',
    execArgv: [`--max-old-space-size=${HEAP_MB}`],
  });
  let [tallies, isDone, isSilent]: [Outcome['tallies'], boolean, boolean] = [[], false, false];
  const startTimer = () =>
    setTimeout(() => {
      isSilent = true;
      child.kill('SIGKILL');
    }, SILENCE_MS);
  let timer = startTimer();
  child.on('message', (report: Report) => {
    clearTimeout(timer);
    timer = startTimer();
    if (report.kind === 'fault') onFault(report.fault);
    else if (report.kind === 'kept') onKept(report);
    else [tallies, isDone] = [report.tallies, report.isLast];
  });
  child.send(orders);
  return new Promise((resolve) => {
    child.on('exit', (code, signal) => {
      clearTimeout(timer);
      const died = isSilent
        ? `hung for ${SILENCE_MS / 1000} s`
        : `ended the process: ${signal ?? `exit code ${code}`}`;
      resolve({ tallies, died: isDone ? null : died });
    });
  });
}

/** The input that an engine ran last is what it died of. */
function explainDeath(workspace: string, died: string): FoundFault {
  const { reader, input } = readInput(inputDirectoryOf(workspace));
  return { reader, key: died.split(' ')[0] ?? died, message: died, input };
}

/** Runs one input that was kept, and says what came of it. */
async function replay(directory: string): Promise<void> {
  const { reader: name, input } = readInput(directory);
  const reader = READERS.find((one) => one.name === name);
  if (reader === undefined) throw new Error(`${directory}: there is no reader ${name}`);
  const workspace = makeWorkspace();
  try {
    const fault = await execute(reader, input, {
      fixtures: options.fixtures,
      directory: inputDirectoryOf(workspace),
    });
    if (fault === null) {
      console.log('no fault');
      return;
    }
    const cause = fault.cause instanceof Error ? fault.cause.stack : '';
    console.log(`${fault.message}\n${cause}`);
    process.exitCode = 1;
  } finally {
    rmSync(workspace, { recursive: true, force: true });
  }
}
