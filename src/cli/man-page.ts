// Writes the man page: commands, options and examples as commander has them, in roff.

import type { Command, Option } from 'commander';
import { TOOL_NAME, VERSION } from '../errors.js';
import { wrapText } from '../report/text-layout.js';

/** Checkers of roff ask for lines of at most 80 bytes; escapes take some. */
const SOURCE_WIDTH = 70;

/** The man page, in section 1, of a program that has all of its commands. */
export function writeManPage(program: Command): string {
  const help = program.createHelp();
  const writeOptions = (command: Command) => help.visibleOptions(command).flatMap(writeOption);
  return [
    `.TH ${TOOL_NAME.toUpperCase()} 1 "" "${TOOL_NAME} ${VERSION}" "User Commands"`,
    '.SH NAME',
    `${TOOL_NAME} \\- ${escapeRoff(program.description())}`,
    '.SH SYNOPSIS',
    ...[program, ...program.commands].flatMap((command, index) => [
      ...(index === 0 ? [] : ['.br']),
      `.B ${escapeRoff(help.commandUsage(command))}`,
    ]),
    '.SH OPTIONS',
    ...writeOptions(program),
    '.SH COMMANDS',
    ...program.commands.flatMap((command) => [
      `.SS ${command.name()}`,
      ...writeText(command.description()),
      ...help
        .visibleArguments(command)
        .flatMap((argument) => writeTerm(`.I ${escapeRoff(argument.name())}`, argument.description)),
      ...writeOptions(command),
      '.PP',
      ...writeAsIs(readAfterHelp(command)),
    ]),
    '.SH EXAMPLES',
    ...writeAsIs(readAfterHelp(program)),
    '',
  ].join('\n');
}

function writeOption({ flags, description, argChoices, defaultValue }: Option): readonly string[] {
  const choices = argChoices === undefined ? '' : ` (${argChoices.join(', ')})`;
  const initial = defaultValue === undefined ? '' : `; ${defaultValue} unless given`;
  return writeTerm(`.B ${escapeRoff(flags)}`, `${description}${choices}${initial}`);
}

function writeTerm(term: string, meaning: string): readonly string[] {
  return ['.TP', term, ...writeText(meaning)];
}

/** Examples, exit codes and the like, which follow the options in a command's help. */
function readAfterHelp(command: Command): string {
  let text = '';
  const writeOut = (piece: string) => {
    text += piece;
  };
  command.configureOutput({ writeOut, getOutHelpWidth: () => SOURCE_WIDTH }).outputHelp();
  return text.slice(command.helpInformation().length);
}

function writeText(text: string): readonly string[] {
  return wrapText(text, { width: SOURCE_WIDTH, indent: '', wholeNames: true }).map(escapeRoff);
}

/** Lines as they are. */
function writeAsIs(text: string): readonly string[] {
  return ['.nf', ...text.trim().split('\n').map(escapeRoff), '.fi'];
}

/** Text in which nothing is a request to roff; minus signs can be copied. */
function escapeRoff(text: string): string {
  return text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replace(/^[.']/, '\\&$&');
}
