#!/usr/bin/env node
'use strict';

// Starts the program that the build left in dist/cli, and keeps its compiled code there between runs: compiling anew takes
// a third of a small audit. (module.enableCompileCache of Node 22 keeps less: what is compiled before anything runs.)

// Before anything that an older Node does not have, such as `node:` in names: whoever has one shall read why.
// biome-ignore-start lint/style/useNodejsImportProtocol: Node 12 does not know it.
const { readFileSync, renameSync, rmSync, writeFileSync } = require('fs');
const { dirname, join } = require('path');
// biome-ignore-end lint/style/useNodejsImportProtocol: Node 12 does not know it.
const { engines, version } = JSON.parse(readFileSync(join(__dirname, '../package.json'), 'utf8'));
const required = engines.node.replace('>=', '');
if (parseInt(process.versions.node, 10) < required) {
  process.stderr.write(`bn-audit: expected Node ${required} or newer, found Node ${process.versions.node}\n`);
  process.exit(2);
}

const { setFlagsFromString } = require('node:v8');
const { Script } = require('node:vm');

// V8 gives the heap ever more room before it looks for garbage, which would be up to a third of the peak of a run over many
// layers or many files. With less it takes as long. This stands before any code is loaded: V8 refuses kept code that was
// compiled with other flags.
setFlagsFromString('--heap-growing-percent=45');

const MAIN = join(__dirname, '../dist/cli/main.js');

const loaded = new Map();
/** What was compiled in this run, by where it is kept. */
const compiled = new Map();

/** What a file of the program exports. */
function load(path) {
  const known = loaded.get(path);
  if (known !== undefined) return known.exports;
  // V8 refuses what it made of a source of another length, or with other flags; the build removes what was there.
  const keptPath = `${path}.${version}.${process.version}-${process.arch}.compiled`;
  const script = new Script(
    `(function (exports, require, module, __filename, __dirname) {${readFileSync(path, 'utf8')}\n})`,
    { filename: path, cachedData: read(keptPath) },
  );
  if (script.cachedDataRejected !== false) compiled.set(keptPath, script);
  const module = { exports: {} };
  loaded.set(path, module);
  const requireFrom = (name) => (name.startsWith('./') ? load(join(dirname(path), name)) : require(name));
  script.runInThisContext()(module.exports, requireFrom, module, path, dirname(path));
  return module.exports;
}

function read(path) {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}

/** Where the program may not write, as after a global installation, each run compiles anew. */
function replace(path, content) {
  const temporary = `${path}.${process.pid}`;
  try {
    writeFileSync(temporary, content);
    renameSync(temporary, path);
  } catch {
    rmSync(temporary, { force: true });
  }
}

function keepCompiled() {
  for (const [path, script] of compiled) replace(path, script.createCachedData());
}

let cli;
try {
  cli = load(MAIN);
} catch (error) {
  process.stderr.write(
    `bn-audit: it is not built: run "npm run build" first (${error.code || error.message})\n`,
  );
  process.exitCode = 2;
}
// At the end of an audit most functions are compiled, and `diff` calls nearly everything that the other commands do. One
// that failed has compiled half of it, and what is kept once stays.
if (process.argv[2] === 'diff') process.once('exit', (code) => code < 2 && keepCompiled());
if (cli !== undefined) cli.main(process.argv.slice(2));
