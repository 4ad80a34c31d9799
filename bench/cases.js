// What is measured, and against what: each case is a set of commands that run in turn, and the bars to reach.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import module from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chooseTarget, prepareAveragedPair, preparePair, prepareRun } from './data.js';

/** @typedef {import('./measure.js').Command} Command */
/** @typedef {import('./measure.js').Measurement} Measurement */
/** @typedef {import('./data.js').Format} Format */

/**
 * A bar: a claim about the measurements of a case.
 *
 * @typedef {object} Bar
 * @property {string} claim
 * @property {(take: (label: string) => Measurement) => {found: number, limit: number, unit: 'ratio' | 'MB'} | null} judge
 *   null where something that it needs was not measured
 */

/**
 * @typedef {object} Case
 * @property {string} name
 * @property {string} title
 * @property {readonly string[]} files read once before
 * @property {readonly Command[]} commands
 * @property {readonly Bar[]} bars
 * @property {readonly string[]} missing peers that are not there
 */

/**
 * @typedef {object} Setting
 * @property {string} cli the script to run as bn-audit
 * @property {readonly number[]} sizes in megabytes
 * @property {string | null} python
 */

const NODE = 'node -e 0';
const CMP = 'cmp';
const CURL = 'curl';
const DIFF = 'bn-audit diff';
const RESTORE = 'bn-audit restore';
const COPY = 'cp + sync';

const MAX_PEAK_MEGABYTES = 120;
/** How much slower the inspection of a large file may look before it is more than noise. */
const INSPECT_NOISE = 1.15;
const SMALL_MEGABYTES = 1;

/** Peers in Python, and the modules that each imports. */
const PEERS = {
  safetensors: {
    script: 'safetensors_equal.py',
    modules: 'numpy, safetensors.numpy',
    label: 'python safetensors',
  },
  onnx: { script: 'onnx_equal.py', modules: 'numpy, onnx', label: 'python onnx' },
  pt: { script: 'torch_equal.py', modules: 'torch', label: 'python torch' },
};

/**
 * The share of the Python peer's time to stay under, by format and megabytes.
 *
 * @type {Readonly<Record<'safetensors' | 'onnx' | 'pt', {megabytes: number, ratio: number}>>}
 */
const PEER_BARS = {
  safetensors: { megabytes: 100, ratio: 0.6 },
  onnx: { megabytes: 100, ratio: 0.4 },
  pt: { megabytes: 500, ratio: 0.1 },
};

/** How many times node's own start a small pair may take: less from Node 22 on, which starts more of itself. */
const START_BAR_FACTOR = 'enableCompileCache' in module ? 1.8 : 2.5;

/** The size that the bars against `cmp` are for, and how many times as long as `cmp` and node's start each may take. */
const CMP_BAR_MEGABYTES = 500;
const PLAIN_BAR_FACTOR = 1.4;
const FOLDED_BAR_FACTOR = 2;
const AVERAGED_BAR_FACTOR = 3;

/** The size that the bars against `cp` and `sync` are for, and how many times their time a restoration may take. */
const COPY_BAR_MEGABYTES = 500;
const COPY_BAR_FACTOR = 1.5;

/** From which size on quantised weights are held against `cmp`, and how many times its time they may take. */
const QUANTISED_BAR_MEGABYTES = 100;
const QUANTISED_BAR_FACTOR = 6;

/** A run that is traced, the size that its bar is for, and how many times as long as that many `cmp` it may take. */
const RUN_LENGTH = 50;
const RUN_BAR_MEGABYTES = 100;
const RUN_BAR_FACTOR = 1.3;
const MAX_RUN_PEAK_MEGABYTES = 150;

/** A line of 400 Mbit/s, how many times as long as curl an audit over it may take, and the memory for that. */
const REMOTE_MEGABYTES_PER_SECOND = 50;
const REMOTE_BAR_FACTOR = 1.15;
const MAX_REMOTE_PEAK_MEGABYTES = 160;
/** Starts of Node that a server may take for its own. */
const MAX_SERVER_WAITS = 200;

/** How many times as long as contiguous weights those in another order may take. */
const STRIDED_BAR_FACTOR = 2;

