#!/usr/bin/env node
'use strict';

// Starts the program that the build left in dist/. From Node 22 on, its compiled code is kept between runs, in the
// directory for temporary files (https://nodejs.org/api/module.html#moduleenablecompilecachecachedir).
require('node:module').enableCompileCache?.();

// V8 lets a heap grow to several times what lives in it before it looks for garbage: of a checkpoint of 10,000 norm layers,
// most of the peak would be garbage. Twice is a fifth less memory, and no more time.
require('node:v8').setFlagsFromString('--heap-growing-percent=100');

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
