// Lays out text for a terminal: wrapping, columns, colours, and escapes for what could steer it.

import { escapeControls, LOG_COMMAND } from '../errors.js';

/** How a piece of text is emphasised; colour only underlines what the words say already. */
export type Tone = 'error' | 'warning' | 'good' | 'strong' | 'faint';

/** Puts emphasis on text. The identity where there is no colour. */
export type Paint = (tone: Tone, text: string) => string;

/** No colour. */
export const plain: Paint = (_, text) => text;

/** How a text report is laid out. */
export interface TextOptions {
  /** Columns; 80 unless given. */
  readonly width?: number | undefined;
  /** Show names whole, however long: what is no terminal is searched and copied from. So it is unless a width is given. */
  readonly wholeNames?: boolean | undefined;
  readonly paint?: Paint | undefined;
  /** Show every layer and finding, not the worst alone. */
  readonly all?: boolean | undefined;
}

/** What a renderer may be told. */
export interface RendererOptions extends TextOptions {
  /** A repository's directory: absolute paths under it become relative. */
  readonly root?: string | undefined;
  /** In text, show this layer alone, channel by channel; the audit must have kept channels. */
  readonly layer?: string | undefined;
}

/** What the command line tells a renderer besides. */
export interface PrintingOptions extends RendererOptions {
  /** Where the working directory, which relative paths start from, lies in the root; they stay as they are without. */
  readonly directory?: string | undefined;
  /** Leave out the values of channels, which were kept for another report. */
  readonly omitsChannels?: boolean | undefined;
  /** What a command that goes on from an audit must be told besides: `['--map', 'a=b']`. */
  readonly matching?: readonly string[] | undefined;
}

/**
 * A report's text in pieces, in order, which may be made as they are asked for: whoever writes them need not hold it all.
 * No string, although that is iterable too: it would be written character by character.
 */
export type Pieces = Iterable<string> & object;

/** {@link TextOptions} with what was left out filled in. */
export interface TextLayout {
  /** Columns of sentences. */
  readonly width: number;
  /** Columns of tables. */
  readonly tableWidth: number;
  readonly wholeNames: boolean;
  readonly paint: Paint;
  readonly all: boolean;
}

const DEFAULT_WIDTH = 80;

/** Longer lines of prose are hard to read. */
const MAX_SENTENCE_WIDTH = 120;

/** Fills in what options leave out. */
export function chooseLayout({ width, wholeNames, paint = plain, all = false }: TextOptions): TextLayout {
  const tableWidth = width ?? DEFAULT_WIDTH;
  return {
    width: Math.min(tableWidth, MAX_SENTENCE_WIDTH),
    tableWidth,
    wholeNames: wholeNames ?? width === undefined,
    paint,
    all,
  };
}

/** Blocks of lines as text, an empty line between them; empty blocks are left out. */
export function* writeBlocks(blocks: Iterable<readonly string[]>): Pieces {
  let gap = '';
  for (const lines of blocks) {
    if (lines.length === 0) continue;
    yield defuseCommands(`${gap}${lines.join('\n')}\n`);
    gap = '\n';
  }
}

/** A column of a text table. */
export interface TableColumn<Row> {
  readonly title: string;
  readonly align: 'left' | 'right';
  readonly cell: (row: Row) => string;
  /** The cell where the line has room for more. */
  readonly roomyCell?: (row: Row) => string;
  /** Whether a line without room goes without it. */
  readonly isSpare?: boolean | undefined;
}

/** Columns between two cells. */
const GAP = 2;

/** Spare columns go before names are squeezed below this; below half of it they never are. */
const MIN_NAME_WIDTH = 24;

/** What a cell without a value holds. */
export const NO_VALUE = '–';

/**
 * Lays out a table, one line a row, the header first. A column without a value in any row is left out. Where the lines are
 * too wide, bars go first; then what all names begin and end with, which a line over the header says once; then spare
 * columns, the first ones first; at last names lose a part that leaves them different. Whole names lose nothing.
 */
export function layOutTable<Row>(
  rows: readonly Row[],
  columns: readonly TableColumn<Row>[],
  { tableWidth: width, wholeNames }: Pick<TextLayout, 'tableWidth' | 'wholeNames'>,
): readonly string[] {
  const roomy = columns
    .map(({ cell, roomyCell, align, ...column }) => ({
      ...column,
      // What is roomy begins with its bar.
      align: roomyCell === undefined ? align : ('left' as const),
      texts: rows.map(roomyCell ?? cell),
    }))
    .filter(({ texts }) => texts.some((text) => text.trim() !== NO_VALUE));
  if (measure(roomy) <= width) return layOutColumns(roomy);
  const [names, ...others] = columns
    .map(({ cell, roomyCell: _, ...column }) => ({ ...column, texts: rows.map(cell) }))
    .filter(({ texts }) => texts.some((text) => text.trim() !== NO_VALUE));
  if (names === undefined) return [];
  if (wholeNames || measure([names, ...others]) <= width) return layOutColumns([names, ...others]);
  const path = findCommonPath(names.texts);
  const ending = findCommonEnding(names.texts.map((text) => text.slice(path.length)));
  const isShared = path !== '' || ending !== '';
  const head = isShared ? [`${shortenMiddle(`${path}…${ending}`, width - 1)}:`] : [];
  const texts = names.texts.map((text) => text.slice(path.length, text.length - ending.length));
  let needed = others;
  const roomLeft = () => width - measure(needed) - GAP;
  const wanted = Math.min(measureColumn({ ...names, texts }), MIN_NAME_WIDTH);
  while (roomLeft() < wanted) {
    const spare = needed.findIndex(({ isSpare }) => isSpare === true);
    if (spare < 0) break;
    needed = needed.toSpliced(spare, 1);
  }
  const room = Math.max(MIN_NAME_WIDTH / 2, roomLeft());
  return [...head, ...layOutColumns([{ ...names, texts: shortenApart(texts, room) }, ...needed])];
}

