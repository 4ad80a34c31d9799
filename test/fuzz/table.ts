import type { FoundFault, Tally } from './engine.js';

/**
 * A line for each reader. Several runs of the same readers, one after the other, add up; corpus and coverage are those
 * of the last.
 */
export function renderTallies(
  runs: readonly (readonly (readonly [reader: string, tally: Tally])[])[],
  found: readonly Pick<FoundFault, 'reader'>[],
): string {
  const names = [...new Set(runs.flatMap((run) => run.map(([name]) => name)))];
  const all = runs.flat();
  const rows = names.map((name) => {
    const own = all.filter(([reader]) => reader === name).map(([, tally]) => tally);
    const [executions, seconds] = [sum(own, 'executions'), sum(own, 'seconds')];
    const { share, corpus } = own.at(-1) ?? {};
    return [
      name,
      String(executions),
      (executions / Math.max(seconds, 1)).toFixed(0),
      String(corpus ?? 0),
      `${share?.functions ?? 0}/${share?.allFunctions ?? 0}`,
      `${((share?.code ?? 0) * 100).toFixed(1)} %`,
      String(found.filter(({ reader }) => reader === name).length),
    ];
  });
  const total = String(all.reduce((count, [, { executions }]) => count + executions, 0));
  return renderTable([
    ['reader', 'executions', 'per second', 'corpus', 'functions', 'code', 'faults'],
    ...rows,
    ['all', total, '', '', '', '', String(found.length)],
  ]);
}

/** Rows of cells in columns, the first of which are words and the others numbers. */
export function renderTable(lines: readonly (readonly string[])[]): string {
  const widths =
    lines[0]?.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0))) ?? [];
  return lines
    .map((line) =>
      line
        .map((cell, column) =>
          column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join('  '),
    )
    .join('\n');
}

function sum(tallies: readonly Tally[], key: 'executions' | 'seconds'): number {
  return tallies.reduce((total, tally) => total + tally[key], 0);
}
