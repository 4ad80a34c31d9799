// `bn-audit completion`: writes the scripts by which bash, zsh and fish complete what is typed.

import { Argument, type Command } from 'commander';
import { failUnreachable, TOOL_NAME, VERSION } from '../errors.js';
import { addTo } from '../norm/naming.js';
import {
  type CommandWords,
  listCommandWords,
  type OptionWords,
  type ProgramWords,
  type Values,
} from './command-words.js';
import { createCommand } from './options.js';
import type { Terminal } from './terminal.js';

/** What writes the script for each shell that there is one for. */
const COMPLETIONS = { bash: writeBash, zsh: writeZsh, fish: writeFish } as const;

/** A shell that there is a script for. */
type Shell = keyof typeof COMPLETIONS;

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

function writeHead(shell: Shell): string {
  return `# Completes ${TOOL_NAME} ${VERSION} in ${shell}. Printed by: ${TOOL_NAME} completion ${shell}`;
}

function listFlags({ short, long }: OptionWords): readonly string[] {
  return short === undefined ? [long] : [short, long];
}

/** A text as one word of bash or zsh. */
function quoteWord(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** For bash 3.2 too, which macOS has: that knows no `compopt`, and does without what it would add. */
function writeBash({ program, commands }: ProgramWords): string {
  const call = (values: Values | null) =>
    values === null ? 'return' : [`_bn_audit_${values.kind}`, ...values.words].join(' ');
  const writeCases = ({ name, options, argument }: CommandWords) => {
    const patterns = new Map<string, string[]>();
    for (const option of options)
      if (option.value !== null)
        for (const flag of listFlags(option)) addTo(patterns, call(option.value.values), `${name}:${flag}`);
    const flags = quoteWord(options.flatMap(listFlags).join(' '));
    return [
      ...[...patterns].map(([action, found]) => `    ${found.join(' | ')}) ${action} ;;`),
      `    ${name}:*) _bn_audit_any ${flags} ${call(argument?.values ?? null)} ;;`,
    ];
  };
  return `${writeHead('bash')}
_bn_audit_words() {
  COMPREPLY=($(compgen -W "$*" -- "$current"))
}
_bn_audit_heads() {
  _bn_audit_words "$@"
  compopt -o nospace 2>/dev/null
}
_bn_audit_files() {
  local IFS=$'\\n'
  COMPREPLY=($(compgen -f -- "$current"))
  compopt -o filenames 2>/dev/null
}
_bn_audit_checkpoints() {
  local names ending
  names=$(compgen -d -- "$current")
  for ending; do names+=$'\\n'$(compgen -f -X "!*.$ending" -- "$current"); done
  local IFS=$'\\n'
  COMPREPLY=($(sort -u <<<"$names"))
  compopt -o filenames 2>/dev/null
}
_bn_audit_any() {
  if [[ $current == -* ]]; then _bn_audit_words "$1"; else "\${@:2}"; fi
}
_bn_audit() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]} command= index
  COMPREPLY=()
  for ((index = 1; index < COMP_CWORD; index++)); do
    [[ \${COMP_WORDS[index]} == -* ]] || { command=\${COMP_WORDS[index]}; break; }
  done
  # bash takes --option=value for three words, and format=file too.
  if [[ $current == = ]]; then current=; elif [[ $previous == = ]]; then previous=\${COMP_WORDS[COMP_CWORD - 2]}; fi
  if [[ \${COMP_LINE:0:COMP_POINT} =~ =[^[:space:]]*$ && $previous != -* ]]; then _bn_audit_files; return; fi
  case $command:$previous in
${[{ ...program, name: '' }, ...commands].flatMap(writeCases).join('\n')}
  esac
}
complete -F _bn_audit ${TOOL_NAME}
`;
}

function writeZsh({ program, commands }: ProgramWords): string {
  const escapeSpec = (text: string) => text.replace(/[[\]\\:]/g, '\\$&');
  const toAction = (values: Values | null) => {
    if (values === null) return ' ';
    switch (values.kind) {
      case 'words':
        return `(${values.words.join(' ')})`;
      case 'heads':
        return `_bn_audit_heads ${values.words.join(' ')}`;
      case 'checkpoints':
        return `_files -g "*.(${values.words.join('|')})"`;
      case 'files':
        return '_files';
      default:
        return failUnreachable(values.kind);
    }
  };
  const writeOption = (option: OptionWords) => {
    const { long, help, value, isRepeatable } = option;
    const flags = listFlags(option);
    const about = `[${escapeSpec(help)}]${value === null ? '' : `:${value.name}:${toAction(value.values)}`}`;
    const end = (flag: string) => (value === null ? '' : flag === long ? '=' : '+');
    return flags.map((flag) =>
      quoteWord(`${isRepeatable ? '*' : `(${flags.join(' ')})`}${flag}${end(flag)}${about}`),
    );
  };
  const writeArguments = ({ options, argument }: CommandWords) =>
    [
      ...options.flatMap(writeOption),
      ...(argument === null ? [] : [quoteWord(`*:${argument.name}:${toAction(argument.values)}`)]),
    ].join(' \\\n        ');
  return `#compdef ${TOOL_NAME}
${writeHead('zsh')}
_bn_audit_heads() {
  if compset -P '*='; then _files; else compadd -S '' -- "$@"; fi
}
_bn_audit() {
  local curcontext=$curcontext state line
  local -A opt_args
  local -a commands=(
${commands.map(({ name, help }) => `    ${quoteWord(`${escapeSpec(name)}:${help}`)}`).join('\n')}
  )
  _arguments -C ${program.options.flatMap(writeOption).join(' \\\n    ')} \\
    '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe command commands ;;
    argument)
      case $line[1] in
${commands.map((command) => `        ${command.name}) _arguments -s ${writeArguments(command)} ;;`).join('\n')}
      esac ;;
  esac
}
# Found among the functions it is called; read by a line of .zshrc it is not.
if [[ $funcstack[1] == _bn-audit ]]; then _bn_audit "$@"; else compdef _bn_audit ${TOOL_NAME}; fi
`;
}