/** A column with the texts of its cells. */
type FilledColumn = Pick<TableColumn<never>, 'title' | 'align' | 'isSpare'> & {
  readonly texts: readonly string[];
};

function measureColumn({ title, texts }: FilledColumn): number {
  return texts.reduce((size, text) => Math.max(size, lengthOf(text)), lengthOf(title));
}

function measure(columns: readonly FilledColumn[]): number {
  return columns.reduce((sum, column) => sum + measureColumn(column) + GAP, -GAP);
}

function layOutColumns(columns: readonly FilledColumn[]): readonly string[] {
  const padded = columns.map((column) => {
    const size = measureColumn(column);
    return [column.title, ...column.texts].map((text) => {
      const padding = ' '.repeat(size - lengthOf(text));
      return column.align === 'right' ? padding + text : text + padding;
    });
  });
  const [first = []] = padded;
  return first.map((_, line) =>
    padded
      .map((texts) => texts[line])
      .join(' '.repeat(GAP))
      .trimEnd(),
  );
}

/** The module path that several names begin with, its last dot included: `encoder.stages.`; empty where there is none. */
function findCommonPath(names: readonly string[]): string {
  const [first = '', ...others] = names;
  if (others.length === 0) return '';
  let length = first.length;
  for (const name of others) {
    let same = 0;
    while (same < length && first[same] === name[same]) same++;
    length = same;
  }
  return first.slice(0, first.lastIndexOf('.', length - 1) + 1);
}

/** The modules that several names end with, the dot before them included: `.normalization`. */
function findCommonEnding(names: readonly string[]): string {
  const reversed = names.map((name) => [...name].reverse().join(''));
  return [...findCommonPath(reversed)].reverse().join('');
}

/** The shares of what is kept that stand before the cut, as they are tried. */
const HEAD_SHARES = [1 / 3, 0, 2 / 3];

/** Names of at most `width` characters, or of a few more where they would not differ else. */
function shortenApart(names: readonly string[], width: number): readonly string[] {
  const different = new Set(names).size;
  for (let room = width; ; room = Math.ceil(room * 1.25))
    for (const share of HEAD_SHARES) {
      const shown = names.map((name) => shortenMiddle(name, room, share));
      if (new Set(shown).size === different) return shown;
    }
}

/** Text wrapped at spaces to a width, each line indented; a word that fits no line loses its middle unless names stay whole. */
export function wrapText(
  text: string,
  { width, indent, wholeNames = false }: { width: number; indent: string; wholeNames?: boolean },
): readonly string[] {
  const lines: string[] = [];
  let line = '';
  const longest = wholeNames ? Number.POSITIVE_INFINITY : width - lengthOf(indent);
  for (const word of text.split(' ').map((one) => shortenMiddle(one, longest))) {
    if (line !== '' && lengthOf(indent) + lengthOf(line) + 1 + lengthOf(word) > width) {
      lines.push(indent + line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return line === '' ? lines : [...lines, indent + line];
}

/** A name from a file as a terminal may show it: nothing in it steers the terminal, and it is at most `width` long. */
export function showName(name: string, width = 120): string {
  return shortenMiddle(name === '' ? '(root)' : escapeControls(name), width);
}

/** No real model has longer names; each row of a table is as wide as the longest. */
export const MAX_NAME_LENGTH = 400;

/** {@link showName} as a layout has it: of at most `width` characters, unless names stay whole. */
export function fitName(name: string, width: number, { wholeNames }: Pick<TextLayout, 'wholeNames'>): string {
  return showName(name, wholeNames ? MAX_NAME_LENGTH : width);
}

/** What GitHub's runner takes for a command: colons at the beginning of a line, behind what is white or has no width. */
const LINE_COMMAND = /^((?:(?![\r\n\u2028\u2029])[\s\p{DI}])*):(?=\p{DI}*:)/gmu;

/**
 * Text in which nothing is a command to a CI server that reads it from a log, also where it comes from a name in a file:
 * no line is one to GitHub's runner, and no part of a line a {@link LOG_COMMAND}.
 */
export function defuseCommands(text: string): string {
  return text.replace(LINE_COMMAND, '$1\\x3a').replace(LOG_COMMAND, '\\x23');
}

/** Text of at most `width` characters, with `…` for what it lost; `headShare` of what is kept stands before that. */
export function shortenMiddle(text: string, width: number, headShare: number = 1 / 3): string {
  const characters = [...text];
  if (characters.length <= width) return text;
  const kept = Math.max(1, width - 1);
  const head = Math.floor(kept * headShare);
  return `${characters.slice(0, head).join('')}…${characters.slice(characters.length - (kept - head)).join('')}`;
}

/** Characters as a terminal counts them, near enough: one a code point. */
function lengthOf(text: string): number {
  return [...text].length;
}
