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

const within = (tableWidth: number) => ({ tableWidth, wholeNames: false });

describe('layOutTable', () => {
  test('aligns columns, two spaces apart, without spaces at the ends of lines', () => {
    const rows = [
      { name: 'a', count: '1' },
      { name: 'backbone', count: '12' },
    ];
    expect(layOutTable(rows, COLUMNS, within(80))).toEqual([
      'layer     count',
      'a             1',
      'backbone     12',
    ]);
    expect(
      layOutTable(
        [
          { name: 'x', count: '–' },
          { name: 'y', count: '3' },
        ],
        COLUMNS.toReversed(),
        within(80),
      ),
    ).toEqual(['count  layer', '    –  x', '    3  y']);
  });

  test('leaves out a column without a value in any row', () => {
    expect(layOutTable([{ name: 'a', count: '–' }], COLUMNS, within(80))).toEqual(['layer', 'a']);
  });

  test('shortens names in their middle to keep the width', () => {
    const lines = layOutTable([{ name: 'backbone.layer4.2.downsample.1', count: '1' }], COLUMNS, within(30));
    expect(lines).toEqual(['layer                    count', 'backbon….2.downsample.1      1']);
    expect(lines.every((line) => line.length <= 30)).toBe(true);
  });

  test('never squeezes names below 12 characters', () => {
    expect(layOutTable([{ name: 'x'.repeat(40), count: '1' }], COLUMNS, within(5))[1]).toMatch(
      /^x+…x+ {2,}1$/,
    );
    expect(layOutTable([{ name: 'x'.repeat(40), count: '1' }], COLUMNS, within(5))[0]).toHaveLength(
      12 + 2 + 5,
    );
  });

  const DEEP = ['0.layers.1', '0.layers.2', '3.layers.12'].map((rest, index) => ({
    name: `resnet.encoder.stages.${rest}.normalization`,
    count: String(index),
  }));

  test('says once what all names begin and end with, before any name is cut', () => {
    expect(layOutTable(DEEP, COLUMNS, within(40))).toEqual([
      'resnet.encoder.stages.….normalization:',
      'layer        count',
      '0.layers.1       0',
      '0.layers.2       1',
      '3.layers.12      2',
    ]);
  });

  test('goes without bars first, then without spare columns', () => {
    const columns: readonly TableColumn<Row>[] = [
      ...COLUMNS,
      { title: 'spare', align: 'right', cell: () => 'xxxxx', isSpare: true },
      { title: 'bar', align: 'left', cell: () => '7', roomyCell: () => '▇▇▇▇▇▇▇▇ 7' },
    ];
    const header = (width: number) =>
      layOutTable(DEEP, columns, within(width)).slice(0, -DEEP.length).join('|');
    const row = (width: number) => layOutTable(DEEP, columns, within(width)).at(-1) ?? '';
    expect([row(80), row(73), row(72)].map((line) => line.includes('▇'))).toEqual([true, true, false]);
    for (const width of [72, 66])
      expect(row(width)).toMatch(/^resnet\.encoder\.stages\.3\.layers\.12\.normalization .* xxxxx {2}7$/);
    expect(header(65)).toMatch(/^resnet\.encoder\.stages\.…\.normalization:\|layer .*spare {2}bar$/);
    expect(header(30)).toContain('spare');
    expect(header(28)).not.toContain('spare');
    expect(row(28)).toMatch(/^3\.layers\.12 /);
  });

  test.each([12, 20, 26, 40, 60, 80, 120])('tells every row apart in %d columns', (width) => {
    const names = Array.from({ length: 60 }, (_, index) => ({
      name: `model.${'deep.'.repeat(index % 4)}stage${Math.floor(index / 6)}.block.${index}.norm.normalization`,
      count: '1',
    }));
    const lines = layOutTable(names, COLUMNS, within(width)).slice(-60);
    expect(new Set(lines).size).toBe(60);
  });

  test('cuts no name that shall stay whole, however narrow', () => {
    const lines = layOutTable(DEEP, COLUMNS, { tableWidth: 20, wholeNames: true });
    expect(lines.slice(1)).toEqual(DEEP.map(({ name, count }) => `${name.padEnd(47)}      ${count}`));
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
