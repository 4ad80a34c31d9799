// `bn-audit explain`.

import { posix } from 'node:path';
import type { Command } from 'commander';
import { findAddress, nameTopic, quote, UsageError } from '../errors.js';
import { suggestName } from '../options.js';
import { layOutPage } from '../report/lay-out-page.js';
import { layOutCommands } from '../report/text.js';
import { chooseLayout, writeBlocks } from '../report/text-layout.js';
import { createCommand } from './options.js';
import type { Terminal } from './terminal.js';
import { findTopic, isListed, listTopics, TOPIC_GROUPS, type Topic } from './topics.js';

/** `bn-audit explain [TOPIC]`: what a word of a report means, or what can be explained. */
export function createExplain(terminal: Terminal): Command {
  return createCommand('explain')
    .description('Explain a kind of finding, a status, a measure or a word, or print a page of the docs.')
    .argument('[topic...]', 'as a report names it; without it, a list of all')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit explain
  bn-audit explain frozen-stats-drift
  bn-audit explain output shift
  bn-audit explain folding

Exit codes:
  0  printed
  2  there is no such topic`,
    )
    .action((words: readonly string[]) => {
      const topics = listTopics();
      const layout = chooseLayout(terminal.readLooks());
      const topic = words.length === 0 ? null : requireTopic(words.join(' '), topics);
      const { blocks, links } = layOutPage(topic?.readMarkdown() ?? writeList(topics), layout);
      const more = topic === null ? ['bn-audit explain TOPIC'] : listFurther(topic, links, topics);
      return terminal.write([...writeBlocks([...blocks, layOutCommands('more', more, layout)])].join(''));
    });
}

function requireTopic(name: string, topics: readonly Topic[]): Topic {
  const topic = findTopic(name, topics);
  if (topic !== undefined) return topic;
  const names = topics.flatMap((one) => one.names);
  throw new UsageError(
    `${quote(name)}: no such topic${suggestName(name, names)}`,
    'All topics: bn-audit explain',
  );
}

/** What can be explained, as a page. Of words the names tell enough. */
function writeList(topics: readonly Topic[]): string {
  return TOPIC_GROUPS.flatMap((group) => {
    const members = topics.filter((topic) => topic.group === group && isListed(topic));
    if (group === 'Words') return [`# ${group}`, members.flatMap(({ names }) => names).join(', ')];
    const rows = members.map(({ names, summary }) => `| ${names.join(', ')} | ${summary} |`);
    return [`# ${group}`, ['| | |', '|-|-|', ...rows].join('\n')];
  }).join('\n\n');
}

/** Where to read on: the pages that a topic links to, and the one that it is a part of. */
function listFurther(
  { page, names }: Topic,
  links: ReadonlySet<string>,
  topics: readonly Topic[],
): readonly string[] {
  const own = names.includes(nameTopic(page)) ? [] : [page];
  const targets = [...links].map((href) => {
    if (/^https?:/.test(href)) return href;
    const [path = ''] = href.split('#');
    return path === '' ? page : posix.join(posix.dirname(page), path);
  });
  const found = [...new Set([...own, ...targets])].filter(
    (target) => own.includes(target) || target !== page,
  );
  return found.flatMap((target) => {
    if (/^https?:/.test(target)) return [target];
    if (topics.some((topic) => topic.page === target)) return [`bn-audit explain ${nameTopic(target)}`];
    return findAddress(target) ?? [];
  });
}
