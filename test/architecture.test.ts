import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const src = fileURLToPath(new URL('../src', import.meta.url));

/** The rooms of the house, in the order in which imports may go: each needs only itself and those before it. */
const ROOMS: readonly (readonly string[])[] = [
  ['errors.ts', 'options.ts'],
  ['io/'],
  ['checkpoint/'],
  ['norm/'],
  ['formats/'],
  ['compare/'],
  ['folding/'],
  ['compare-checkpoints.ts'],
  ['report/'],
  ['audit.ts', 'inspect.ts'],
  ['restore/', 'probe/', 'trace/', 'watch/', 'policy.ts'],
  ['index.ts'],
  ['cli/'],
];

/** The only files that may touch the file system. */
const READS_FILES = [
  'io/file-source.ts',
  'io/places.ts',
  'io/write-files.ts',
  'io/write-target.ts',
  'formats/open.ts',
  'formats/model-config.ts',
  'formats/open-beside.ts',
  'formats/numpy/open-arrays.ts',
  'formats/onnx/stored-tensor.ts',
  'restore/restore.ts',
  'watch/list-checkpoints.ts',
  'policy.ts',
  'cli/terminal.ts',
  'cli/write-reports.ts',
  'cli/topics.ts',
  'cli/find-checkpoints.ts',
];

/** Beside the command line: the caches of other programs are found by the environment, and ONNX Runtime is told by it. */
const KNOWS_ENVIRONMENT = ['io/places.ts', 'probe/runtime.ts'];

/**
 * What is imported when a run needs it: commands, the two large readers and the planner of ONNX edits, the renderers of all
 * but text, the runtime of models. Loaded at once, they would take a fifth of the time of a small audit and more.
 */
const LOADED_WHEN_NEEDED =
  /^(?:cli\/[a-z]+-command\.ts|formats\/(?:darknet\/darknet|flax\/flax|keras\/keras|numpy\/open-arrays|tensorflow\/tensorflow)\.ts|formats\/onnx\/(?:onnx|plan-edits)\.ts|formats\/torch\/(?:distributed|torch|zip-container)\.ts|io\/(?:remote-source|zip)\.ts|report\/(?:azure|github|gitlab|junit|markdown|sarif|summary|html\/render-html)\.ts|onnxruntime-node)$/;

interface SourceFile {
  /** From src/, with forward slashes. */
  readonly path: string;
  readonly text: string;
  /** The text without comments and without the contents of strings. */
  readonly code: string;
}

const files: readonly SourceFile[] = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
  .sort()
  .map((name) => {
    const text = readFileSync(join(src, name), 'utf8');
    return { path: name.split(sep).join('/'), text, code: stripCommentsAndStrings(text) };
  });

