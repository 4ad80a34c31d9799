import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { makeTempDirectory } from '../build/sources.js';
import { run, runCli } from './run.js';

/** Whether a shell is installed. */
const isThere = (shell: string) => {
  try {
    execFileSync(shell, ['-c', 'true']);
    return true;
  } catch {
    return false;
  }
};

/**
 * Programs of each shell that read the script, take lines in `$TYPED`, and print of each what Tab would offer after it,
 * between line ends, then `===`.
 */
const HARNESSES = {
  // Words as readline splits them: at blanks, and around equals signs.
  bash: `
source ./script
while IFS= read -r line; do
  COMP_LINE=$line COMP_POINT=\${#line} COMP_WORDS=() word=
  for ((i = 0; i <= \${#line}; i++)); do
    c=\${line:i:1}
    if [[ $c != ' ' && $c != = && -n $c ]]; then word+=$c; continue; fi
    [[ -z $word ]] || COMP_WORDS+=("$word")
    word=
    [[ $c != = ]] || COMP_WORDS+=(=)
  done
  [[ $line != *' ' ]] || COMP_WORDS+=('')
  COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  _bn_audit
  printf '%s\\n' "\${COMPREPLY[@]}" ===
done <<<"$TYPED"`,
  // Found among functions, as it is installed. What a widget does ends before the next key is looked at.
  zsh: `
cp script _bn-audit
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1=; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D"
zpty -w z 'compadd() { local -a hits; [[ " \${@[1,(i)(-|--)]}" == *\\ -(O|A|D)\\ * ]] || { builtin compadd -A hits "$@"; print -rl -- \${(Q)hits} >>hits }; builtin compadd "$@" }'
zpty -w z 'offer() { zle complete-word; BUFFER=; print D""ONE }; zle -N offer; bindkey "^X" offer; print RE""ADY'
zpty -r z output '*READY*'
: >hits
for line in \${(f)TYPED}; do
  zpty -w -n z "$line"$'\\x18'
  zpty -r z output '*DONE*'
  cat hits; print '==='; : >hits
done
zpty -d z`,
  fish: `
source ./script
for line in (string split \\n -- $TYPED)
  complete -C $line | string replace -r '\\t.*' ''
  echo ===
end`,
};

const START = { bash: ['--norc'], zsh: ['-f'], fish: ['--no-config'] };

const FORMATS = 'text json markdown html junit sarif github gitlab azure summary'.split(' ');

/** What is typed, and what is offered then: exactly that, or at least that. */
const LINES: readonly (readonly [line: string, offered: readonly string[], isAll: boolean])[] = [
  ['bn-audit di', ['diff'], true],
  ['bn-audit ', ['diff', 'trace', 'watch', 'inspect', 'baseline', 'explain', 'completion', 'help'], false],
  ['bn-audit diff --mi', ['--min-shift'], true],
  ['bn-audit watch --keep', ['--keep-going'], true],
  ['bn-audit diff --format ', FORMATS, true],
  ['bn-audit watch -f ', ['text', 'json'], true],
  ['bn-audit trace --fail-on ', ['error', 'warning'], true],
  ['bn-audit init --guard l', ['lightning'], true],
  ['bn-audit diff --report mark', ['markdown='], true],
  ['bn-audit diff a.pt m', ['my model.onnx'], true],
  ['bn-audit inspect ', ['a.pt', 'b.safetensors', 'my model.onnx'], false],
  ['bn-audit diff --output note', ['notes.txt'], true],
  ['bn-audit explain frozen-s', ['frozen-stats-drift'], true],
  ['bn-audit help tr', ['trace'], true],
  ['bn-audit completion ', ['bash', 'zsh', 'fish'], true],
  ['bn-audit diff --frozen ', [], true],
];

describe.each(['bash', 'zsh', 'fish'] as const)('in %s', (shell) => {
  // zsh and fish are packages of most systems, and bash is a part of nearly all.
  const offered = new Map<string, readonly string[]>();

  beforeAll(async () => {
    if (!isThere(shell)) return;
    const directory = makeTempDirectory();
    for (const name of ['a.pt', 'b.safetensors', 'my model.onnx', 'notes.txt'])
      writeFileSync(join(directory, name), '');
    mkdirSync(join(directory, 'runs'));
    const { stdout: script } = await runCli(['completion', shell], directory);
    writeFileSync(join(directory, 'script'), script);
    writeFileSync(join(directory, 'harness'), HARNESSES[shell]);
    const lines = LINES.map(([line]) => line);
    const { stdout, stderr } = await run(shell, [...START[shell], 'harness'], directory, {
      HOME: directory,
      TYPED: lines.join('\n'),
    });
    expect(stderr).toBe('');
    stdout.split('===\n').forEach((text, index) => {
      offered.set(
        lines[index] ?? '',
        text.split('\n').filter((one) => one !== ''),
      );
    });
  }, 60_000);

  test.for(LINES)('%j is completed', ([line, expected, isAll], { skip }) => {
    if (!isThere(shell)) skip(`${shell} is not installed`);
    const found = (offered.get(line) ?? ['no answer']).map((word) => word.replace(/^--[\w-]+=/, ''));
    if (isAll) expect([...new Set(found)].sort()).toEqual([...expected].sort());
    else expect(found).toEqual(expect.arrayContaining([...expected]));
  });
});