/**
 * Memory that the machine has at hand when a command copies a file, in sizes of the file: the copy fills the page cache.
 * With half as much, four copies of ten waited for a host that had taken some of it back meanwhile.
 */
const MEMORY_PER_COPY = 3;

/**
 * Every case by name, not yet prepared: files are written when a case is made.
 *
 * @param {Setting} setting
 * @returns {ReadonlyMap<string, () => Case>}
 */
export function listCases(setting) {
  /** @type {Map<string, () => Case>} */
  const cases = new Map();
  cases.set('tiny', () => makeTinyCase(setting));
  for (const megabytes of setting.sizes) {
    for (const format of /** @type {const} */ (['safetensors', 'onnx', 'pt'])) {
      cases.set(`${format}-${megabytes}`, () => makePlainCase(format, megabytes, setting));
    }
    cases.set(`channels-last-${megabytes}`, () => makeStridedCase(megabytes, setting));
    cases.set(`averaged-${megabytes}`, () => makeAveragedCase(megabytes, setting));
    // Fifty files of 500 MB are more than most disks and page caches have room for.
    if (megabytes <= RUN_BAR_MEGABYTES)
      cases.set(`trace-${megabytes}`, () => makeTraceCase(megabytes, setting));
    cases.set(`folded-${megabytes}`, () => makeFoldedCase(megabytes, setting));
    cases.set(`quantised-${megabytes}`, () => makeQuantisedCase(megabytes, setting));
    for (const format of /** @type {const} */ (['safetensors', 'onnx', 'pt'])) {
      cases.set(`inspect-${format}-${megabytes}`, () => makeInspectCase(format, megabytes, setting));
    }
    cases.set(`remote-${megabytes}`, () => makeRemoteCase(megabytes, setting));
    cases.set(`baseline-${megabytes}`, () => makeBaselineCase(megabytes, setting));
    for (const format of /** @type {const} */ (['safetensors', 'onnx', 'pt', 'folded'])) {
      cases.set(`restore-${format}-${megabytes}`, () => makeRestoreCase(format, megabytes, setting));
    }
  }
  return cases;
}

/**
 * @param {Setting} setting
 * @returns {Case}
 */
function makeTinyCase({ cli }) {
  const pair = ['before', 'after'].map((side) =>
    fileURLToPath(new URL(`../fixtures/pairs/requires-grad-leak/${side}.safetensors`, import.meta.url)),
  );
  const small = preparePair('safetensors', SMALL_MEGABYTES);
  const smallLabel = `${DIFF}, ${SMALL_MEGABYTES} MB`;
  return {
    name: 'tiny',
    title: 'A tiny pair (fixtures/pairs/requires-grad-leak): what starting costs',
    files: [...pair, small.before, small.after],
    commands: [
      nodeStart(),
      audit(cli, DIFF, ['diff', ...pair, '-q']),
      audit(cli, smallLabel, ['diff', small.before, small.after, '-q']),
    ],
    bars: [
      {
        claim: `${DIFF} within ${START_BAR_FACTOR} × ${NODE}`,
        judge: (take) => ratioBar(take(DIFF).seconds, take(NODE).seconds, START_BAR_FACTOR),
      },
      memoryBar(DIFF),
    ],
    missing: [],
  };
}