function writeFish({ program, commands }: ProgramWords): string {
  const quote = (text: string) => `'${text.replace(/[\\']/g, '\\$&')}'`;
  const toRule = (values: Values | null) => {
    if (values === null) return '-x';
    switch (values.kind) {
      case 'words':
        return `-x -a ${quote(values.words.join(' '))}`;
      case 'heads':
        return `-r -F -a ${quote(values.words.join(' '))}`;
      case 'checkpoints':
        return `-k -x -a ${quote(`(__fish_complete_suffix ${values.words.map((ending) => `.${ending}`).join(' ')})`)}`;
      case 'files':
        return '-r -F';
      default:
        return failUnreachable(values.kind);
    }
  };
  const writeRules = ({ name, options, argument }: CommandWords) => {
    const start = `complete -c ${TOOL_NAME} -n ${quote(name === '' ? '__fish_use_subcommand' : `__fish_seen_subcommand_from ${name}`)}`;
    return [
      ...options.map(({ short, long, help, value }) => {
        const flags = [...(short === undefined ? [] : [`-s ${short.slice(1)}`]), `-l ${long.slice(2)}`];
        return [start, ...flags, ...(value === null ? [] : [toRule(value.values)]), `-d ${quote(help)}`].join(
          ' ',
        );
      }),
      ...(argument === null || argument.values === null ? [] : [`${start} ${toRule(argument.values)}`]),
    ];
  };
  return [
    writeHead('fish'),
    `complete -c ${TOOL_NAME} -f`,
    ...writeRules({ ...program, name: '', argument: null }),
    ...commands.map(
      ({ name, help }) => `complete -c ${TOOL_NAME} -n __fish_use_subcommand -a ${name} -d ${quote(help)}`,
    ),
    ...commands.flatMap(writeRules),
    '',
  ].join('\n');
}
