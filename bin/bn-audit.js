#!/usr/bin/env node
'use strict';

let cli;
try {
  cli = require('./load-program.js').loadProgram();
} catch (error) {
  process.stderr.write(
    `bn-audit: it is not built: run "npm run build" first (${error.code ?? error.message})\n`,
  );
  process.exitCode = 2;
}
if (cli !== undefined) cli.main(process.argv.slice(2));
