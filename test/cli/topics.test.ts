import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { findTopic, listTopics } from '../../src/cli/topics.js';
import { LAYER_STATUSES } from '../../src/compare/status.js';
import { layOutPage } from '../../src/report/lay-out-page.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const topics = listTopics();

test('no two topics share a name', () => {
  for (const topic of topics)
    for (const name of topic.names) expect([name, findTopic(name, topics)]).toEqual([name, topic]);
});

test('every page of the docs is a topic', () => {
  const pages = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`);
  expect(new Set(topics.map(({ page }) => page))).toEqual(new Set(pages));
});

test('statuses and measures are those of reports', () => {
  const namesOf = (group: string) =>
    topics.filter((topic) => topic.group === group).flatMap(({ names }) => names);
  expect(new Set(namesOf('Statuses'))).toEqual(new Set(LAYER_STATUSES));
  for (const name of ['meanShift', 'logStdRatio', 'divergence', 'outputShift', 'batches', 'channelsMoved'])
    expect(namesOf('Measures')).toContain(name);
});

test('links of pages lead to files', () => {
  for (const { page, readMarkdown } of topics)
    for (const link of layOutPage(readMarkdown(), {}).links) {
      if (/^https:/.test(link) || link.startsWith('#')) continue;
      expect(existsSync(join(root, dirname(page), link.split('#')[0] ?? '')), `${page}: ${link}`).toBe(true);
    }
});
