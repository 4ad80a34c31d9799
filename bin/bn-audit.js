#!/usr/bin/env node
import('../dist/cli.js').then(
  ({ main }) => main(process.argv.slice(2)),
  (error) => {
    process.stderr.write(
      `bn-audit: it is not built: run "npm run build" first (${error.code ?? error.message})\n`,
    );
    process.exitCode = 2;
  },
);