/**
 * @param {'safetensors' | 'onnx' | 'pt'} format
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makePlainCase(format, megabytes, { cli, python }) {
  const { before, after, copy } = preparePair(format, megabytes);
  const peer = PEERS[format];
  const hasPeer = python !== null && canImport(python, peer.modules);
  const peerScript = fileURLToPath(new URL(`peers/${peer.script}`, import.meta.url));
  const peerBar = PEER_BARS[format];
  return {
    name: `${format}-${megabytes}`,
    title: `Two ${format} files of ${megabytes} MB, all learned tensors equal, statistics drifted`,
    files: [before, after, copy],
    commands: [
      nodeStart(),
      compareBytes(before, copy),
      audit(cli, DIFF, ['diff', before, after, '-q']),
      ...(hasPeer ? [{ label: peer.label, argv: [python, peerScript, before, after], exitCodes: [0] }] : []),
    ],
    bars: [
      ...(megabytes >= CMP_BAR_MEGABYTES ? [cmpBar(DIFF, PLAIN_BAR_FACTOR)] : []),
      ...(hasPeer && megabytes === peerBar.megabytes
        ? [
            {
              claim: `${DIFF} under ${peerBar.ratio} × ${peer.label}`,
              judge: (/** @type {(label: string) => Measurement} */ take) =>
                ratioBar(take(DIFF).seconds, take(peer.label).seconds, peerBar.ratio),
            },
          ]
        : []),
      memoryBar(DIFF),
    ],
    missing: hasPeer ? [] : [`${peer.label}: set BENCH_PYTHON to a Python that has ${peer.modules}`],
  };
}

/**
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeStridedCase(megabytes, { cli }) {
  const plain = preparePair('pt', megabytes);
  const strided = preparePair('channels-last', megabytes);
  /** @type {Readonly<Record<string, {plain: readonly string[], strided: readonly string[]}>>} */
  const commands = {
    diff: { plain: [plain.before, plain.after, '-q'], strided: [strided.before, strided.after, '-q'] },
    baseline: {
      plain: [plain.before, '-o', '/dev/null', '-q'],
      strided: [strided.before, '-o', '/dev/null', '-q'],
    },
  };
  return {
    name: `channels-last-${megabytes}`,
    title: `Two pt files of ${megabytes} MB whose weights are channels_last, and two whose weights are contiguous`,
    files: [plain.before, plain.after, strided.before, strided.after],
    commands: [
      nodeStart(),
      ...Object.entries(commands).flatMap(([command, args]) => [
        audit(cli, `bn-audit ${command}`, [command, ...args.plain]),
        audit(cli, `bn-audit ${command}, channels_last`, [command, ...args.strided]),
      ]),
    ],
    bars: Object.keys(commands).flatMap((command) => [
      {
        claim: `bn-audit ${command}, channels_last within ${STRIDED_BAR_FACTOR} × contiguous`,
        judge: (/** @type {(label: string) => Measurement} */ take) =>
          ratioBar(
            take(`bn-audit ${command}, channels_last`).seconds,
            take(`bn-audit ${command}`).seconds,
            STRIDED_BAR_FACTOR,
          ),
      },
      memoryBar(`bn-audit ${command}, channels_last`),
    ]),
    missing: [],
  };
}

/**
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeAveragedCase(megabytes, { cli }) {
  const { before, after, copy } = prepareAveragedPair(megabytes);
  return {
    name: `averaged-${megabytes}`,
    title: `Two safetensors files of ${megabytes} MB, all learned tensors equal up to the rounding of an average`,
    files: [before, after, copy],
    commands: [nodeStart(), compareBytes(before, copy), audit(cli, DIFF, ['diff', before, after, '-q'])],
    bars: [...(megabytes >= CMP_BAR_MEGABYTES ? [cmpBar(DIFF, AVERAGED_BAR_FACTOR)] : []), memoryBar(DIFF)],
    missing: [],
  };
}

/**
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeTraceCase(megabytes, { cli }) {
  const { before, after, copy, checkpoints } = prepareRun(megabytes, RUN_LENGTH);
  const label = 'bn-audit trace';
  return {
    name: `trace-${megabytes}`,
    title: `A run of ${RUN_LENGTH} safetensors files of ${megabytes} MB, all learned tensors equal, statistics drifting`,
    files: [before, copy, ...checkpoints],
    commands: [nodeStart(), compareBytes(before, copy), audit(cli, label, ['trace', before, after, '-q'])],
    bars: [
      ...(megabytes >= RUN_BAR_MEGABYTES
        ? [
            {
              claim: `${label} within ${RUN_BAR_FACTOR} × ${RUN_LENGTH} × ${CMP} + ${NODE}`,
              judge: (/** @type {(label: string) => Measurement} */ take) =>
                ratioBar(
                  take(label).seconds,
                  RUN_BAR_FACTOR * RUN_LENGTH * take(CMP).seconds + take(NODE).seconds,
                  1,
                ),
            },
          ]
        : []),
      memoryBar(label, MAX_RUN_PEAK_MEGABYTES),
    ],
    missing: [],
  };
}

