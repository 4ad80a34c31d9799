// Turns the ES modules that esbuild splits the command line into into CommonJS files: one for all that every run loads,
// and one for each part that is loaded when needed. Node takes a third of a millisecond to find, read and wrap a module,
// and esbuild makes a chunk of every set of modules that some lazy parts share: dozens.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { build, transform } from 'esbuild';

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
 * Links the chunks of one entry point, in place.
 *
 * @param {string} entry path of the entry point, beside which all chunks lie, as `outputs` has it
 * @param {import('esbuild').Metafile['outputs']} outputs what esbuild wrote
 */
export async function linkChunks(entry, outputs) {
  const eager = [...collectStatic(entry, outputs)];
  // What the linked file holds, lazy chunks find there, made when they ask: thousands of getters take a millisecond.
  const chunks = eager.map((path, index) => ({
    path: `'./${basename(path)}'`,
    names: outputs[path].exports.map((name) => ({ name, local: `chunk${index}_${name}` })),
  }));
  const contents = `
    export * from './${basename(entry)}';
    ${chunks.map(({ path, names }) => `import { ${names.map(({ name, local }) => `${name} as ${local}`).join()} } from ${path};`).join('\n')}
    const chunks = {
      ${chunks.map(({ path, names }) => `${path}: () => ({ ${names.map(({ name, local }) => `get ${name}() { return ${local}; }`).join()} })`).join()}
    };
    export const link = (require) => (path) => chunks[path]?.() ?? require(path);`;
  const [linked] = (
    await build({
      ...COMMON_JS,
      stdin: { contents, resolveDir: resolve(dirname(entry)) },
      bundle: true,
      write: false,
      plugins: [keepLazyApart],
    })
  ).outputFiles;
  for (const path of Object.keys(outputs)) {
    if (eager.includes(path)) {
      rmSync(path);
      continue;
    }
    const { code } = await transform(readFileSync(path, 'utf8'), COMMON_JS);
    writeFileSync(path, `require=require("./${basename(entry)}").link(require);${code}`);
  }
  // Where `node:fs` is imported as a whole, esbuild would copy it, getter by getter: another millisecond.
  writeFileSync(entry, linked.text.replace(/=[\w$]+\((require\("node:fs"\))\)/g, '=$1'));
}

/** A module and all that it imports with `import … from`. */
function collectStatic(entry, outputs) {
  const found = new Set([entry]);
  for (const path of found)
    for (const imported of outputs[path].imports)
      if (imported.kind === 'import-statement' && !imported.external) found.add(imported.path);
  return found;
}

const keepLazyApart = {
  name: 'keep-lazy-apart',
  setup({ onResolve }) {
    onResolve({ filter: /^\./ }, ({ path, kind }) =>
      kind === 'dynamic-import' ? { path, external: true } : undefined,
    );
  },
};
