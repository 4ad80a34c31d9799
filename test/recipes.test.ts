import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const docs = fileURLToPath(new URL('../docs/', import.meta.url));
const recipes = join(docs, 'recipes');
const list = (folder: string, extension: string) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith(extension));
const read = (path: string) => readFileSync(path, 'utf8');

const ways = list(recipes, '.py').filter((path) => /(^|\/)(holds|leaks|guards)\//.test(path));

test.each(list(docs, '.md'))('%s names recipes that exist', (page) => {
  const named = [...read(join(docs, page)).matchAll(/\brecipes\/([\w./-]*\w)/g)].map(([, path = '']) => path);
  expect(
    named.filter((path) => !existsSync(join(recipes, path)) && !existsSync(join(recipes, `${path}.py`))),
  ).toEqual([]);
});

describe.each(ways)('%s', (way) => {
  const script = join(recipes, dirname(dirname(way)), `${basename(way).split('.')[0]}.py`);

  test('is for a mark of its script', () => {
    const [, mark] = /^# for (.+)\n# needs /.exec(read(join(recipes, way))) ?? [];
    expect(read(script)).toContain(`# PASTE ${mark}\n`);
  });
});