/**
 * A before that a server of this machine gives out at the rate of a line of 400 Mbit/s, against an after that is here.
 *
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeRemoteCase(megabytes, { cli }) {
  const { before, after } = preparePair('safetensors', megabytes);
  const { origin, certificate } = startServer(dirname(before), REMOTE_MEGABYTES_PER_SECOND);
  const url = `${origin}/${basename(before)}`;
  const flags = ['-s', '-f', '--cacert', certificate];
  const countSent = () => Number(spawnSync('curl', [...flags, `${origin}/bytes`]).stdout);
  const run = (/** @type {string} */ label, /** @type {readonly string[]} */ args) => {
    const { argv, ...rest } = audit(cli, label, [...args, '--remote', '-q']);
    // No cache of torch.hub stands in for the server.
    const environment = [`NODE_EXTRA_CA_CERTS=${certificate}`, `TORCH_HOME=${dirname(certificate)}`];
    return { ...rest, argv: ['env', ...environment, ...argv] };
  };
  const inspect = run('bn-audit inspect', ['inspect', url]);
  const start = countSent();
  spawnSync('env', inspect.argv.slice(1));
  const inspectedBytes = countSent() - start;
  return {
    name: `remote-${megabytes}`,
    title: `A safetensors before of ${megabytes} MB over https at ${REMOTE_MEGABYTES_PER_SECOND} MB/s, all learned tensors equal`,
    files: [before, after],
    commands: [
      nodeStart(),
      { label: CURL, argv: ['curl', ...flags, '-o', '/dev/null', url], exitCodes: [0] },
      run(DIFF, ['diff', url, after]),
      inspect,
    ],
    bars: [
      {
        claim: `${DIFF} within ${REMOTE_BAR_FACTOR} × ${CURL}`,
        judge: (take) => ratioBar(take(DIFF).seconds, take(CURL).seconds, REMOTE_BAR_FACTOR),
      },
      {
        claim: 'bn-audit inspect is sent under 2 MB',
        judge: () => ({ found: inspectedBytes / 1e6, limit: 2, unit: 'MB' }),
      },
      memoryBar(DIFF, MAX_REMOTE_PEAK_MEGABYTES),
    ],
    missing: [],
  };
}

/**
 * Starts bench/serve.js; it ends with this process.
 *
 * @param {string} directory
 * @param {number} megabytesPerSecond
 */
function startServer(directory, megabytesPerSecond) {
  const scratch = mkdtempSync(join(tmpdir(), 'bn-audit-bench-'));
  const key = join(scratch, 'key.pem');
  const certificate = join(scratch, 'cert.pem');
  const port = join(scratch, 'port');
  const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  execFileSync('openssl', ['req', '-x509', ...kind, ...names, '-keyout', key, '-out', certificate], {
    stdio: 'ignore',
  });
  const script = fileURLToPath(new URL('serve.js', import.meta.url));
  const server = spawn(process.execPath, [script, directory, key, certificate, String(megabytesPerSecond)], {
    stdio: ['ignore', openSync(port, 'w'), 'inherit'],
  });
  server.unref();
  process.on('exit', () => {
    server.kill();
    rmSync(scratch, { recursive: true, force: true });
  });
  for (let waits = 0; readFileSync(port, 'utf8') === ''; waits++) {
    if (waits > MAX_SERVER_WAITS) throw new Error('the server did not start');
    spawnSync(process.execPath, ['-e', '0']);
  }
  return { origin: `https://localhost:${readFileSync(port, 'utf8').trim()}`, certificate };
}

