// Escaping for HTML, and the frame of the page.

import { createHash } from 'node:crypto';
import type { Outcome } from '../answer.js';
import { showSafely, splitPhrase, writePhrase } from '../any-report.js';
import { escapeJson } from '../json.js';

/** HTML that is safe to stand in a page: made by {@link html}, never from a string of a file. */
export interface Markup {
  readonly markup: string;
}

type Content = Markup | string | number | null | undefined | false | readonly Content[];

/** A template of HTML. Whatever is put into it is escaped, for text and for quoted attributes, unless it is markup. */
export function html(parts: TemplateStringsArray, ...contents: readonly Content[]): Markup {
  const text = parts.map(
    (part, index) => part + (index < contents.length ? toMarkup(contents[index] ?? null) : ''),
  );
  return { markup: text.join('') };
}

function toMarkup(content: Content): string {
  if (content === null || content === undefined || content === false) return '';
  if (typeof content === 'string')
    return content.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
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

/** Markup from text of the program's own: a style sheet, a script, a document type. */
function trustMarkup(markup: string): Markup {
  return { markup };
}

/** Names in sentences are cut to this many characters. */
const NAME_LENGTH = 60;

/** A phrase with its names set as code. */
export function markNames(phrase: string): Markup {
  return html`${splitPhrase(phrase).map((part, index) => (index % 2 === 1 ? html`<code><bdi>${showSafely(part, NAME_LENGTH)}</bdi></code>` : part))}`;
}

/** A phrase as plain text. */
export function unmarkNames(phrase: string): string {
  return writePhrase(phrase, (name) => showSafely(name, NAME_LENGTH));
}

/** A sentence of ours, or a title, with a capital. */
export function capitalize(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** JSON that cannot end a script element, start a comment in it, or be a command to a CI runner that reads the page. */
export function toScriptJson(value: unknown): Markup {
  const text = escapeJson(JSON.stringify(value)).replace(
    /[<>&]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return { markup: text };
}

/** What makes a page of its own. */
interface DocumentParts {
  readonly tool: { readonly name: string; readonly version: string };
  /** Plain text. */
  readonly title: string;
  readonly style: string;
  /** What stands in the page's body, but for the footer. */
  readonly body: Markup;
  /** What else made the page, as the footer says it. */
  readonly madeWith?: string;
  /** Data that the script reads, by the ids of their elements. */
  readonly data?: Readonly<Record<string, Markup>>;
  readonly script?: string;
}

/** One HTML page that needs no network and no server. */
export function renderDocument({
  tool,
  title,
  body,
  madeWith = '',
  style,
  ...scripts
}: DocumentParts): string {
  // Every script element of ours bears its type: a bare one is somebody else's.
  const { data = {}, script } = scripts;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${writeSecurityPolicy(style, script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="${tool.name} ${tool.version}">
<title>${title} – bn-audit</title>
<style>${trustMarkup(style)}</style>
</head>
<body>
${body}
<footer>Made by ${tool.name} ${tool.version}${madeWith}. Everything in this page is in this file; it loads nothing.</footer>
${Object.entries(data).map(([id, json]) => html`<script type="application/json" id="${id}">${json}</script>\n`)}${script === undefined ? null : html`<script type="text/javascript">${trustMarkup(script)}</script>\n`}</body>
</html>
`.markup;
}

/** A Content Security Policy: the page's own style and script, by hash; nothing else may load, run or be sent. */
function writeSecurityPolicy(style: string, script: string | undefined): string {
  return [
    "default-src 'none'",
    ...(script === undefined ? [] : [`script-src '${hashSource(script)}'`]),
    `style-src '${hashSource(style)}'`,
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
}

function hashSource(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}

/** The bar on top: the program's mark in the colour of the outcome, and links to the page's sections. */
export function renderTop(
  tool: DocumentParts['tool'],
  outcome: Outcome,
  links: readonly (readonly [id: string, title: string])[],
): Markup {
  return html`<header class="top">
<p class="brand"><svg class="mark ${outcome}" viewBox="0 0 20 20" aria-hidden="true"><path d="M2 10h3l2-6 4 12 3-9 1.5 3H18"/></svg>${tool.name}</p>
<nav aria-label="Sections">
${links.map(([id, title]) => html`<a href="#${id}">${title}</a>\n`)}</nav>
<div id="theme"></div>
</header>`;
}
