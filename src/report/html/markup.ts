import { escapeJson } from '../json.js';

/** HTML that is safe to stand in a page: made by {@link html}, never from a string of a file. */
export interface Markup {
  readonly markup: string;
}

type Content = Markup | string | number | null | false | readonly Content[];

/** A template of HTML. Whatever is put into it is escaped, for text and for quoted attributes, unless it is markup. */
export function html(parts: TemplateStringsArray, ...contents: readonly Content[]): Markup {
  const text = parts.map(
    (part, index) => part + (index < contents.length ? toMarkup(contents[index] ?? null) : ''),
  );
  return { markup: text.join('') };
}

function toMarkup(content: Content): string {
  if (content === null || content === false) return '';
  if (typeof content === 'string') return escapeHtml(content);
  if (typeof content === 'number') return String(content);
  return 'markup' in content ? content.markup : content.map(toMarkup).join('');
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
}

/** Markup from text of the program's own: a style sheet, a script, a document type. */
export function trustMarkup(markup: string): Markup {
  return { markup };
}

/** Marks a name within a sentence of our own, for {@link markNames}; no name holds the marks, which are controls. */
export function encloseName(name: string): string {
  return `\u0002${name}\u0003`;
}

/** A sentence with its enclosed names set as code. */
export function markNames(sentence: string): Markup {
  return html`${sentence.split(/\u0002([^\u0003]*)\u0003/).map((part, index) => (index % 2 === 1 ? html`<code><bdi>${part}</bdi></code>` : part))}`;
}

/** The sentence as plain text. */
export function unmarkNames(sentence: string): string {
  return sentence.replace(/[\u0002\u0003]/g, '');
}

/** JSON that cannot end a script element, start a comment in it, or be a command to a CI runner that reads the page. */
export function toScriptJson(value: unknown): Markup {
  const text = escapeJson(JSON.stringify(value)).replace(
    /[<>&]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return { markup: text };
}
