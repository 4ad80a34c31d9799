// Packages load some modules by tricks or for nothing: what they get instead in the bundles.
const STAND_INS = [
  {
    // For subcommands that are programs of their own. There are none here, and with Node's child processes comes the
    // whole of its networking, which takes longer to load than all of commander: loaded when asked for.
    owner: 'commander',
    wanted: 'node:child_process',
    contents: "exports.spawn = (...args) => require('node:child_process').spawn(...args);",
  },
  {
    // Hashes are taken in few runs, and loading them brings all of Node's streams and ciphers: a tenth of a short run.
    owner: 'src',
    wanted: 'node:crypto',
    contents: `for (const name of ['createCipheriv', 'createHash', 'randomBytes'])
      exports[name] = (...args) => require('node:crypto')[name](...args);`,
  },
  {
    // Only the reports of several audits are packed.
    owner: 'report',
    wanted: 'node:zlib',
    contents: `exports.deflateSync = (...args) => require('node:zlib').deflateSync(...args);
      exports.inflateSync = (...args) => require('node:zlib').inflateSync(...args);`,
  },
  {
    // Looks at both streams for colours, which `src/cli/terminal.ts` does itself, and only where it writes to them: a
    // quiet run would load the terminal and with it all of networking.
    owner: 'chalk',
    wanted: '#supports-color',
    contents: 'export default { stdout: false, stderr: false };',
  },
  {
    // protobufjs looks for optional packages behind the bundler's back, and would find others wherever the file lies.
    owner: 'protobufjs',
    wanted: '@protobufjs/inquire',
    contents:
      "const known = { buffer: require('node:buffer') }; module.exports = (name) => known[name] ?? null;",
  },
];

/** For esbuild. */
export const standIns = {
  name: 'stand-ins',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^[@#]|^node:/ }, ({ path, importer }) => {
      const directory = importer.replaceAll('\\', '/');
      const standIn = STAND_INS.find(
        ({ owner, wanted }) => wanted === path && directory.includes(`/${owner}/`),
      );
      return standIn && { path, namespace: 'stand-in', pluginData: standIn.contents };
    });
    onLoad({ filter: /.*/, namespace: 'stand-in' }, ({ pluginData }) => ({ contents: pluginData }));
  },
};
