import { expect, test } from 'vitest';
import { type CommandName, listCommandOptions } from '../src/options.js';

/** In the order of `bn-audit --help`. */
const COMMANDS: readonly CommandName[] = [
  'diff',
  'trace',
  'watch',
  'inspect',
  'init',
  'baseline',
  'restore',
  'probe',
  'explain',
  'completion',
];

const escapeCell = (text: string) => text.replaceAll('|', '\\|');

test('docs/options.md lists the options of every command, as the table of options has them', async () => {
  const sections = COMMANDS.map((command) => {
    const rows = listCommandOptions(command).map(
      ({ flags = '', help = '', initial }) =>
        `| \`${flags}\` | ${escapeCell(help)}${initial === undefined ? '' : ` (\`${initial}\`)`} |`,
    );
    return [`## ${command}`, '', '| option | what it does |', '| --- | --- |', ...rows, ''].join('\n');
  });
  const page = [
    '# Options',
    '',
    'Every option of every command. This page is made from the table in `src/options.ts`: `npx vitest run test/docs.options.test.ts --update`.',
    '`bn-audit COMMAND --help` prints the same, with examples.',
    '',
    ...sections,
  ].join('\n');
  await expect(page).toMatchFileSnapshot('../docs/options.md');
});
