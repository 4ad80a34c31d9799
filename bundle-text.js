// Imports ending in ?bundle give what esbuild makes of a file, as text: so the HTML report's page, a program of its own
// for browsers, is part of the bundle. One plugin for esbuild, one for vitest.
import { dirname, resolve } from 'node:path';
import { build } from 'esbuild';

const SUFFIX = '?bundle';

/** Bundles and minifies a script (to a module-free function) or a style sheet for browsers. */
async function bundleText(path) {
  const { outputFiles } = await build({
    entryPoints: [path],
    bundle: true,
    minify: true,
    write: false,
    format: 'iife',
    platform: 'browser',
    target: ['es2022', 'chrome123', 'firefox120', 'safari17.5'],
    charset: 'utf8',
    legalComments: 'none',
    logLevel: 'warning',
  });
  return outputFiles[0].text.trim();
}

/** For esbuild. */
export const esbuildBundleText = {
  name: 'bundle-text',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /\?bundle$/ }, ({ path, resolveDir }) => ({
      path: resolve(resolveDir, path.slice(0, -SUFFIX.length)),
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
    source.endsWith(SUFFIX)
      ? `${PREFIX}${resolve(dirname(importer), source.slice(0, -SUFFIX.length))}.js`
      : undefined,
  load: async (id) =>
    id.startsWith(PREFIX)
      ? `export default ${JSON.stringify(await bundleText(id.slice(PREFIX.length, -'.js'.length)))};`
      : undefined,
};
