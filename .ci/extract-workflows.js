// Writes the workflows that docs/ci/github-actions.md shows into a folder, for linters: node .ci/extract-workflows.js FOLDER
// Steps that stand alone are put into a workflow around them.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PAGE = fileURLToPath(new URL('../docs/ci/github-actions.md', import.meta.url));

const FRAME = `name: Steps of the page
on: pull_request
permissions: {}
concurrency:
  group: steps-\${{ github.ref }}
  cancel-in-progress: true
jobs:
  steps:
    name: Steps
    runs-on: ubuntu-latest
    permissions:
      contents: read # to check out
    steps:
`;

/** The blocks of a page that are YAML of GitHub Actions, each a whole workflow. */
export function listWorkflows(page) {
  const blocks = [...page.matchAll(/(?:^(?: {4}.*)?\n)+/gm)].map(([block]) => block.replace(/^ {4}/gm, ''));
  return blocks.flatMap((block) => {
    if (/^jobs:$/m.test(block)) return [block.trimStart()];
    if (!/^ *- (?:uses|run|if|id): /m.test(block)) return [];
    const indent = /^ *(?=- )/m.exec(block)?.[0].length ?? 0;
    const steps = block
      .trimEnd()
      .split('\n')
      .map((line) => line.slice(indent));
    return [
      FRAME +
        steps
          .map((line) => (line === '' ? '' : `      ${line}`))
          .join('\n')
          .replace(/^\n+/, '') +
        '\n',
    ];
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = process.argv[2] ?? '';
  mkdirSync(folder, { recursive: true });
  for (const [index, workflow] of listWorkflows(readFileSync(PAGE, 'utf8')).entries())
    writeFileSync(join(folder, `page-${index + 1}.yml`), workflow);
}
