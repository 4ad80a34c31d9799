// Imports of .wat files give the bytes that the text of a WebAssembly module assembles to. One plugin for esbuild, one
// for vitest.
import { readFile } from 'node:fs/promises';
import initWabt from 'wabt';

/** @param {string} path */
async function assemble(path) {
  const wabt = await initWabt();
  const module = wabt.parseWat(path, await readFile(path, 'utf8'), { simd: true });
  try {
    return module.toBinary({}).buffer;
  } finally {
    module.destroy();
  }
}

/** For esbuild. */
export const esbuildAssembleWat = {
  name: 'assemble-wat',
  setup({ onLoad }) {
    onLoad({ filter: /\.wat$/ }, async ({ path }) => ({ contents: await assemble(path), loader: 'binary' }));
  },
};

/** For vite and vitest. */
export const viteAssembleWat = {
  name: 'assemble-wat',
  enforce: 'pre',
  load: async (id) =>
    id.endsWith('.wat') ? `export default Uint8Array.from([${(await assemble(id)).join(',')}]);` : undefined,
};