/**
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeFoldedCase(megabytes, { cli }) {
  const folded = preparePair('folded', megabytes);
  const live = preparePair('onnx', megabytes);
  const named = preparePair('safetensors', megabytes);
  const labels = {
    folded: `${DIFF}, folded before`,
    live: `${DIFF}, live before`,
    named: `${DIFF}, safetensors before`,
  };
  return {
    name: `folded-${megabytes}`,
    title: `ONNX of ${megabytes} MB with BatchNorm folded into the convolutions, against three kinds of before`,
    files: [folded.before, folded.after, folded.copy, live.before, named.before],
    commands: [
      nodeStart(),
      compareBytes(folded.before, folded.copy),
      audit(cli, labels.folded, ['diff', folded.before, folded.after, '-q']),
      audit(cli, labels.live, ['diff', live.before, folded.after, '-q']),
      audit(cli, labels.named, ['diff', named.before, folded.after, '-q']),
    ],
    bars: Object.values(labels).flatMap((label) => [
      ...(megabytes >= CMP_BAR_MEGABYTES ? [cmpBar(label, FOLDED_BAR_FACTOR)] : []),
      memoryBar(label),
    ]),
    missing: [],
  };
}

/**
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeQuantisedCase(megabytes, { cli }) {
  const { before, after, copy } = preparePair('quantised', megabytes);
  return {
    name: `quantised-${megabytes}`,
    title: `Two folded ONNX files of ${megabytes} MB of int8 weights, one scale a tensor, all layers drifted`,
    files: [before, after, copy],
    commands: [nodeStart(), compareBytes(before, copy), audit(cli, DIFF, ['diff', before, after, '-q'])],
    bars: [
      ...(megabytes >= QUANTISED_BAR_MEGABYTES ? [cmpBar(DIFF, QUANTISED_BAR_FACTOR)] : []),
      memoryBar(DIFF),
    ],
    missing: [],
  };
}

/**
 * @param {Format} format
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeInspectCase(format, megabytes, { cli }) {
  const large = preparePair(format, megabytes).before;
  const small = preparePair(format, SMALL_MEGABYTES).before;
  const label = (/** @type {number} */ size) => `bn-audit inspect, ${size} MB`;
  return {
    name: `inspect-${format}-${megabytes}`,
    title: `Inspecting a ${format} file of ${megabytes} MB, and one of ${SMALL_MEGABYTES} MB with as many layers`,
    files: [large, small],
    commands: [
      nodeStart(),
      audit(cli, label(SMALL_MEGABYTES), ['inspect', small, '-q']),
      audit(cli, label(megabytes), ['inspect', large, '-q']),
    ],
    bars: [
      {
        claim: `${megabytes} MB takes no longer than ${SMALL_MEGABYTES} MB (noise: × ${INSPECT_NOISE})`,
        judge: (take) =>
          ratioBar(take(label(megabytes)).seconds, take(label(SMALL_MEGABYTES)).seconds, INSPECT_NOISE),
      },
      memoryBar(label(megabytes)),
    ],
    missing: [],
  };
}

/**
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeBaselineCase(megabytes, { cli }) {
  const { before } = preparePair('safetensors', megabytes);
  const label = 'bn-audit baseline';
  const help = spawnSync(process.execPath, [cli, '--help'], { encoding: 'utf8' }).stdout;
  const isThere = /^\s+baseline\b/m.test(help);
  return {
    name: `baseline-${megabytes}`,
    title: `The baseline of a safetensors file of ${megabytes} MB`,
    files: [before],
    commands: [
      nodeStart(),
      { label: 'sha256sum', argv: ['sha256sum', before], exitCodes: [0] },
      ...(isThere ? [audit(cli, label, ['baseline', before, '-o', '/dev/null'])] : []),
    ],
    bars: isThere
      ? [
          {
            claim: `${label} within 1.2 × sha256sum + ${NODE}`,
            judge: (take) =>
              ratioBar(take(label).seconds, 1.2 * take('sha256sum').seconds + take(NODE).seconds, 1),
          },
        ]
      : [],
    missing: isThere ? [] : ['bn-audit baseline: this build has no such command'],
  };
}

/**
 * @param {Format} format
 * @param {number} megabytes
 * @param {Setting} setting
 * @returns {Case}
 */
