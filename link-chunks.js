// Turns the ES modules that esbuild splits a program into into CommonJS files: one for all that every run loads, and one
// for each part that is loaded when needed. Node takes a third of a millisecond to find, read and wrap a module, and
// esbuild makes a chunk of every set of modules that some lazy parts share: dozens.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { build, transform } from 'esbuild';

/** @typedef {import('esbuild').Metafile['outputs']} Outputs */

/** @type {import('esbuild').CommonOptions} */
const COMMON_JS = {
  format: 'cjs',
  platform: 'node',
  target: 'node20',
  minify: true,
  // `import()` becomes a promise of `require()`: a CommonJS file imported as an ES module would lose its names.
  supported: { 'dynamic-import': false },
  define: { 'import.meta.dirname': '__dirname' },
};

/**
 * Links an entry point and all that it imports statically into one file, and converts the rest.
 *
 * @param {object} program
 * @param {string} program.entry output path of the entry point, as `outputs` has it
 * @param {Outputs} program.outputs what esbuild wrote, by path from the working directory
 * @param {string} program.outdir where the CommonJS files go: the entry point, and `chunks/`
 */
export async function linkChunks({ entry, outputs, outdir }) {
  const eager = collectStatic(entry, outputs);
  const lazy = Object.keys(outputs).filter((path) => !eager.has(path));
  const shared = listShared(lazy, eager, outputs).map((path) => ({
    path,
    names: outputs[path]?.exports ?? [],
  }));
  await linkEager({ entry, shared, outdir });
  mkdirSync(join(outdir, 'chunks'), { recursive: true });
  for (const path of lazy) {
    const { code } = await transform(readFileSync(path, 'utf8'), COMMON_JS);
    // What the linked file holds is taken from there.
    const banner = `require=require("../${basename(entry)}").link(require);`;
    writeFileSync(join(outdir, 'chunks', basename(path)), banner + code);
  }
}

/**
 * A module and all that it imports with `import … from`.
 *
 * @param {string} entry
 * @param {Outputs} outputs
 * @returns {ReadonlySet<string>}
 */
function collectStatic(entry, outputs) {
  /** @type {Set<string>} */
  const found = new Set();
  const visit = (/** @type {string} */ path) => {
    if (found.has(path) || outputs[path] === undefined) return;
    found.add(path);
    importsOf(path, outputs).forEach(visit);
  };
  visit(entry);
  return found;
}

/**
 * The eager modules that lazy ones import.
 *
 * @param {readonly string[]} lazy
 * @param {ReadonlySet<string>} eager
 * @param {Outputs} outputs
 */
function listShared(lazy, eager, outputs) {
  const wanted = new Set(lazy.flatMap((path) => importsOf(path, outputs)));
  return [...eager].filter((path) => wanted.has(path));
}

/**
 * @param {string} path
 * @param {Outputs} outputs
 */
function importsOf(path, outputs) {
  const imports = outputs[path]?.imports ?? [];
  return imports.filter(({ kind }) => kind === 'import-statement').map((imported) => imported.path);
}

/**
 * @param {object} parts
 * @param {string} parts.entry
 * @param {readonly { readonly path: string, readonly names: readonly string[] }[]} parts.shared with what they export
 * @param {string} parts.outdir
 */
async function linkEager({ entry, shared, outdir }) {
  const load = (/** @type {string} */ path) => JSON.stringify(resolve(path));
  // A namespace object for each module would be made at every start, with a function for each export.
  const modules = shared.map(({ path, names }, index) => ({
    path,
    exports: names.map((name, each) => ({ name, local: `shared${index}_${each}` })),
  }));
  const contents = `
    export * from ${load(entry)};
    ${modules.map(({ path, exports }) => `import { ${exports.map(({ name, local }) => `${name} as ${local}`)} } from ${load(path)};`).join('\n')}
    function findShared(id) {
      switch (id) {
        ${modules.map(({ path, exports }) => `case "./${basename(path)}": return { ${exports.map(({ name, local }) => `get ${name}() { return ${local}; }`)} };`).join('\n')}
      }
    }
    /** A chunk's require, which finds here what is here. */
    export const link = (require) => (id) => findShared(id) ?? require(id);`;
  await build({
    ...COMMON_JS,
    stdin: { contents, resolveDir: dirname(resolve(entry)) },
    bundle: true,
    outfile: join(outdir, basename(entry)),
    plugins: [keepLazyApart],
  });
}

/** @type {import('esbuild').Plugin} */
const keepLazyApart = {
  name: 'keep-lazy-apart',
  setup({ onResolve }) {
    onResolve({ filter: /^\./ }, ({ path, kind }) =>
      kind === 'dynamic-import' ? { path: `./chunks/${basename(path)}`, external: true } : undefined,
    );
  },
};
