// What `explain` knows: the pages of the docs, and each row of their tables of words, statuses and measures.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { lexer, type Token, type Tokens } from 'marked';
import { FINDING_KINDS, titleOf } from '../compare/findings.js';
import { nameTopic, UsageError } from '../errors.js';

/** What topics are, in the order in which they are listed. */
export const TOPIC_GROUPS = ['Findings', 'Statuses', 'Measures', 'Words', 'Pages'] as const;

/** What a topic is. */
type TopicGroup = (typeof TOPIC_GROUPS)[number];

/** Something that is explained. */
export interface Topic {
  /** What it is called: usually by the first of them. */
  readonly names: readonly string[];
  readonly group: TopicGroup;
  /** What a list says of it, in Markdown. */
  readonly summary: string;
  /** The page that has it, such as `docs/measures.md`. */
  readonly page: string;
  readonly readMarkdown: () => string;
}

/** The page with a section for each group of topics that are a row of a table. */
const TABLES_PAGE = 'docs/measures.md';

/** Pages about the sources, which are found but not listed. */
const FOR_CONTRIBUTORS = /^docs\/(?:architecture|fuzzing|releasing)\.md$/;

// Sources and bundles lie equally deep in the package.
const ROOT = join(import.meta.dirname, '../..');

/**
 * All topics.
 *
 * @throws UsageError where the package has been installed without its docs.
 */
export function listTopics(): readonly Topic[] {
  if (!existsSync(join(ROOT, TABLES_PAGE)))
    throw new UsageError(
      `expected ${TABLES_PAGE} in the package, found none`,
      'Install bn-audit as a whole, with its docs.',
    );
  const findings = FINDING_KINDS.map((kind) =>
    makePage(`docs/findings/${kind}.md`, { group: 'Findings', summary: titleOf(kind) }),
  );
  const pages = readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' })
    .map((name) => `docs/${name.replaceAll('\\', '/')}`)
    .filter((page) => page.endsWith('.md') && !findings.some((finding) => finding.page === page))
    .sort()
    .map((page) => makePage(page, { group: 'Pages', summary: readTitle(page) }));
  return [...findings, ...listRows(readDocs(TABLES_PAGE)), ...pages];
}

/** Whether a list of topics has it. */
export function isListed({ page }: Topic): boolean {
  return !FOR_CONTRIBUTORS.test(page);
}

/** The topic of a name, however it is spelled: `output shift` and `outputShift` are one. */
export function findTopic(name: string, topics: readonly Topic[]): Topic | undefined {
  const fold = (text: string) => text.toLowerCase().replace(/[^\p{L}\d]/gu, '');
  return topics.find(({ names }) => names.some((one) => fold(one) === fold(name)));
}

function readDocs(page: string): string {
  return readFileSync(join(ROOT, page), 'utf8');
}

function makePage(page: string, about: Pick<Topic, 'group' | 'summary'>): Topic {
  return { ...about, names: [nameTopic(page)], page, readMarkdown: () => readDocs(page) };
}

function readTitle(page: string): string {
  return /^# (.*)$/m.exec(readDocs(page))?.[1] ?? '';
}

/** A topic for each row of the tables: its first cell has the names, its last one says it shortest. */
function listRows(markdown: string): readonly Topic[] {
  return splitSections(lexer(markdown)).flatMap(([title, tokens]) => {
    const group = TOPIC_GROUPS.find((one) => one === title);
    const at = tokens.findIndex(({ type }) => type === 'table');
    if (group === undefined || at < 0) return [];
    const { header, rows } = tokens[at] as Tokens.Table;
    return rows.map((row): Topic => {
      const [name = '', ...cells] = row.map(({ text }) => text);
      const names = name
        .replace(/\(.*?\)|`/g, '')
        .split(',')
        .map((one) => one.trim());
      const about = cells
        .map((cell, index) => `| ${header[index + 1]?.text} | ${cell} |`)
        .filter((_, index) => cells[index] !== '');
      // What stands over a table is about all of its rows.
      const rest = tokens.filter(
        ({ raw }, index) => index < at || (index > at && names.some((one) => raw.includes(`\`${one}\``))),
      );
      const meaning = cells.length === 1 ? cells : ['| | |', '|-|-|', ...about];
      const text = [`# ${names.join(', ')}`, meaning.join('\n'), ...rest.map(({ raw }) => raw)].join('\n\n');
      return { names, group, summary: cells.at(-1) ?? '', page: TABLES_PAGE, readMarkdown: () => text };
    });
  });
}

/** What stands under each heading. */
function splitSections(
  tokens: readonly Token[],
): readonly (readonly [title: string, tokens: readonly Token[]])[] {
  const sections: [string, Token[]][] = [];
  for (const token of tokens) {
    if (token.type === 'heading') sections.push([String(token['text']), []]);
    else sections.at(-1)?.[1].push(token);
  }
  return sections;
}
