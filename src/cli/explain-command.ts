// `bn-audit explain`.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Argument, type Command } from 'commander';
import { FINDING_KINDS, type FindingKind, makeFinding, titleOf } from '../compare/findings.js';
import { UsageError } from '../errors.js';
import { wrapText } from '../report/text-layout.js';
import { createCommand } from './options.js';
import type { Looks, Terminal } from './terminal.js';

/** `bn-audit explain [KIND]`: the page of a kind of finding, or which kinds there are. */
export function createExplain(terminal: Terminal): Command {
  return createCommand('explain')
    .description('Print the page about a kind of finding: what it means, how it happens, how to fix it.')
    .addArgument(new Argument('[kind]', 'as a report names it; without it, all kinds').choices(FINDING_KINDS))
    .addHelpText(
      'after',
      `
Examples:
  bn-audit explain
  bn-audit explain frozen-stats-drift

Exit codes:
  0  printed
  2  there is no such kind`,
    )
    .action((kind: FindingKind | undefined) =>
      terminal.write(kind === undefined ? listKinds(terminal.readLooks()) : readPage(kind)),
    );
}

function listKinds({ width, paint }: Looks): string {
  const column = Math.max(...FINDING_KINDS.map(({ length }) => length));
  const lines = FINDING_KINDS.flatMap((kind) => {
    const [first = '', ...rest] = wrapText(titleOf(kind), { width, indent: ' '.repeat(column + 2) });
    return [paint('strong', kind) + first.slice(kind.length), ...rest];
  });
  return `${lines.join('\n')}\n\nbn-audit explain KIND prints the page of one.\n`;
}

function readPage(kind: FindingKind): string {
  const { docs } = makeFinding(kind, '', '');
  // Sources and bundles lie equally deep in the package.
  const path = join(import.meta.dirname, '../..', docs);
  if (existsSync(path)) return readFileSync(path, 'utf8');
  throw new UsageError(
    `expected ${docs} in the package, found none`,
    'Install bn-audit as a whole, with its docs.',
  );
}
