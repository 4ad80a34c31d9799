// Lays out a page of the docs for a terminal: its Markdown without marks, as wide as the terminal.

import { lexer, type Token, type Tokens } from 'marked';
import { layOutTerms } from './text.js';
import { chooseLayout, layOutTable, type TextLayout, type TextOptions, wrapText } from './text-layout.js';

type Lines = readonly string[];

/** A page as a terminal shows it, in blocks with empty lines between them, and where its links lead. */
interface PageLayout {
  readonly blocks: readonly Lines[];
  readonly links: ReadonlySet<string>;
}

/** Lays out Markdown. Lines are wrapped; code, and words that are wider than a line, stay whole. */
export function layOutPage(markdown: string, options: TextOptions): PageLayout {
  const links = new Set<string>();
  const layout = { ...chooseLayout(options), wholeNames: true };
  return { blocks: layOutTokens(lexer(markdown), { layout, indent: '', links }), links };
}

interface Place {
  readonly layout: TextLayout;
  /** What the lines begin with. */
  readonly indent: string;
  /** Gathers the links that are met. */
  readonly links: Set<string>;
}

function layOutTokens(tokens: readonly Token[], place: Place): readonly Lines[] {
  return tokens.flatMap((token) => layOutToken(token, place));
}

function layOutToken(token: Token, place: Place): readonly Lines[] {
  const { layout, indent, links } = place;
  const wrap = () => wrapText(say([token], links), { ...layout, indent });
  switch (token.type) {
    case 'heading':
      return [wrap().map((line) => layout.paint('strong', line))];
    // Text is a paragraph of a list without empty lines.
    case 'paragraph':
    case 'text':
      return [wrap()];
    case 'code':
      return [
        String(token['text'])
          .trimEnd()
          .split('\n')
          .map((line) => (line === '' ? '' : `${indent}    ${line}`)),
      ];
    case 'list':
      return layOutList(token as Tokens.List, place);
    case 'table':
      return layOutCells(token as Tokens.Table, place);
    case 'blockquote':
      return layOutTokens(token['tokens'] ?? [], { ...place, indent: `${indent}  ` });
    default:
      return [];
  }
}

function layOutList({ ordered, start, items, loose }: Tokens.List, place: Place): readonly Lines[] {
  const laidOut = items.map((item, index): readonly Lines[] => {
    const mark = ordered ? `${Number(start) + index}. ` : '- ';
    const indent = place.indent + ' '.repeat(mark.length);
    const [[first = '', ...rest] = [], ...others] = layOutTokens(item.tokens, { ...place, indent });
    return [[place.indent + mark + first.slice(indent.length), ...rest], ...others];
  });
  return loose ? laidOut.flat() : [laidOut.flat(2)];
}

/** A table where it fits, else a paragraph a row. One of terms and what they mean is shown as such. */
function layOutCells({ header, rows, align }: Tokens.Table, place: Place): readonly Lines[] {
  const { layout, indent, links } = place;
  const titles = header.map(({ tokens }) => say(tokens, links));
  const texts = rows.map((row) => row.map(({ tokens }) => say(tokens, links)));
  const layOutPairs = (pairs: readonly (readonly string[])[], margin: string) =>
    layOutTerms(
      pairs.map(([term = '', meaning = '']) => [term, meaning]),
      layout,
      margin,
    );
  if (titles.every((title) => title === '')) return [layOutPairs(texts, `${indent}  `)];
  const columns = titles.map((title, index) => ({
    title,
    align: align[index] === 'right' ? ('right' as const) : ('left' as const),
    cell: (row: readonly string[]) => row[index] ?? '',
  }));
  const [head = '', ...body] = layOutTable(texts, columns, layout).map((line) => indent + line);
  if ([head, ...body].every((line) => [...line].length <= layout.tableWidth))
    return [[layout.paint('faint', head), ...body]];
  if (titles.length === 2) return [layOutPairs(texts, `${indent}  `)];
  return texts.map(([name = '', ...cells]) => [
    ...wrapText(name, { ...layout, indent }),
    ...layOutPairs(
      cells.map((cell, index) => [titles[index + 1] ?? '', cell]).filter(([, cell]) => cell !== ''),
      `${indent}  `,
    ),
  ]);
}

/** A phrase without its marks; code keeps its own, since it may be one letter. */
function say(tokens: readonly Token[], links: Set<string>): string {
  return tokens
    .map((token): string => {
      if (token.type === 'link') links.add(String(token['href']));
      if (token.type === 'codespan') return `\`${token['text']}\``;
      if (token.type === 'br') return ' ';
      if ('tokens' in token && token.tokens !== undefined) return say(token.tokens, links);
      return 'text' in token ? String(token.text) : '';
    })
    .join('')
    .replace(/\s+/g, ' ');
}
