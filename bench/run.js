// npm run bench [-- --size 100,500 --only NAME --runs N --cli PATH --keep-certificates]: see bench/README.md.
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { listCases } from './cases.js';
import { warm } from './data.js';
import { measureInterleaved } from './measure.js';
import { judgeCase, renderCase } from './table.js';

/** @typedef {import('./table.js').Verdict} Verdict */

const { values: options } = parseArgs({
  options: {
    size: { type: 'string', default: '1,100,500' },
    only: { type: 'string', default: '' },
    runs: { type: 'string', default: '5' },
    'keep-certificates': { type: 'boolean', default: false },
    cli: { type: 'string', default: fileURLToPath(new URL('../bin/bn-audit.js', import.meta.url)) },
  },
});

const sizes = options.size.split(',').map(Number);
const runs = Number(options.runs);
if (![...sizes, runs].every((number) => Number.isInteger(number) && number > 0)) {
  throw new Error('--size takes whole megabytes, separated by commas, and --runs a whole number');
}

const cases = [...listCases({ cli: options.cli, sizes, python: process.env.BENCH_PYTHON ?? null })];
const chosen = cases.filter(([name]) => name.includes(options.only));
if (chosen.length === 0)
  throw new Error(`--only ${options.only}: the cases are ${cases.map(([name]) => name).join(', ')}`);

console.log(`Median of ${runs} interleaved runs, files in the page cache. cmp reads two identical files:`);
console.log(
  'it stops at the first difference, and the pairs that bn-audit audits differ in their statistics.\n',
);
if (process.env.NODE_EXTRA_CA_CERTS !== undefined) {
  if (options['keep-certificates']) {
    console.log('NODE_EXTRA_CA_CERTS is set, and kept: Node 20 parses those certificates at every start.\n');
  } else {
    delete process.env.NODE_EXTRA_CA_CERTS;
    console.log('NODE_EXTRA_CA_CERTS is set, and left out: Node 20 would parse those certificates at every');
    console.log('start. With --keep-certificates it does, in every time of node and bn-audit.\n');
  }
}

/** @type {Verdict[]} */
const verdicts = [];
for (const [name, make] of chosen) {
  try {
    const benchCase = make();
    benchCase.files.forEach(warm);
    const measurements = await measureInterleaved(benchCase.commands, runs);
    console.log(`${renderCase(benchCase, measurements)}\n`);
    verdicts.push(...judgeCase(benchCase, measurements));
  } catch (error) {
    console.log(`${name}: FAILED\n${error instanceof Error ? error.message : error}\n`);
    process.exitCode = 1;
  }
}

console.log('Bars:');
for (const { word, line } of verdicts) console.log(`  ${word.padEnd(5)} ${line}`);
