// Runs commands and measures them: wall time here, peak memory by whatever the system offers.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

/**
 * A command to measure.
 *
 * @typedef {object} Command
 * @property {string} label
 * @property {readonly string[]} argv
 * @property {readonly number[]} exitCodes those that mean that it did its work
 * @property {string} [target] a file that it writes: removed before each run, so that each makes it anew, and after it,
 *   so that no other command waits for its pages to reach the disk
 * @property {number} [memoryBytes] memory that the machine must have at hand when it starts: see {@link takeMemory}
 */

/**
 * What a command took, over its runs.
 *
 * @typedef {object} Measurement
 * @property {string} label
 * @property {number} seconds median wall time
 * @property {number} spreadSeconds from the quickest run to the slowest
 * @property {number | null} peakBytes largest resident set of any run; null where it cannot be measured
 * @property {number | null} innerSeconds median of what the command printed as its own time; null if it prints none
 */

/** @typedef {{seconds: number, peakBytes: number | null, innerSeconds: number | null}} Run */

/** What the scripts in peers/ print: seconds, tensors, changed tensors. */
const PRINTED_SECONDS = /^(\d+\.\d+(?:e-\d+)?) \d+ \d+\s*$/;

/** How long a virtual machine takes to give freed memory back to its host, and some more: see {@link takeMemory}. */
const SETTLING_MS = 3000;

/** Memory is taken in pieces of this many bytes: a buffer has a largest size. */
const TAKEN_BYTES = 64 * 1024 * 1024;

/** Wraps a command so that its peak resident set is written to a file, in kilobytes; null if nothing here can. */
const wrapForMemory = chooseMemoryWrapper();

/**
 * Measures commands in turn, `runs` times over, so that whatever disturbs the machine disturbs all of them.
 *
 * @param {readonly Command[]} commands
 * @param {number} runs
 * @returns {Promise<readonly Measurement[]>}
 * @throws Error when a command fails
 */
export async function measureInterleaved(commands, runs) {
  /** @type {Run[][]} */
  const results = commands.map(() => []);
  for (let run = 0; run < runs; run++) {
    for (const [index, command] of commands.entries()) results[index]?.push(await runOnce(command));
  }
  return commands.map(({ label }, index) => summarize(label, results[index] ?? []));
}

/**
 * @param {string} label
 * @param {readonly Run[]} runs
 * @returns {Measurement}
 */
function summarize(label, runs) {
  const seconds = runs.map((run) => run.seconds);
  const peaks = runs.flatMap(({ peakBytes }) => peakBytes ?? []);
  const inner = runs.flatMap(({ innerSeconds }) => innerSeconds ?? []);
  return {
    label,
    seconds: median(seconds),
    spreadSeconds: Math.max(...seconds) - Math.min(...seconds),
    peakBytes: peaks.length === 0 ? null : Math.max(...peaks),
    innerSeconds: inner.length === 0 ? null : median(inner),
  };
}

/**
 * Lets the machine have memory at hand for the next command. A virtual machine gives freed memory back to its host,
 * some two seconds later, and waits for the host when it needs it again: for 500 MB that takes from nothing to half a
 * second, by what the host did with it. Memory that was used a moment ago is nearly always there. The wait comes first, so
 * that what the last command freed is gone before memory is taken.
 *
 * @param {number} bytes
 */
async function takeMemory(bytes) {
  await setTimeout(SETTLING_MS);
  const program = `const held = []; for (let left = ${bytes}; left > 0; left -= ${TAKEN_BYTES}) held.push(Buffer.alloc(${TAKEN_BYTES}, 1))`;
  const { status, signal, error, stderr } = spawnSync(process.execPath, ['-e', program], {
    encoding: 'utf8',
  });
  if (status !== 0) {
    const reason = error?.message ?? (signal === null ? stderr : `ended by ${signal}`);
    throw new Error(`${bytes} bytes of memory could not be had, try a smaller --size: ${reason}`);
  }
}

/**
 * @param {Command} command
 * @returns {Promise<Run>}
 */
async function runOnce({ label, argv, exitCodes, target, memoryBytes }) {
  const scratch = mkdtempSync(join(tmpdir(), 'bn-audit-bench-'));
  const removeTarget = () => target !== undefined && rmSync(target, { force: true });
  removeTarget();
  try {
    if (memoryBytes !== undefined) await takeMemory(memoryBytes);
    const peakFile = join(scratch, 'peak');
    const [program = '', ...args] = wrapForMemory === null ? argv : wrapForMemory(argv, peakFile);
    const { seconds, exitCode, output, complaint } = await spawnTimed(program, args);
    if (!exitCodes.includes(exitCode)) {
      throw new Error(
        `${label}: expected exit code ${exitCodes.join(' or ')}, found ${exitCode}\n${complaint}`,
      );
    }
    const inner = PRINTED_SECONDS.exec(output)?.[1];
    return {
      seconds,
      peakBytes: wrapForMemory === null ? null : readPeak(peakFile),
      innerSeconds: inner === undefined ? null : Number(inner),
    };
  } finally {
    removeTarget();
    rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * @param {string} program
 * @param {readonly string[]} args
 * @returns {Promise<{seconds: number, exitCode: number, output: string, complaint: string}>}
 */
function spawnTimed(program, args) {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let [output, complaint] = ['', ''];
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    child.stderr.on('data', (chunk) => {
      complaint += chunk;
    });
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({ seconds: (performance.now() - start) / 1000, exitCode: code ?? -1, output, complaint });
    });
  });
}

/**
 * GNU time where it is there, else Python's resource module.
 *
 * @returns {((argv: readonly string[], file: string) => readonly string[]) | null}
 */
function chooseMemoryWrapper() {
  const gnu = spawnSync('/usr/bin/time', ['-f', '%M', 'true'], { encoding: 'utf8' });
  if (gnu.status === 0 && /^\d+\s*$/.test(gnu.stderr)) {
    return (argv, file) => ['/usr/bin/time', '-q', '-f', '%M', '-o', file, ...argv];
  }
  if (spawnSync('python3', ['-c', 'import resource']).status === 0) {
    return (argv, file) => ['python3', '-c', PYTHON_WRAPPER, file, ...argv];
  }
  return null;
}

/** ru_maxrss is in kilobytes, on macOS in bytes. */
const PYTHON_WRAPPER = `
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
open(sys.argv[1], "w").write(str(peak // 1024 if sys.platform == "darwin" else peak))
sys.exit(code)
`;

/** @param {string} file */
function readPeak(file) {
  const kilobytes = Number.parseInt(readFileSync(file, 'utf8'), 10);
  return Number.isNaN(kilobytes) ? null : kilobytes * 1024;
}

/** @param {readonly number[]} values */
function median(values) {
  const sorted = [...values].sort((x, y) => x - y);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? 0)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}
