// Globs over layer names, e.g. `backbone.**`, for --select and --allow.

import { quote, UsageError } from '../errors.js';
import { isUnder, withoutSureWrappers } from '../norm/naming.js';
import { listLayerNames } from '../norm/norm-layer.js';
import { findNearest, MAX_GLOB_LENGTH } from '../options.js';

/** Steps that each character of a name may take; `**.bn1` takes ten. */
const FREE_STEPS = 64;

/** What one glob may take beyond that for all the names that it is held against: half a second. */
const MAX_STEPS = 50_000_000;

/**
 * A matcher for globs over module paths with `.` as the separator: `*` is one component, `**` any number. A glob
 * that matches a module means everything below it too, as in a .gitignore: `backbone` covers `backbone.layer1.bn1`.
 *
 * @throws UsageError as {@link Glob}.
 */
export function matchPaths(globs: readonly string[]): (path: string) => boolean {
  const compiled = globs.map((glob) => new Glob(glob, { separators: './', seesHidden: true }));
  return (path) => globs.some((glob) => isUnder(path, glob)) || compiled.some((glob) => covers(glob, path));
}

function covers(glob: Glob, path: string): boolean {
  let reached = glob.start;
  for (let begin = 0; reached.length > 0; ) {
    const dot = path.indexOf('.', begin);
    reached = glob.readComponent(reached, path.slice(begin, dot < 0 ? path.length : dot));
    if (glob.isMatch(reached)) return true;
    if (dot < 0) return false;
    reached = glob.readSeparator(reached);
    begin = dot + 1;
  }
  return false;
}

/** Whether what goes by several names is meant by a list of globs, whichever of the names they use. */
export type NameMatcher = (names: readonly string[]) => boolean;

/**
 * A matcher like that of {@link matchPaths} for layers and tensors, each with all of its names. A glob that means none
 * of them is read without its wrappers: `module.backbone` means what `backbone` does.
 *
 * @throws UsageError as {@link Glob}.
 */
export function matchNames(globs: readonly string[], all: readonly (readonly string[])[]): NameMatcher {
  const resolved = globs.map((glob) => {
    const bare = withoutSureWrappers(glob);
    if (bare === glob) return glob;
    const isMeant = matchPaths([glob]);
    return all.some((names) => names.some(isMeant)) ? glob : bare;
  });
  const isMatch = matchPaths(resolved);
  // Most names of a layer are one and the same.
  return (names) => [...new Set(names)].some(isMatch);
}

/** The globs that mean nothing among these names. */
export function findIdle(globs: readonly string[], all: readonly (readonly string[])[]): readonly string[] {
  return globs.filter((glob) => !all.some(matchNames([glob], all)));
}

