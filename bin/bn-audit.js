#!/usr/bin/env node
'use strict';

// Loads the program that the build left in dist/ and runs it. To compile what an audit calls takes as long as to audit a
// small checkpoint, so the build keeps V8's bytecode too, for the Node that built. It fits that version of Node only, on
// that kind of machine (https://nodejs.org/api/vm.html#scriptcreatecacheddata), and V8 takes none that other flags or a
// source of another length made: it compiles the source then, as it does for every function that the bytecode lacks. It
// trusts all other bytecode as it trusts the source: whoever changes dist/ by hand removes code-cache/.
const { existsSync, readFileSync } = require('node:fs');
const { basename, dirname, join } = require('node:path');
const { Script } = require('node:vm');

const PROGRAM = join(__dirname, '..', 'dist', 'cli');
const CODE_CACHE = join(PROGRAM, 'code-cache', `${process.platform}-${process.arch}-${process.version}`);
/** What Node puts around a CommonJS module. */
const WRAPPER = ['(function (exports, require, module, __filename, __dirname) {', '\n})'];

/** The modules of the program that were loaded, by path. */
const modules = new Map();
/** Their scripts, and where the bytecode of each belongs. */
const scripts = new Map();

/** @param {string} path of a CommonJS module of the program */
function load(path) {
  const known = modules.get(path);
  if (known !== undefined) return known.exports;
  const bytecode = join(CODE_CACHE, `${basename(path)}.bin`);
  const script = new Script(WRAPPER.join(readFileSync(path, 'utf8')), {
    filename: path,
    cachedData: existsSync(bytecode) ? readFileSync(bytecode) : undefined,
  });
  const module = { exports: {} };
  modules.set(path, module);
  scripts.set(bytecode, script);
  const directory = dirname(path);
  const requireHere = (id) => (id.startsWith('.') ? load(join(directory, id)) : require(id));
  script.runInThisContext()(module.exports, requireHere, module, path, directory);
  return module.exports;
}

let cli;
try {
  cli = load(join(PROGRAM, 'main.js'));
} catch (error) {
  process.stderr.write(
    `bn-audit: it is not built: run "npm run build" first (${error.code ?? error.message})\n`,
  );
  process.exitCode = 2;
}
// For the build, which keeps the bytecode of what it runs.
module.exports = { end: cli?.main(process.argv.slice(2)), scripts };
