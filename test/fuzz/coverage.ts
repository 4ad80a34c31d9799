import { type Profiler, Session } from 'node:inspector';

/** Characters of the program from `start` up to `end`. */
interface Span {
  readonly start: number;
  readonly end: number;
}

/** A function that ran: where it stands, and which spans of it did not run. */
export interface RanFunction extends Span {
  readonly idle: readonly Span[];
}

/** A source file within the bundled program. */
interface SourceSpan extends Span {
  readonly path: string;
}

/** How much of some source files ran. */
export interface Share {
  readonly functions: number;
  readonly allFunctions: number;
  /** Of the characters of all functions, those in blocks that ran. */
  readonly code: number;
}

/** Tells what ran. */
export interface Coverage {
  /** The functions of src/ that ran since this was asked last. */
  readonly take: () => readonly RanFunction[];
  /** How much of the source files whose path fits ran, as `map` has it. */
  readonly measure: (map: CoverageMap, sources: RegExp) => Share;
}

/** esbuild writes the path of each file in front of what it made of it. */
const FILE_MARK = /^(?: {2})?\/\/ (?:\.\.\/)*((?:[\w.@+-]+\/)+[\w.@+-]+\.[cm]?[jt]s)$/gm;

/**
 * Watches which blocks of the running program run: V8's own counters, read through the inspector in the same process.
 * They cost next to nothing while they count; to read them takes some milliseconds.
 */
export class CoverageMeter implements Coverage {
  readonly #session = new Session();
  readonly #url: string;
  readonly #text: string;
  readonly #sources: readonly SourceSpan[];
  readonly #functions = new Map<string, Span>();
  /** Whether a function is of src/, by its start: asked for thousands each time. */
  readonly #isSource = new Map<number, boolean>();

  /** @param text the text of the program at `url`. */
  constructor(url: string, text: string) {
    this.#url = url;
    this.#text = text;
    const marks = [...text.matchAll(FILE_MARK)];
    this.#sources = marks.map(({ index, 1: path = '' }, at) => ({
      path,
      start: index,
      end: marks[at + 1]?.index ?? text.length,
    }));
    this.#session.connect();
    this.#post('Profiler.enable');
    this.#post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
  }

  take(): readonly RanFunction[] {
    const { result } = this.#post('Profiler.takePreciseCoverage') as Profiler.TakePreciseCoverageReturnType;
    const functions = result.find(({ url }) => url === this.#url)?.functions ?? [];
    return functions.flatMap(({ ranges }) => {
      const [
        { startOffset: start, endOffset: end, count } = { startOffset: 0, endOffset: 0, count: 0 },
        ...blocks
      ] = ranges;
      if (!this.#isOfSource(start)) return [];
      this.#functions.set(`${start}-${end}`, { start, end });
      if (count === 0) return [];
      const idle = blocks.filter((block) => block.count === 0);
      return [
        {
          start,
          end,
          idle: idle.map(({ startOffset, endOffset }) => ({ start: startOffset, end: endOffset })),
        },
      ];
    });
  }

  measure(map: CoverageMap, sources: RegExp): Share {
    const files = this.#sources.filter(({ path }) => sources.test(path));
    const all = [...this.#functions.values()].filter(({ start, end }) =>
      files.some((file) => file.start <= start && end <= file.end),
    );
    const ran = all.filter((one) => map.has(one));
    const [total, idle] = [
      all.reduce((sum, { start, end }) => sum + end - start, 0),
      all.reduce((sum, one) => sum + map.countIdle(one), 0),
    ];
    return { functions: ran.length, allFunctions: all.length, code: total === 0 ? 0 : 1 - idle / total };
  }

  #isOfSource(at: number): boolean {
    const known = this.#isSource.get(at);
    if (known !== undefined) return known;
    const file = this.#sources.findLast(({ start }) => start <= at);
    // What esbuild makes of a module that is imported later, `"src/x.ts"() {…}`, runs once in the life of the process.
    const isModule = this.#text.startsWith('"src/', at);
    const isSource = !isModule && (file?.path.startsWith('src/') ?? false);
    this.#isSource.set(at, isSource);
    return isSource;
  }

  #post(method: string, params: object = {}): unknown {
    let answer: unknown;
    // Within the process the answer is there before the call returns.
    this.#session.post(method, params, (error, result) => {
      if (error !== null) throw new Error(`${method}: ${error.message}`);
      answer = result;
    });
    return answer;
  }
}

/** Which blocks ran so far, in all of some runs: of each function the spans that never did. */
export class CoverageMap {
  readonly #idle = new Map<string, readonly Span[]>();

  has({ start, end }: Span): boolean {
    return this.#idle.has(`${start}-${end}`);
  }

  /** Characters of a function that never ran. */
  countIdle(span: Span): number {
    return countCharacters(this.#idle.get(`${span.start}-${span.end}`) ?? [span]);
  }

  /** Whether anything ran that never did before. */
  hasNews(ran: readonly RanFunction[]): boolean {
    return ran.some(({ start, end, idle }) => {
      const known = this.#idle.get(`${start}-${end}`);
      return known === undefined || countCharacters(intersect(known, idle)) < countCharacters(known);
    });
  }

  add(ran: readonly RanFunction[]): void {
    for (const { start, end, idle } of ran) {
      const key = `${start}-${end}`;
      const known = this.#idle.get(key);
      this.#idle.set(key, known === undefined ? idle : intersect(known, idle));
    }
  }
}

/** Spans of one function do not overlap; those that lie within another are part of it. */
function countCharacters(spans: readonly Span[]): number {
  let [total, reached] = [0, 0];
  for (const { start, end } of spans) {
    total += Math.max(0, end - Math.max(start, reached));
    reached = Math.max(reached, end);
  }
  return total;
}

function intersect(one: readonly Span[], other: readonly Span[]): readonly Span[] {
  if (one.length === 0 || other.length === 0) return [];
  return one.flatMap((span) =>
    other.flatMap(({ start, end }) => {
      const shared = { start: Math.max(start, span.start), end: Math.min(end, span.end) };
      return shared.start < shared.end ? [shared] : [];
    }),
  );
}
