import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { runCli } from './run.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

test('the picture in the README shows what the command prints: npm run picture draws it again', async () => {
  const svg = readFileSync(join(root, 'docs/images/diff.svg'), 'utf8');
  const lines = [...svg.matchAll(/<text [^>]*>(.*)<\/text>/g)].map(([, line = '']) =>
    line
      .replace(/<\/?tspan[^>]*>/g, '')
      .replaceAll('&lt;', '<')
      .replaceAll('&gt;', '>')
      .replaceAll('&amp;', '&'),
  );
  const [command = '', ...shown] = lines;
  const args = command.replace(/^\$ bn-audit /, '').split(' ');
  const { stdout } = await runCli(args, join(root, 'fixtures/pairs/requires-grad-leak'));
  expect(shown).toEqual(stdout.split('\n').filter((line) => line !== ''));
});
