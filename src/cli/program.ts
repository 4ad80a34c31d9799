import { Command } from 'commander';
import { escapeControls } from '../errors.js';
import { defuseCommands } from '../report/text-layout.js';
import { VERSION } from '../version.js';
import { createDiff } from './diff-command.js';
import { EXIT_CODE_HELP } from './options.js';
import type { Terminal } from './terminal.js';

/** Makes a command; `onExitCode` is told the exit code of its run, where that is not 0. */
type CreateCommand = (terminal: Terminal, onExitCode: (code: number) => void) => Command;

/** The commands in the order of the help. All but the main job are loaded when they are needed: a run needs one. */
const COMMANDS: ReadonlyMap<string, () => Promise<CreateCommand>> = new Map([
  ['diff', async () => createDiff],
  ['inspect', async () => (await import('./inspect-command.js')).createInspect],
  ['init', async () => (await import('./init-command.js')).createInit],
  ['baseline', async () => (await import('./baseline-command.js')).createBaselineCommand],
  ['restore', async () => (await import('./restore-command.js')).createRestore],
  ['probe', async () => (await import('./probe-command.js')).createProbe],
  ['explain', async () => (await import('./explain-command.js')).createExplain],
]);

/**
 * The command line, with the command that comes first; with all of them where that is none.
 *
 * @param onExitCode is told the exit code of the command that ran.
 * @throws CommanderError for help, version and usage errors, after commander has printed them.
 */
export async function createProgram(
  args: readonly string[],
  terminal: Terminal,
  onExitCode: (code: number) => void,
): Promise<Command> {
  const program = new Command('bn-audit')
    .description('Finds frozen backbones whose BatchNorm running statistics drifted.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .option('--debug', 'print stack traces of errors')
    .exitOverride()
    .configureOutput({
      writeOut: terminal.write,
      writeErr: (text) => terminal.writeError(text.trimEnd()),
      outputError: (message, write) => write(defuseCommands(toOneLine(message))),
    })
    .helpCommand(false)
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
  const named = COMMANDS.get(args[0] ?? '');
  const commands = named === undefined ? [...COMMANDS.values()] : [named];
  for (const load of commands) program.addCommand((await load())(terminal, onExitCode));
  if (named === undefined) program.addCommand(createHelp(program));
  for (const command of program.commands) {
    command
      .copyInheritedSettings(program)
      .showHelpAfterError(`  Run bn-audit ${command.name()} --help for its options.`)
      .exitOverride();
  }
  return program;
}

/** `bn-audit help COMMAND`; commander's own shows the help of all, and no word of a command that there is not. */
function createHelp(program: Command): Command {
  return new Command('help')
    .description('display help for command')
    .argument('[command]')
    .action((name: string | undefined) => {
      if (name === undefined) program.help();
      program.commands.find((command) => command.name() === name)?.help();
      program.parse([name], { from: 'user' });
    });
}

/** A complaint of commander's holds arguments as they were given, and its suggestion in a line of its own. */
function toOneLine(message: string): string {
  const [, complaint = message, suggestion] =
    /^error: (.*?)(?:\n(\(Did you mean [^\n]*\)))?\n$/s.exec(message) ?? [];
  return `bn-audit: ${escapeControls(complaint)}${suggestion === undefined ? '' : ` ${suggestion}`}`;
}