/** `; did you mean "…"?` with the module that is nearest to a glob without wildcards; empty where none is near. */
export function suggestModule(glob: string, all: readonly (readonly string[])[]): string {
  const depth = glob.split('.').length;
  const modules = new Set(all.flatMap((names) => names.map((name) => name.split('.', depth).join('.'))));
  const nearest = /[*?[{]/.test(glob) || glob.length > MAX_SUGGESTED ? null : findNearest(glob, [...modules]);
  return nearest === null ? '' : `; did you mean ${quote(nearest)}?`;
}

/** Longer globs are compared with no names. */
const MAX_SUGGESTED = 80;

type NamedLayer = Parameters<typeof listLayerNames>[0];

/**
 * Whether a layer is meant by the globs of `--layer`.
 *
 * @throws UsageError for a glob that matches none of the layers.
 */
export function matchLayers(
  layers: readonly NamedLayer[],
  globs: readonly string[],
  hint?: string,
): (layer: NamedLayer) => boolean {
  const names = layers.map(listLayerNames);
  const [idle] = findIdle(globs, names);
  if (idle !== undefined)
    throw new UsageError(
      `--layer ${quote(idle)} matches no norm layer of both checkpoints${suggestModule(idle, names)}`,
      hint,
    );
  const isNamed = matchNames(globs, names);
  return (layer) => isNamed(listLayerNames(layer));
}

/** The places in a glob that what was read of a path may have led to. Where there is none, nothing below matches. */
export type Reached = readonly number[];

/**
 * A glob: `*` and `?` stand for any characters and one of a component, `**` in place of a component for any number of
 * them, `[a-z]` and `[!a-z]` for one character, `{a,b}` for either, `{1..12}` for a number; a backslash takes its
 * meaning from the next character. Everything else, and what is not closed, stands for itself.
 *
 * All places that a path may have led to are followed at once (Thompson, Regular expression search algorithm, 1968):
 * the steps are at most the length of the glob by that of the path, whatever they are made of.
 *
 * @throws UsageError for a glob that is empty or too long, and from reading, where it takes too many steps.
 */
export class Glob {
  /** What is reached before anything is read. */
  readonly start: Reached;
  /** What reading has cost so far. */
  stepCount = 0;
  readonly #text: string;
  readonly #seesHidden: boolean;
  readonly #nodes: readonly Node[];
  readonly #end: number;
  /** In which round each node was reached last. */
  readonly #seen: Uint32Array;
  #round = 0;
  #excess = 0;

  /**
   * @param separators what separates components in the glob.
   * @param seesHidden whether wildcards match a dot at the beginning of a component.
   */
  constructor(text: string, { separators, seesHidden }: { separators: string; seesHidden: boolean }) {
    if (text === '') throw new UsageError('expected a glob, found an empty one');
    if (text.length > MAX_GLOB_LENGTH)
      throw new UsageError(
        `expected a glob of at most ${MAX_GLOB_LENGTH} characters, found ${text.length}: ${quote(text)}`,
      );
    const { nodes } = new GlobParser(text, separators);
    this.#text = text;
    this.#seesHidden = seesHidden;
    this.#nodes = nodes;
    this.#end = nodes.length - 1;
    this.#seen = new Uint32Array(nodes.length);
    this.start = this.#follow([0]);
  }

  isMatch(reached: Reached): boolean {
    return reached.includes(this.#end);
  }

  readComponent(from: Reached, component: string): Reached {
    let reached = from;
    let isFirst = true;
    for (const character of component) {
      if (reached.length === 0) break;
      const isHidden = isFirst && character === '.' && !this.#seesHidden;
      reached = this.#step(reached, character.codePointAt(0) ?? 0, isHidden);
      isFirst = false;
    }
    return reached;
  }

  readSeparator(from: Reached): Reached {
    return this.#step(from, SEPARATOR, false);
  }

  #step(from: Reached, character: number, isHidden: boolean): Reached {
    const next: number[] = [];
    const before = this.stepCount;
    for (const id of from) {
      const node = this.#nodes[id];
      if (node === undefined || node.reading === null || (isHidden && node.reading.isWild === true)) continue;
      this.stepCount += node.reading.ranges.length;
      if (accepts(node.reading, character)) next.push(...node.next);
    }
    const found = this.#follow(next);
    this.#excess += Math.max(0, this.stepCount - before - FREE_STEPS);
    if (this.#excess <= MAX_STEPS) return found;
    throw new UsageError(
      `the glob ${quote(this.#text)} takes more than ${MAX_STEPS} steps to match all names`,
      'Write it with fewer wildcards, or several globs in its place.',
    );
  }

  /** The nodes that read, from some on: on a stack of its own, since braces nest as deep as a glob is long. */
  #follow(stack: number[]): Reached {
    const found: number[] = [];
    this.#round++;
    for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
      const node = this.#nodes[id];
      if (node === undefined || this.#seen[id] === this.#round) continue;
      this.#seen[id] = this.#round;
      this.stepCount++;
      if (node.reading === null) stack.push(...node.next);
      if (node.reading !== null || id === this.#end) found.push(id);
    }
    return found;
  }
}

/** Stands for a separator among code points: no class and no wildcard but `**` matches it. */
const SEPARATOR = -1;
const LAST_CODE_POINT = 0x10ffff;

/** What a place in a glob reads: pairs of a first and a last code point, and whether it reads all but these. */
interface Reading {
  readonly ranges: readonly number[];
  readonly isNegated?: boolean;
  /** Whether it is none of the glob's own characters. */
  readonly isWild?: boolean;
}

const ONE_SEPARATOR: Reading = { ranges: [SEPARATOR, SEPARATOR] };
const ANY: Reading = { ranges: [0, LAST_CODE_POINT], isWild: true };
const ALL: Reading = { ranges: [SEPARATOR, LAST_CODE_POINT], isWild: true };

/** A place in a glob, and those behind it; without a reading it leads on to them at once. */
interface Node {
  readonly reading: Reading | null;
  readonly next: number[];
}

function accepts({ ranges, isNegated = false }: Reading, character: number): boolean {
  if (isNegated && character === SEPARATOR) return false;
  for (let i = 0; i < ranges.length; i += 2)
    if ((ranges[i] ?? 0) <= character && character <= (ranges[i + 1] ?? 0)) return !isNegated;
  return isNegated;
}

interface OpenBraces {
  /** The node before all alternatives, and those at the ends of all but the last. */
  readonly begin: number;
  readonly ends: number[];
  /** Where in a component they begin, and where the alternatives have left off. */
  readonly position: Position;
  readonly endPositions: Set<Position>;
}

/** At the beginning of a component, behind stars that may stand for nothing there, or further in. */
type Position = (typeof POSITIONS)[number];

/** Of alternatives that differ, the first decides. */
const POSITIONS = ['stars', 'inside', 'start'] as const;

/** Makes the nodes of a glob, from where it begins to where it ends. */
class GlobParser {
  readonly nodes: Node[] = [];
  readonly #characters: readonly string[];
  readonly #separators: string;
  readonly #braces: ReadonlySet<number>;
  readonly #open: OpenBraces[] = [];
  #position: Position = 'start';

  constructor(glob: string, separators: string) {
    this.#characters = [...spellRanges(glob)];
    this.#separators = separators;
    this.#braces = findBraces(this.#characters);
    for (let index = 0; index < this.#characters.length; ) index = this.#take(index);
    this.#add(null, []);
  }

  #take(index: number): number {
    const character = this.#characters[index] ?? '';
    if (this.#braces.has(index)) {
      this.#takeBrace(character);
      return index + 1;
    }
    switch (character) {
      case '*':
        return this.#takeStars(index);
      case '?':
        this.#read(ANY);
        return index + 1;
      case '[': {
        const found = readClass(this.#characters, index);
        if (found === null) break;
        this.#read(found.reading);
        return found.end;
      }
      case '\\': {
        const next = this.#characters[index + 1];
        if (next === undefined) break;
        this.#readCharacter(next);
        return index + 2;
      }
    }
    this.#readCharacter(character);
    return index + 1;
  }

  #readCharacter(character: string): void {
    const isSeparator = this.#separators.includes(character);
    const codePoint = character.codePointAt(0) ?? 0;
    this.#read(isSeparator ? ONE_SEPARATOR : { ranges: [codePoint, codePoint] });
    if (isSeparator) this.#position = 'start';
  }

  #read(reading: Reading): void {
    // `*.pt` is no more meant for `.pt` than `*` is.
    this.#add({ ...reading, isWild: reading.isWild === true || this.#position === 'stars' });
    this.#position = 'inside';
  }

  /** `**` in place of a component stands for any number of them, with the separator behind it; else stars are one. */
  #takeStars(begin: number): number {
    let index = begin;
    while (this.#characters[index] === '*') index++;
    const next = this.#characters[index];
    const isSeparated = next !== undefined && this.#separators.includes(next);
    const isWhole = isSeparated || next === undefined || (next !== '{' && this.#braces.has(index));
    const isAnyNumber = index - begin === 2 && this.#position === 'start' && isWhole;
    const at = this.nodes.length;
    if (!isAnyNumber || !isSeparated) {
      this.#add(null, [at + 1, at + 2]);
      this.#add(isAnyNumber ? ALL : ANY, [at]);
      if (this.#position === 'start') this.#position = 'stars';
      return index;
    }
    this.#add(null, [at + 1, at + 2, at + 4]);
    this.#add(ANY, [at + 3]);
    this.#add(ONE_SEPARATOR, [at]);
    // Within a component.
    this.#add(null, [at + 1, at + 2]);
    return index + 1;
  }

  /** Takes a brace that goes with others, or a comma between them: alternatives are branches, never spelled out. */
  #takeBrace(character: string): void {
    const node = this.#add(null, character === ',' ? [] : [this.nodes.length + 1]);
    if (character === '{')
      this.#open.push({ begin: node, ends: [], position: this.#position, endPositions: new Set() });
    const open = this.#open.at(-1);
    if (open === undefined || character === '{') return;
    open.endPositions.add(this.#position);
    if (character === ',') {
      open.ends.push(node);
      this.nodes[open.begin]?.next.push(node + 1);
      this.#position = open.position;
    } else {
      for (const end of open.ends) this.nodes[end]?.next.push(node);
      this.#open.pop();
      this.#position = POSITIONS.find((position) => open.endPositions.has(position)) ?? 'inside';
    }
  }

  #add(reading: Reading | null, next: number[] = [this.nodes.length + 1]): number {
    return this.nodes.push({ reading, next }) - 1;
  }
}

/** Where the braces with alternatives are, and the commas between these. */
function findBraces(characters: readonly string[]): ReadonlySet<number> {
  const found = new Set<number>();
  const open: number[][] = [];
  for (let index = 0; index < characters.length; index++) {
    const character = characters[index];
    if (character === '\\') index++;
    else if (character === '[') index = (readClass(characters, index)?.end ?? index + 1) - 1;
    else if (character === '{') open.push([index]);
    else if (character === ',') open.at(-1)?.push(index);
    else if (character === '}') {
      const marks = open.pop() ?? [];
      if (marks.length > 1) for (const mark of [...marks, index]) found.add(mark);
    }
  }
  return found;
}

/** A class such as `[a-z]`, from its bracket on; null where nothing closes it. */
function readClass(
  characters: readonly string[],
  begin: number,
): { readonly reading: Reading; readonly end: number } | null {
  const isNegated = ['!', '^'].includes(characters[begin + 1] ?? '');
  const first = isNegated ? begin + 2 : begin + 1;
  const ranges: number[] = [];
  let index = first;
  const takeOne = () => {
    if (characters[index] === '\\' && index + 1 < characters.length) index++;
    return characters[index++]?.codePointAt(0) ?? 0;
  };
  while (index < characters.length) {
    if (characters[index] === ']' && index > first)
      return { reading: { ranges, isNegated, isWild: true }, end: index + 1 };
    const from = takeOne();
    const isRange = characters[index] === '-' && ![']', undefined].includes(characters[index + 1]);
    if (isRange) index++;
    ranges.push(from, isRange ? takeOne() : from);
  }
  return null;
}

/** `{1..12}` is a number from 1 to 12, `{a..c}` one of three letters: each as classes, a few whatever the numbers are. */
function spellRanges(glob: string): string {
  const spelled = glob.replace(
    /(?<!\\)\{(\d|[1-9]\d{1,8})\.\.(\d|[1-9]\d{1,8})\}/g,
    (_, x: string, y: string) => {
      const branches = listBranches(Math.min(Number(x), Number(y)), Math.max(Number(x), Number(y)));
      return branches.length === 1 ? branches.join() : `{${branches.join()}}`;
    },
  );
  return spelled.replace(/(?<!\\)\{([a-z])\.\.([a-z])\}/gi, '[$1-$2]');
}

/** Numbers from the least to the most as classes of digits: `[7-9]`, `[1-9][0-9]`, `1[0-1][0-9]`, `12[0-3]` for 7 to 123. */
function listBranches(least: number, most: number): readonly string[] {
  const branches: string[] = [];
  for (let next = least; next <= most; ) {
    let size = 1;
    while (next > 0 && next % (size * 10) === 0 && next + size * 10 - 1 <= most) size *= 10;
    const leading = Math.floor(next / size);
    const count = Math.min(10 - (leading % 10), Math.floor((most - next + 1) / size));
    const digit = `[${leading % 10}-${(leading % 10) + count - 1}]`;
    branches.push(`${Math.floor(leading / 10) || ''}${digit}${'[0-9]'.repeat(Math.log10(size))}`);
    next += count * size;
  }
  return branches;
}
