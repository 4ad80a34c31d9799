// Imports ending in ?bundle or ?thread give what esbuild makes of a file, as text: so programs of their own are part of
// the bundle, the page of the HTML report and what runs in a second thread. One plugin for esbuild, one for vitest.
import { dirname, resolve } from 'node:path';
import { build } from 'esbuild';
import { esbuildAssembleWat } from './assemble-wat.js';

const SUFFIX = /\?(bundle|thread)$/;

/** What the suffixes stand for: a script or style sheet for browsers, a script for a thread of Node. */
const SETTINGS = {
  bundle: {
    format: 'iife',
    platform: 'browser',
    target: ['es2022', 'chrome123', 'firefox120', 'safari17.5'],
  },
  thread: { format: 'cjs', platform: 'node', target: 'node20', plugins: [esbuildAssembleWat] },
};

/** Bundles and minifies a file that is named as `kind:path`. */
async function bundleText(name) {
  const [, kind, path] = name.match(/^(\w+):(.*)$/);
  const { outputFiles } = await build({
    entryPoints: [path],
    bundle: true,
    minify: true,
    write: false,
    charset: 'utf8',
    legalComments: 'none',
    logLevel: 'warning',
    ...SETTINGS[kind],
  });
  return outputFiles[0].text.trim();
}

/** What an import asks for, as {@link bundleText} takes it. */
function toName(request, directory) {
  const [suffix, kind] = request.match(SUFFIX);
  return `${kind}:${resolve(directory, request.slice(0, -suffix.length))}`;
}

/** For esbuild. */
export const esbuildBundleText = {
  name: 'bundle-text',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: SUFFIX }, ({ path, resolveDir }) => ({
      path: toName(path, resolveDir),
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
    SUFFIX.test(source) ? `${PREFIX}${toName(source, dirname(importer))}.js` : undefined,
  load: async (id) =>
    id.startsWith(PREFIX)
      ? `export default ${JSON.stringify(await bundleText(id.slice(PREFIX.length, -'.js'.length)))};`
      : undefined,
};
