// Imports ending in ?bundle give text: what esbuild makes of a script or style sheet for browsers, and Python as it is. So
// the page of the HTML report and the guards are part of the bundle. One plugin for esbuild, one for vitest.
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { build } from 'esbuild';

const SUFFIX = /\?bundle$/;

/** @param {string} path */
async function bundleText(path) {
  if (path.endsWith('.py')) return readFile(path, 'utf8');
  const { outputFiles } = await build({
    entryPoints: [path],
    bundle: true,
    minify: true,
    write: false,
    charset: 'utf8',
    legalComments: 'none',
    logLevel: 'warning',
    format: 'iife',
    platform: 'browser',
    target: ['es2022', 'chrome123', 'firefox120', 'safari17.5'],
  });
  return outputFiles[0].text.trim();
}

/** The file that an import asks for. */
function toPath(request, directory) {
  return resolve(directory, request.replace(SUFFIX, ''));
}

/** For esbuild. */
export const esbuildBundleText = {
  name: 'bundle-text',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: SUFFIX }, ({ path, resolveDir }) => ({
      path: toPath(path, resolveDir),
      namespace: 'bundle-text',
    }));
    onLoad({ filter: /.*/, namespace: 'bundle-text' }, async ({ path }) => ({
      contents: await bundleText(path),
      loader: 'text',
    }));
  },
};

const PREFIX = '\0bundle-text:';

/** For vite and vitest. */
export const viteBundleText = {
  name: 'bundle-text',
  enforce: 'pre',
  // The id ends in .js so that vite takes a bundled style sheet for no style sheet of the page.
  resolveId: (source, importer) =>
    SUFFIX.test(source) ? `${PREFIX}${toPath(source, dirname(importer))}.js` : undefined,
  load: async (id) =>
    id.startsWith(PREFIX)
      ? `export default ${JSON.stringify(await bundleText(id.slice(PREFIX.length, -'.js'.length)))};`
      : undefined,
};
