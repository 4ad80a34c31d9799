'use strict';

/**
 * Loads the program that the build left in dist/. To compile what an audit calls takes as long as to audit a small
 * checkpoint, so the build keeps V8's bytecode too, for the Node that built. It fits that version of Node only, on that
 * kind of machine (https://nodejs.org/api/vm.html#scriptcreatecacheddata), and V8 takes none that other flags or a source
 * of another length made: it compiles the source then, as it does for every function that the bytecode lacks. It trusts
 * all other bytecode as it trusts the source: whoever changes dist/ by hand removes code-cache/.
 */
const { existsSync, mkdirSync, readFileSync, writeFileSync } = require('node:fs');
const { basename, dirname, join } = require('node:path');
const { Script } = require('node:vm');

const PROGRAM = join(__dirname, '..', 'dist', 'cli');
const MAIN = join(PROGRAM, 'main.js');
const CODE_CACHE = join(PROGRAM, 'code-cache', `${process.platform}-${process.arch}-${process.version}`);
/** What Node puts around a CommonJS module. */
const WRAPPER = ['(function (exports, require, module, __filename, __dirname) {', '\n})'];

/** The modules that were loaded here, and their scripts, by path. */
const loaded = new Map();

/** What the program exports. */
exports.loadProgram = () => (existsSync(CODE_CACHE) ? load(MAIN) : require(MAIN));

/**
 * Keeps the bytecode of what a use of the program calls.
 *
 * @param {(program: {main(args: readonly string[]): Promise<void>}) => Promise<void>} use
 */
exports.writeCodeCache = async (use) => {
  await use(load(MAIN));
  mkdirSync(CODE_CACHE, { recursive: true });
  for (const [path, { script }] of loaded) writeFileSync(locateBytecode(path), script.createCachedData());
};

/** @param {string} path of a CommonJS module of the program */
function load(path) {
  const known = loaded.get(path);
  if (known !== undefined) return known.module.exports;
  const source = WRAPPER.join(readFileSync(path, 'utf8'));
  const script = new Script(source, { filename: path, cachedData: readBytecode(path) });
  const module = { exports: {} };
  loaded.set(path, { module, script });
  const directory = dirname(path);
  const requireHere = (id) => (id.startsWith('.') ? load(join(directory, id)) : require(id));
  script.runInThisContext()(module.exports, requireHere, module, path, directory);
  return module.exports;
}

/** @param {string} path */
function readBytecode(path) {
  const bytecode = locateBytecode(path);
  return existsSync(bytecode) ? readFileSync(bytecode) : undefined;
}

/** @param {string} path */
function locateBytecode(path) {
  return join(CODE_CACHE, `${basename(path)}.bin`);
}
