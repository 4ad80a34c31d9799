#!/usr/bin/env node
'use strict';

// Starts the program that the build left in dist/. From Node 22 on, its compiled code is kept between runs, in the
// directory for temporary files (https://nodejs.org/api/module.html#moduleenablecompilecachecachedir).
require('node:module').enableCompileCache?.();

let cli;
try {
  cli = require('../dist/cli/main.js');
} catch (error) {
  process.stderr.write(
    `bn-audit: it is not built: run "npm run build" first (${error.code ?? error.message})\n`,
  );
  process.exitCode = 2;
}
cli?.main(process.argv.slice(2));
