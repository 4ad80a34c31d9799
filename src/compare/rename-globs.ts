// Renames by glob: `**.bn*=**.norm*` turns `layer1.0.bn2` into `layer1.0.norm2`.

import { quote, UsageError } from '../errors.js';

/** Names and globs of more components than any model's have are not renamed. */
const MAX_COMPONENTS = 64;

/** Names that one glob may turn a name into, where it fits several parts of it. */
const MAX_READINGS = 4;

/** Whether this side of a rename is a glob; else it is a leading path. */
export function isRenameGlob(path: string): boolean {
  return path.includes('*');
}

/**
 * Makes sure that what the wildcards of FROM match has a place in TO: `*` is any part of one component, `**` any number
 * of whole ones, and the first wildcard of TO stands for what the first of FROM matched, and so on.
 *
 * @throws UsageError naming what is wrong.
 */
export function checkRename({ from, to }: { readonly from: string; readonly to: string }): void {
  if (!isRenameGlob(from) && !isRenameGlob(to)) return;
  const rename = quote(`${from}=${to}`);
  for (const component of [...from.split('.'), ...to.split('.')]) {
    if (component.includes('**') && component !== '**')
      throw new UsageError(
        `--map ${rename}: expected "**" in place of whole components, found ${quote(component)}`,
        'Within a component, "*" stands for any part of it: **.bn*=**.norm*',
      );
  }
  const [one, other] = [listWildcards(from), listWildcards(to)];
  if (one.join() !== other.join())
    throw new UsageError(
      `--map ${rename}: expected the same wildcards in the same order on both sides, found ${describe(one)} before "=" and ${describe(other)} behind it`,
      'What each wildcard matches is put in place of the same one on the right: **.bn*=**.norm*',
    );
  if (from.split('.').length > MAX_COMPONENTS)
    throw new UsageError(`--map ${rename}: expected at most ${MAX_COMPONENTS} components`);
}

function listWildcards(glob: string): readonly string[] {
  return glob.match(/\*+/g) ?? [];
}

function describe(wildcards: readonly string[]): string {
  return wildcards.length === 0 ? 'none' : wildcards.map((one) => `"${one}"`).join(' ');
}

/**
 * What a checked rename turns a name into, the readings by most of its components first; what stands behind those
 * stays: `**.bn*=**.norm*` turns `a.bn1.weight` into `a.norm1.weight`. Empty where it fits no leading part.
 */
export function renameByGlob(
  name: string,
  { from, to }: { readonly from: string; readonly to: string },
): readonly string[] {
  const [components, glob] = [name.split('.'), from.split('.')];
  if (components.length > MAX_COMPONENTS) return [];
  const reached = reach(glob, components);
  const ends = reached.at(-1) ?? [];
  const names: string[] = [];
  for (let end = components.length; end > 0 && names.length < MAX_READINGS; end--) {
    if (ends[end] !== true) continue;
    const captured = capture({ glob, components, reached }, end);
    names.push([...fill(to, captured), ...components.slice(end)].join('.'));
  }
  return names;
}

/** For each number of components of a glob, how many of a name's they may have read. */
type Reach = readonly (readonly boolean[])[];

function reach(glob: readonly string[], components: readonly string[]): Reach {
  const reached: boolean[][] = [Array.from({ length: components.length + 1 }, (_, index) => index === 0)];
  for (const part of glob) {
    const from = reached.at(-1) ?? [];
    const to: boolean[] = Array<boolean>(from.length).fill(false);
    for (let index = 0; index < from.length; index++) {
      const before = components[index - 1];
      if (part === '**') to[index] = from[index] === true || to[index - 1] === true;
      else if (before !== undefined && from[index - 1] === true)
        to[index] = fitComponent(part, before) !== null;
    }
    reached.push(to);
  }
  return reached;
}

/** What the wildcards of a glob match where it reads so many components of a name, each as a list of components. */
function capture(
  { glob, components, reached }: { glob: readonly string[]; components: readonly string[]; reached: Reach },
  end: number,
): readonly (readonly string[])[] {
  const captured: (readonly string[])[] = [];
  for (let at = glob.length - 1; at >= 0; at--) {
    const part = glob[at] ?? '';
    let start = end - 1;
    if (part === '**') {
      // The last of several takes the least.
      for (start = end; reached[at]?.[start] !== true; ) start--;
      captured.unshift(components.slice(start, end));
    } else captured.unshift(...(fitComponent(part, components[start] ?? '') ?? []).map((one) => [one]));
    end = start;
  }
  return captured;
}

/** What each `*` of a component matches, the first ones the least; null where it does not fit. */
function fitComponent(part: string, component: string): readonly string[] | null {
  const [head = '', ...tails] = part.split('*');
  const last = tails.at(-1);
  if (last === undefined) return part === component ? [] : null;
  if (!component.startsWith(head)) return null;
  const captured: string[] = [];
  let start = head.length;
  for (const [index, literal] of tails.entries()) {
    const isLast = index === tails.length - 1;
    const found = isLast ? component.length - literal.length : component.indexOf(literal, start);
    if (found < start || !component.startsWith(literal, found)) return null;
    captured.push(component.slice(start, found));
    start = found + literal.length;
  }
  return captured;
}

/** The components of a glob with what was captured in place of its wildcards. */
function fill(glob: string, captured: readonly (readonly string[])[]): readonly string[] {
  const rest = captured[Symbol.iterator]();
  const take = (): readonly string[] => rest.next().value ?? [];
  return glob
    .split('.')
    .flatMap((part) => (part === '**' ? take() : [part.replace(/\*/g, () => take().join(''))]));
}
