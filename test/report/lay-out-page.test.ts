import { describe, expect, test } from 'vitest';
import { layOutPage } from '../../src/report/lay-out-page.js';
import type { Paint } from '../../src/report/text-layout.js';

const show = (markdown: string, width = 30, paint?: Paint) =>
  layOutPage(markdown, { width, paint })
    .blocks.map((lines) => lines.join('\n'))
    .join('\n\n');

describe('a page', () => {
  test('has headings, in bold, and paragraphs, wrapped', () => {
    const bold: Paint = (tone, text) => (tone === 'strong' ? `<b>${text}</b>` : text);
    expect(show('# Title of `code`\n\nOne two three\nfour five six seven.\n', 20, bold)).toBe(
      '<b>Title of `code`</b>\n\nOne two three four\nfive six seven.',
    );
  });

  test('has no marks of emphasis and links; code keeps its own', () => {
    expect(show('_a_ **b** [c `d`](e.md) <https://x.y/z> & `<f>`', 80)).toBe(
      'a b c `d` https://x.y/z & `<f>`',
    );
  });

  test('tells where its links lead, each once', () => {
    expect([...layOutPage('[a](x.md#y) [b](x.md#y)\n\n- [c](https://d.e)', {}).links]).toEqual([
      'x.md#y',
      'https://d.e',
    ]);
  });

  test('has code, indented and whole', () => {
    expect(show('```sh\nbn-audit diff before.safetensors after.safetensors\n\n  x\n```\n\n    y')).toBe(
      '    bn-audit diff before.safetensors after.safetensors\n\n      x\n\n    y',
    );
  });

  test('has lists, with what is in their items', () => {
    expect(show('- one two three four five six\n  - seven\n- eight\n', 20)).toBe(
      '- one two three four\n  five six\n  - seven\n- eight',
    );
    expect(show('9. one\n\n10. two\n\n        code\n')).toBe('9. one\n\n10. two\n\n        code');
  });

  const TABLE = '| name | what | size |\n| - | - | -: |\n| a | the first of them | 1 |\n| `b` | | 22 |\n';

  test('has tables where they fit', () => {
    expect(show(TABLE)).toBe(
      [
        'name  what               size',
        'a     the first of them     1',
        '`b`                        22',
      ].join('\n'),
    );
  });

  test('has a paragraph a row where they do not', () => {
    expect(show(TABLE, 20)).toBe(
      ['a', '  what  the first of', '        them', '  size  1', '', '`b`', '  size  22'].join('\n'),
    );
  });

  test('has terms and their meanings, beside them or below', () => {
    const terms = '| | |\n|-|-|\n| one | the first of them all |\n| three | 3 |\n';
    expect(show(terms, 25)).toBe('  one    the first of\n         them all\n  three  3');
    expect(show(terms, 12)).toBe('  one\n    the\n    first of\n    them all\n  three\n    3');
  });

  test('has quotes, indented, and breaks no word', () => {
    expect(show('> one two three four five six seven', 20)).toBe('  one two three four\n  five six seven');
    expect(show(`a ${'x'.repeat(40)} b`, 20)).toBe(`a\n${'x'.repeat(40)}\nb`);
  });
});
