// `bn-audit completion`.

import { Argument, type Command } from 'commander';
import { listCommandWords } from './command-words.js';
import { COMPLETIONS, type Shell } from './completions.js';
import { createCommand } from './options.js';
import type { Terminal } from './terminal.js';

/** `bn-audit completion SHELL`: prints what the shell completes commands by. */
export function createCompletion(terminal: Terminal): Command {
  const command = createCommand('completion')
    .description('Print a script by which bash, zsh or fish complete commands, options and checkpoints.')
    .addArgument(new Argument('<shell>', 'the shell that is to read it').choices(Object.keys(COMPLETIONS)))
    .addHelpText(
      'after',
      `
Examples:
  bn-audit completion bash > ~/.local/share/bash-completion/completions/bn-audit
  bn-audit completion zsh > ~/.zfunc/_bn-audit
  bn-audit completion fish > ~/.config/fish/completions/bn-audit.fish

Exit codes:
  0  printed
  2  there is no script for that shell`,
    );
  return command.action((shell: Shell) => {
    // With this command all are made.
    const program = command.parent ?? command;
    return terminal.write(COMPLETIONS[shell](listCommandWords(program)));
  });
}
