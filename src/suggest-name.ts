/** More changes than this make another word. */
const MAX_CHANGES = 3;

/** `; did you mean "…"?` with the known name that is nearest to the one given; empty where none is near. */
export function suggestName(name: string, known: readonly string[]): string {
  if (name.length > 80) return '';
  const ranked = known
    .map((candidate) => ({ candidate, changes: countChanges(fold(name), fold(candidate)) }))
    .filter(({ candidate, changes }) => changes <= Math.min(MAX_CHANGES, candidate.length / 2))
    .sort((x, y) => x.changes - y.changes);
  const [nearest] = ranked;
  return nearest === undefined ? '' : `; did you mean "${nearest.candidate}"?`;
}

/** `fail-on`, `fail_on` and `failOn` are the same word. */
function fold(name: string): string {
  return name.toLowerCase().replace(/[-_]/g, '');
}

/** Levenshtein distance: how many characters must be added, taken away or replaced. */
function countChanges(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