function makeRestoreCase(format, megabytes, { cli }) {
  const { before, after } = preparePair(format, megabytes);
  const target = chooseTarget(after);
  // Folded again from weights that are not folded, and copied from those that are.
  const befores =
    format === 'folded'
      ? { ', live before': preparePair('onnx', megabytes).before, ', folded before': before }
      : { '': before };
  const restored = Object.entries(befores).map(([kind, path]) => ({
    diff: audit(cli, `${DIFF}${kind}`, ['diff', path, after, '-q']),
    restore: writing(target, {
      label: `${RESTORE}${kind}`,
      argv: [process.execPath, cli, 'restore', path, after, '-o', target, '-q'],
    }),
  }));
  const copy = writing(target, {
    label: COPY,
    argv: ['sh', '-c', 'cp "$1" "$2" && sync "$2"', 'sh', after, target],
  });
  const memoryBytes = MEMORY_PER_COPY * statSync(after).size;
  return {
    name: `restore-${format}-${megabytes}`,
    title: `Restoring a ${format === 'folded' ? 'folded ONNX' : format} file of ${megabytes} MB`,
    files: [...Object.values(befores), after],
    commands: [
      nodeStart(),
      ...[copy, ...restored.flatMap(({ diff, restore }) => [diff, restore])].map((command) => ({
        ...command,
        memoryBytes,
      })),
    ],
    bars: restored.flatMap(({ diff, restore }) => [
      ...(megabytes >= COPY_BAR_MEGABYTES ? [copyBar(restore.label, diff.label)] : []),
      memoryBar(restore.label),
    ]),
    missing: [],
  };
}

/**
 * A command that writes a file, which is removed around each run.
 *
 * @param {string} target
 * @param {{label: string, argv: readonly string[]}} command
 * @returns {Command}
 */
function writing(target, { label, argv }) {
  return { label, argv, exitCodes: [0], target };
}

/** @returns {Command} */
function nodeStart() {
  return { label: NODE, argv: [process.execPath, '-e', '0'], exitCodes: [0] };
}

/**
 * @param {string} before
 * @param {string} copy
 * @returns {Command}
 */
function compareBytes(before, copy) {
  return { label: CMP, argv: ['cmp', before, copy], exitCodes: [0] };
}

/**
 * Exit codes 0 and 1 are verdicts; 2 means that the audit could not be done.
 *
 * @param {string} cli
 * @param {string} label
 * @param {readonly string[]} args
 * @returns {Command}
 */
function audit(cli, label, args) {
  return { label, argv: [process.execPath, cli, ...args], exitCodes: [0, 1] };
}

/**
 * @param {string} label
 * @param {number} factor
 * @returns {Bar}
 */
function cmpBar(label, factor) {
  return {
    claim: `${label} within ${factor} × ${CMP} + ${NODE}`,
    judge: (take) => ratioBar(take(label).seconds, factor * take(CMP).seconds + take(NODE).seconds, 1),
  };
}

/**
 * @param {string} label
 * @param {string} diff
 * @returns {Bar}
 */
function copyBar(label, diff) {
  return {
    claim: `${label} within ${COPY_BAR_FACTOR} × (${COPY}) + ${diff}`,
    judge: (take) =>
      ratioBar(take(label).seconds, COPY_BAR_FACTOR * take(COPY).seconds + take(diff).seconds, 1),
  };
}

/**
 * @param {string} label
 * @param {number} [limit] in megabytes
 * @returns {Bar}
 */
function memoryBar(label, limit = MAX_PEAK_MEGABYTES) {
  return {
    claim: `${label}: peak memory under ${limit} MB`,
    judge: (take) => {
      const { peakBytes } = take(label);
      return peakBytes === null ? null : { found: peakBytes / 1e6, limit, unit: 'MB' };
    },
  };
}

/**
 * @param {number} seconds
 * @param {number} peerSeconds
 * @param {number} limit
 * @returns {{found: number, limit: number, unit: 'ratio'}}
 */
function ratioBar(seconds, peerSeconds, limit) {
  return { found: seconds / peerSeconds, limit, unit: 'ratio' };
}

/**
 * @param {string} python
 * @param {string} modules
 */
function canImport(python, modules) {
  return spawnSync(python, ['-c', `import ${modules}`]).status === 0;
}