function stripCommentsAndStrings(text: string): string {
  return text.replace(
    /\/\*[\s\S]*?\*\/|(?<![:\\/])\/\/[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/g,
    (match) => (match.startsWith('/') ? '' : "''"),
  );
}

function roomOf(path: string): number {
  const room = ROOMS.findIndex((names) =>
    names.some((name) => (name.endsWith('/') ? path.startsWith(name) : path === name)),
  );
  if (room < 0) throw new Error(`${path} lies in no room: add it to ROOMS`);
  return room;
}

/** An import of a file, also a dynamic one. */
const IMPORT = /^(?:import|export)\b([^'";]*?)from '([^']+)'|\bimport\('([^']+)'\)|^import '([^']+)'/gm;

/** What a file imports: relative paths resolved from src/, packages by their names. */
function importsOf(
  { path, text }: SourceFile,
  { isDynamic = false }: { isDynamic?: boolean } = {},
): readonly string[] {
  return [...text.matchAll(IMPORT)]
    .filter(([, , , dynamic]) => !isDynamic || dynamic)
    .map(([, , from, dynamic, bare]) => {
      const target = from ?? dynamic ?? bare ?? '';
      if (!target.startsWith('.')) return target;
      return relative(src, join(src, dirname(path), target.replace(/\.js$/, '.ts')))
        .split(sep)
        .join('/');
    });
}

const isLocal = (target: string) => files.some(({ path }) => path === target);

/** A docstring stands right above, or above the first of a run of constants of one line each. */
function isDocumented(lines: readonly string[], index: number): boolean {
  const above = lines[index - 1]?.trimEnd() ?? '';
  if (above.endsWith('*/')) return true;
  const isConstant = (line: string) => /^export const .*;$/.test(line);
  return isConstant(lines[index] ?? '') && isConstant(above) && isDocumented(lines, index - 1);
}

test('there are files to look at, and imports between them are seen', () => {
  expect(files.length).toBeGreaterThan(40);
  const audit = files.find(({ path }) => path === 'audit.ts');
  expect(audit && importsOf(audit)).toContain('compare-checkpoints.ts');
  const open = files.find(({ path }) => path === 'formats/open.ts');
  expect(open && importsOf(open)).toContain('formats/onnx/onnx.ts');
});

/** What breaks a rule, a line each: the file, and what of it. */
function listOffences(find: (file: SourceFile) => readonly string[]): readonly string[] {
  return files.flatMap((file) => find(file).map((found) => `${file.path}: ${found}`));
}

describe('every file', () => {
  test('imports only from its own room and those before it', () => {
    const offences = listOffences((file) =>
      importsOf(file).filter((target) => isLocal(target) && roomOf(target) > roomOf(file.path)),
    );
    expect(offences).toEqual([]);
  });

  test('imports what it needs at once, but for the few large parts that few runs need', () => {
    const offences = listOffences((file) =>
      importsOf(file, { isDynamic: true }).filter((target) => !LOADED_WHEN_NEEDED.test(target)),
    );
    expect(offences).toEqual([]);
    expect(listOffences((file) => importsOf(file, { isDynamic: true }))).not.toEqual([]);
  });

  test('has a docstring for every export', () => {
    const isExport =
      /^export (?:default |declare |abstract |async )*(?:function|const|let|class|interface|type|namespace)\b/;
    const offences = listOffences(({ text }) => {
      const lines = text.split('\n');
      return lines.filter(
        (line, index) => isExport.test(line) && !/^export type \{/.test(line) && !isDocumented(lines, index),
      );
    });
    expect(offences).toEqual([]);
  });

  test('uses no any and no enum', () => {
    const forbidden = /[:<,|&(]\s*any\b(?!\s*[:(])|\bas any\b|\benum\s+\w+\s*\{/g;
    expect(listOffences(({ code }) => code.match(forbidden) ?? [])).toEqual([]);
  });

  test('touches process only in the command line, but for the environment that names caches and that ONNX Runtime reads', () => {
    const offences = listOffences((file) =>
      file.path.startsWith('cli/')
        ? []
        : [
            ...(file.code.match(
              KNOWS_ENVIRONMENT.includes(file.path) ? /\bprocess\b(?!\.env\[)/g : /\bprocess\b/g,
            ) ?? []),
            ...importsOf(file).filter((target) => target === 'node:process'),
          ],
    );
    expect(offences).toEqual([]);
  });

  test('touches the file system only where that is its job', () => {
    const offences = listOffences((file) =>
      READS_FILES.includes(file.path)
        ? []
        : importsOf(file).filter((target) => /^(?:node:)?fs(?:\/promises)?$/.test(target)),
    );
    expect(offences).toEqual([]);
  });

  test('reaches the network only where that is its job', () => {
    const reaching = listOffences((file) => [
      ...(file.code.match(/(?<![#.\w])(?:fetch|new WebSocket|new EventSource)\(/g) ?? []),
      ...importsOf(file).filter((target) => /^(?:node:)?(?:https?2?|net|tls|dns|dgram)(?:\/|$)/.test(target)),
    ]);
    expect(reaching).toEqual(['io/remote-source.ts: node:http', 'io/remote-source.ts: node:https']);
  });

  test('is named for what it does', () => {
    const isNamed = (name: string) =>
      /^[a-z0-9]+(?:-[a-z0-9]+)*\.ts$/.test(name) &&
      !/^(?:utils?|helpers?|types?|common|misc|shared)\.ts$/.test(name);
    expect(files.map(({ path }) => path).filter((path) => !isNamed(basename(path)))).toEqual([]);
  });
});

test('every file begins with one sentence on what it is for', () => {
  const offences = listOffences(({ text }) =>
    /^\/\/ [A-Z`][^\n]*\.\n(?:\/\/ [^\n]*\n)*\n/.test(text) ? [] : [text.split('\n')[0] ?? ''],
  );
  expect(offences).toEqual([]);
});

describe('what newcomers read', () => {
  const read = (name: string) => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');

  test('CONTRIBUTING lists every room once, in the order in which imports may go', () => {
    const listed = [...read('CONTRIBUTING.md').matchAll(/^\| `src\/([^`]+)` +\|/gm)].map(
      ([, room]) => room ?? '',
    );
    const rooms = files.map(({ path }) => (path.includes('/') ? `${dirname(path)}/` : path));
    expect([...listed].sort()).toEqual([...new Set(rooms)].sort());
    const order = listed.map(roomOf);
    expect(order).toEqual([...order].sort((one, other) => one - other));
  });

  test('the tour names files that exist', () => {
    const named = [...read('docs/architecture.md').matchAll(/`src\/([^`]+\.ts)`/g)].map(
      ([, path]) => path ?? '',
    );
    expect(named.length).toBeGreaterThan(20);
    expect(named.filter((path) => !isLocal(path))).toEqual([]);
  });
});

test('files that may touch the file system exist and do', () => {
  for (const path of READS_FILES) {
    const file = files.find((one) => one.path === path);
    expect(file && importsOf(file), path).toContain('node:fs');
  }
});

test('no imports go in a circle, those of types included', () => {
  const graph = new Map(files.map((file) => [file.path, importsOf(file).filter(isLocal)]));
  const done = new Set<string>();
  const walk = (path: string, trail: readonly string[]): readonly string[] | null => {
    if (trail.includes(path)) return [...trail.slice(trail.indexOf(path)), path];
    if (done.has(path)) return null;
    for (const next of graph.get(path) ?? []) {
      const circle = walk(next, [...trail, path]);
      if (circle !== null) return circle;
    }
    done.add(path);
    return null;
  };
  expect([...graph.keys()].flatMap((path) => walk(path, []) ?? [])).toEqual([]);
});
