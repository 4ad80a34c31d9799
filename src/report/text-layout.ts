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
}

/**
 * A report's text in pieces, in order, which may be made as they are asked for: whoever writes them need not hold it all.
 * No string, although that is iterable too: it would be written character by character.
 */
export type Pieces = Iterable<string> & object;

/** {@link TextOptions} with what was left out filled in. */
export interface TextLayout {
  readonly width: number;
  readonly paint: Paint;
  readonly all: boolean;
}

/** Fills in what options leave out. */
export function chooseLayout({ width = 80, paint = plain, all = false }: TextOptions): TextLayout {
  return { width, paint, all };
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
}

/** Columns between two cells. */
const GAP = 2;

/** A name column is never squeezed below this. */
const MIN_NAME_WIDTH = 12;

/** What a cell without a value holds. */
export const NO_VALUE = '–';

/**
 * Lays out a table, one line a row, the header first. A column without a value in any row is left out. The first
 * column takes what width the others leave; longer names lose their middle, since both ends tell layers apart.
 */
export function layOutTable<Row>(
  rows: readonly Row[],
  allColumns: readonly TableColumn<Row>[],
  width: number,
): readonly string[] {
  const columns = allColumns.filter(({ cell }) => rows.some((row) => cell(row).trim() !== NO_VALUE));
  const cells = rows.map((row) => columns.map(({ cell }) => cell(row)));
  const widths = columns.map(({ title }, index) =>
    Math.max(lengthOf(title), ...cells.map((line) => lengthOf(line[index] ?? ''))),
  );
  const others = widths.slice(1).reduce((sum, size) => sum + size + GAP, 0);
  widths[0] = Math.min(widths[0] ?? 0, Math.max(MIN_NAME_WIDTH, width - others));
  const layOut = (line: readonly string[]) =>
    line
      .map((text, index) => {
        const size = widths[index] ?? 0;
        const shown = index === 0 ? shortenMiddle(text, size) : text;
        const padding = ' '.repeat(Math.max(0, size - lengthOf(shown)));
        return columns[index]?.align === 'right' ? padding + shown : shown + padding;
      })
      .join(' '.repeat(GAP))
      .trimEnd();
  return [layOut(columns.map(({ title }) => title)), ...cells.map(layOut)];
}

/** Text wrapped at spaces to a width, each line indented; a word that fits no line loses its middle. */
export function wrapText(
  text: string,
  { width, indent }: { width: number; indent: string },
): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ').map((one) => shortenMiddle(one, width - lengthOf(indent)))) {
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

/** What GitHub's runner takes for a command: colons at the beginning of a line, behind what is white or has no width. */
const LINE_COMMAND = /^((?:(?![\r\n\u2028\u2029])[\s\p{DI}])*):(?=\p{DI}*:)/gmu;

/**
 * Text in which nothing is a command to a CI server that reads it from a log, also where it comes from a name in a file:
 * no line is one to GitHub's runner, and no part of a line a {@link LOG_COMMAND}.
 */
export function defuseCommands(text: string): string {
  return text.replace(LINE_COMMAND, '$1\\x3a').replace(LOG_COMMAND, '\\x23');
}

/** Text of at most `width` characters, with `…` for what its middle lost. */
export function shortenMiddle(text: string, width: number): string {
  const characters = [...text];
  if (characters.length <= width) return text;
  const kept = Math.max(1, width - 1);
  const head = Math.floor(kept / 3);
  return `${characters.slice(0, head).join('')}…${characters.slice(characters.length - (kept - head)).join('')}`;
}

/** Characters as a terminal counts them, near enough: one a code point. */
function lengthOf(text: string): number {
  return [...text].length;
}
