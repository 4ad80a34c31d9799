import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  layOutTable,
  plain,
  shortenMiddle,
  showName,
  type TableColumn,
  wrapText,
} from '../../src/report/text-layout.js';

interface Row {
  readonly name: string;
  readonly count: string;
}

const COLUMNS: readonly TableColumn<Row>[] = [
  { title: 'layer', align: 'left', cell: ({ name }) => name },
  { title: 'count', align: 'right', cell: ({ count }) => count },
];

describe('layOutTable', () => {
  test('aligns columns, two spaces apart, without spaces at the ends of lines', () => {
    const rows = [
      { name: 'a', count: '1' },
      { name: 'backbone', count: '12' },
    ];
    expect(layOutTable(rows, COLUMNS, 80)).toEqual(['layer     count', 'a             1', 'backbone     12']);
    expect(
      layOutTable(
        [
          { name: 'x', count: '–' },
          { name: 'y', count: '3' },
        ],
        COLUMNS.toReversed(),
        80,
      ),
    ).toEqual(['count  layer', '    –  x', '    3  y']);
  });

  test('leaves out a column without a value in any row', () => {
    expect(layOutTable([{ name: 'a', count: '–' }], COLUMNS, 80)).toEqual(['layer', 'a']);
  });

  test('shortens names in their middle to keep the width', () => {
    const lines = layOutTable([{ name: 'backbone.layer4.2.downsample.1', count: '1' }], COLUMNS, 30);
    expect(lines).toEqual(['layer                    count', 'backbon….2.downsample.1      1']);
    expect(lines.every((line) => line.length <= 30)).toBe(true);
  });

  test('never squeezes names below 12 characters', () => {
    expect(layOutTable([{ name: 'x'.repeat(40), count: '1' }], COLUMNS, 5)[1]).toMatch(/^x+…x+ {2,}1$/);
    expect(layOutTable([{ name: 'x'.repeat(40), count: '1' }], COLUMNS, 5)[0]).toHaveLength(12 + 2 + 5);
  });
});

describe('wrapText', () => {
  test('breaks at spaces and indents every line', () => {
    expect(wrapText('one two three four', { width: 12, indent: '  ' })).toEqual([
      '  one two',
      '  three four',
    ]);
  });

  test('takes the middle out of a word that is longer than a line', () => {
    expect(wrapText(`a ${'x'.repeat(30)} b`, { width: 10, indent: '' })).toEqual(['a', 'xxx…xxxxxx', 'b']);
  });

  test('is nothing for an empty text', () => {
    expect(wrapText('', { width: 10, indent: '  ' })).toEqual([]);
  });

  test('loses no word, and no line is wider than asked for unless one word is', () => {
    const words = fc.array(fc.stringMatching(/^[a-z]{1,12}$/), { minLength: 1 });
    fc.assert(
      fc.property(words, (list) => {
        const lines = wrapText(list.join(' '), { width: 20, indent: '   ' });
        expect(lines.map((line) => line.trim()).join(' ')).toBe(list.join(' '));
        expect(lines.every((line) => line.length <= 20)).toBe(true);
      }),
    );
  });
});

describe('shortenMiddle', () => {
  test.each([
    ['short', 5, 'short'],
    ['abcdef', 5, 'a…def'],
    ['abcdef', 2, '…f'],
    ['abcdef', 1, '…f'],
  ])('%j in %d characters is %j', (text, width, shown) => {
    expect(shortenMiddle(text, width)).toBe(shown);
  });

  test('cuts no emoji in half', () => {
    expect(shortenMiddle('😀😁😂😃😄😅', 4)).toBe('😀…😄😅');
  });
});

describe('showName', () => {
  test('calls the model itself the root', () => {
    expect(showName('')).toBe('(root)');
  });

  test('escapes before it shortens, so that no escape is cut open into a control', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.integer({ min: 2, max: 40 }), (name, width) => {
        const shown = showName(name, width);
        expect([...shown].length).toBeLessThanOrEqual(Math.max(width, '(root)'.length));
        expect(shown).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
      }),
    );
  });
});

test('plain paint leaves text as it is', () => {
  expect(plain('error', 'text')).toBe('text');
});
