import { Command } from 'commander';
import { VERSION } from '../version.js';
import { createBaselineCommand } from './baseline-command.js';
import { createDiff } from './diff-command.js';
import { createExplain } from './explain-command.js';
import { createInit } from './init-command.js';
import { createInspect } from './inspect-command.js';
import { EXIT_CODE_HELP } from './options.js';
import { createProbe } from './probe-command.js';
import { createRestore } from './restore-command.js';
import type { Terminal } from './terminal.js';

/**
 * The command line. `onExitCode` is told the exit code of the command that ran.
 *
 * @throws CommanderError for help, version and usage errors, after commander has printed them.
 */
export function createProgram(terminal: Terminal, onExitCode: (code: number) => void): Command {
  const program = new Command('bn-audit')
    .description('Finds frozen backbones whose BatchNorm running statistics drifted.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .option('--debug', 'print stack traces of errors')
    .exitOverride()
    .configureOutput({
      writeOut: terminal.write,
      writeErr: (text) => terminal.writeError(text.trimEnd().replace(/^error: /, 'bn-audit: ')),
    })
    .showHelpAfterError('  Run bn-audit --help for the commands and their options.')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit diff before.safetensors after.safetensors
  bn-audit diff before.pt exported.onnx --frozen backbone
  bn-audit inspect model.onnx
  bn-audit init model.pt
  bn-audit explain frozen-stats-drift
${EXIT_CODE_HELP}`,
    );
  program.addCommand(createDiff(terminal, onExitCode));
  program.addCommand(createInspect(terminal, onExitCode));
  program.addCommand(createInit(terminal));
  program.addCommand(createBaselineCommand(terminal));
  program.addCommand(createRestore(terminal, onExitCode));
  program.addCommand(createProbe(terminal, onExitCode));
  program.addCommand(createExplain(terminal));
  for (const command of program.commands) {
    command
      .copyInheritedSettings(program)
      .showHelpAfterError(`  Run bn-audit ${command.name()} --help for its options.`)
      .exitOverride();
  }
  return program;
}
