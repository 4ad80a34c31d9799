import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { makeFinding } from '../../src/compare/findings.js';
import type { Paint, TextOptions } from '../../src/report/text-layout.js';
import {
  makeDeepReport,
  makeInspectReport,
  makeLayer,
  makeMixedReport,
  makeReport,
  renderAs,
} from './sample-reports.js';
import { makeTrace } from './sample-traces.js';

const renderText = renderAs('text');

const region = (path: string, status: 'frozen' | 'trained', drifted: number) => ({
  path,
  status,
  equality: status === 'frozen' ? ('exact' as const) : null,
  relativeDifference: 0,
  layers: 1,
  drifted,
  learned: { tensors: 3, equal: status === 'frozen' ? 3 : 0, elements: 23_500_000 },
});

const DRIFTED = makeReport({
  layers: [makeLayer('backbone.bn', { outputShift: 0.97 }), makeLayer('backbone.bn2', { outputShift: 0.5 })],
  regions: [
    { ...region('backbone', 'frozen', 2), layers: 2 },
    { ...region('head', 'trained', 0), layers: 0 },
  ],
});

const LOCKED = makeReport({
  layers: [makeLayer('backbone.bn', { status: 'locked', outputShift: 0, channelsMoved: 0, batches: 0 })],
  regions: [region('backbone', 'frozen', 0)],
});

/** The blocks of a report, which empty lines part. */
const blocksOf = (report: Parameters<typeof renderText>[0], options?: TextOptions) =>
  renderText(report, options).trimEnd().split('\n\n');

describe('the answer comes first', () => {
  test('drift: what was frozen, how much of it is identical, how many layers moved and how far', () => {
    const [, answer] = blocksOf(DRIFTED);
    expect(answer).toBe(
      [
        '✖ DRIFTED  backbone was frozen, its statistics were not',
        '  3 of 3 learned tensors (23.5 M values) are identical, yet 2 of 2 norm layers',
        '  moved, after 1,250 training-mode batches. Their outputs move by up to 0.970 of',
        '  their own size (backbone.bn). The training-mode batches leave less than 0.1 %',
        '  of the old statistics, at PyTorch’s default momentum of 0.1.',
      ].join('\n'),
    );
  });

  test('clean: every layer stood still', () => {
    const [, answer] = blocksOf(LOCKED);
    expect(answer?.split('\n')[0]).toBe('✔ CLEAN  every norm layer stood still');
  });

  test('clean: nothing was frozen', () => {
    const report = makeReport({
      layers: [makeLayer('bn', { status: 'trained' })],
      learned: { equal: 0, changed: 3 },
    });
    expect(blocksOf(report)[1]).toContain('✔ CLEAN  nothing was frozen: statistics moved with the weights');
  });

  test('drifted as well: another error than drift, as in the JSON', () => {
    const layers = [makeLayer('bn', { status: 'invalid', outputShift: null })];
    const report = makeReport({ layers, findings: [makeFinding('invalid-stats', 'bn', 'it is NaN')] });
    expect(blocksOf(report)[1]).toMatch(/^✖ DRIFTED {2}statistics are NaN, infinite or negative\n/);
  });

  test('after what was audited: path, format and contents of both', () => {
    expect(blocksOf(DRIFTED)[0]).toBe(
      [
        'before  runs/base.pt   PyTorch, 2 norm layers, 6 learned tensors',
        'after   runs/tuned.pt  PyTorch, 2 norm layers, 6 learned tensors',
      ].join('\n'),
    );
  });

  test('paths that are too long for one line stand on their own', () => {
    const paths = [
      'runs/2024-05-01/experiment-17/base.pt',
      'runs/2024-05-01/experiment-17/tuned.pt',
    ] as const;
    const report = makeReport({ layers: [makeLayer('bn')], paths });
    expect(blocksOf(report)[0]?.split('\n')).toEqual([
      `before  ${paths[0]}`,
      '        PyTorch, 1 norm layer, 3 learned tensors',
      `after   ${paths[1]}`,
      '        PyTorch, 1 norm layer, 3 learned tensors',
    ]);
  });
});

describe('the table', () => {
  const many = makeReport({
    layers: Array.from({ length: 14 }, (_, i) => makeLayer(`backbone.bn${i}`, { outputShift: (i + 1) / 20 })),
    regions: [region('backbone', 'frozen', 14)],
  });
  const namesIn = (text: string) =>
    [...text.matchAll(/^ {2}(backbone\.bn\d+) .*█/gm)].map(([, name]) => name);

  test('shows the ten worst layers, the worst first, and counts the rest', () => {
    const text = renderText(many);
    expect(namesIn(text)).toEqual([13, 12, 11, 10, 9, 8, 7, 6, 5, 4].map((i) => `backbone.bn${i}`));
    expect(text).toContain('\n  … 4 more layers that moved less (--all)\n');
  });

  test('--all shows every layer with its status', () => {
    const text = renderText(many, { all: true });
    expect(text).toContain('All 14 norm layers, those that moved most first');
    expect(new Set(text.match(/backbone\.bn\d+/g)).size).toBe(14);
    expect(text).not.toContain('(--all)');
    expect(text).toMatch(/^ {2}layer +status/m);
  });

  test('layers that no measure tells come last', () => {
    const layers = [
      makeLayer('a', { outputShift: Number.NaN }),
      makeLayer('b', { outputShift: 0.1 }),
      makeLayer('c', { outputShift: null }),
    ];
    const text = renderText(makeReport({ layers }), { all: true });
    const table = text.slice(text.indexOf('those that moved most first'));
    expect([...table.matchAll(/^ {2}([abc]) /gm)].map(([, name]) => name)).toEqual(['b', 'a', 'c']);
  });

  test('accepted drift bears a star that is explained', () => {
    const report = makeReport({ layers: [makeLayer('bn', { allowed: true })], findings: [] });
    expect(renderText(report, { all: true })).toMatch(/drifted\*[\s\S]*\* drift accepted by --allow/);
  });
});

describe('the advice', () => {
  test('names the module that has to stay in evaluation mode', () => {
    const text = renderText(DRIFTED);
    expect(text).toContain('\n      model.train()\n      model.backbone.eval()\n');
    expect(text).toContain(
      '\n      def train(self, mode=True):\n          super().train(mode)\n          self.backbone.eval()\n',
    );
  });

  test('is left out where nothing drifted', () => {
    expect(renderText(LOCKED)).not.toContain('.eval()');
  });
});

test('what is fine is said in a line', () => {
  expect(renderText(LOCKED)).toContain(
    '✔ frozen   backbone: 3 of 3 learned tensors identical, 1 norm layer locked',
  );
  expect(renderText(DRIFTED)).toContain('✔ trained  head: 3 of 3 learned tensors changed, no norm layer');
});

test('warnings of the readers are shown', () => {
  expect(
    renderText(makeReport({ layers: [makeLayer('bn')], warnings: ['after: 4 tensors were left out'] })),
  ).toContain('! note  after: 4 tensors were left out');
});

describe('looks', () => {
  const report = makeMixedReport();

  test('the text is deterministic and ends with one line end', () => {
    expect(renderText(report)).toBe(renderText(report));
    expect(renderText(report)).toMatch(/[^\n]\n$/);
  });

  test.each([40, 60, 80, 120, 200])('every line but code and commands fits %d columns', (width) => {
    const nameDeep = (index: number) => `net.encoder.stages.${index % 4}.layers.${index}.normalization`;
    const deep = Array.from({ length: 12 }, (_, index) => nameDeep(index));
    const reports = [report, makeDeepReport(30), makeInspectReport(deep), makeTrace({ name: nameDeep })];
    for (const [one, all] of reports.flatMap((each) => [[each, false] as const, [each, true] as const])) {
      const wide = renderText(one, { width, all })
        .split('\n')
        .filter(
          (line) => [...line].length > width && !/^(?:next|more| {4}) {2}bn-audit |\.eval\(\)$/.test(line),
        );
      expect(wide).toEqual([]);
    }
  });

  test('colour only underlines what the words say', () => {
    const painted: string[] = [];
    const paint: Paint = (tone, text) => {
      painted.push(tone);
      return text;
    };
    expect(renderText(report, { paint })).toBe(renderText(report));
    expect(new Set(painted)).toContain('error');
  });

  test('no line ends in spaces', () => {
    for (const all of [false, true]) expect(renderText(report, { all })).not.toMatch(/ \n/);
  });
});

describe('hostile names', () => {
  /** A report in which every place that can bear a name from a file bears this one. */
  const reportOf = (name: string) =>
    makeReport({
      layers: [makeLayer(name), makeLayer(`${name}.x`, { status: 'invalid', outputShift: null })],
      regions: [region(name, 'frozen', 1), region(`${name}.y`, 'trained', 0)],
      findings: [
        makeFinding('frozen-stats-drift', name, 'it moved'),
        makeFinding('invalid-stats', `${name}.x`, `the tensor ${name} is NaN`),
      ],
      warnings: [`${name}: a note`],
      paths: [name, `${name}.after`],
    });

  test.each([
    ['an escape sequence', '\u001b]0;owned\u0007\u001b[2J'],
    ['a C1 control', '\u009b31m'],
    ['line ends', 'a\n\n✔ CLEAN  every norm layer stood still\r\n'],
    ['a line separator', 'a\u2028b'],
    ['a change of direction', 'a\u202egnp.bn'],
    ['an invisible character', 'a\u200bb'],
  ])('%s never reaches the terminal', (_, name) => {
    for (const all of [false, true]) {
      const text = renderText(reportOf(name), { all, width: 80 });
      expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b\u2028\u2029\u202e]/);
      expect(text).not.toMatch(/^✔ CLEAN/m);
    }
  });

  test('any name leaves as many lines starting as headings as a plain one', () => {
    const headingsOf = (text: string) => text.match(/^[✖✔!·] ?\w+/gmu)?.length;
    const expected = headingsOf(renderText(reportOf('plain')));
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), (name) => {
        const text = renderText(reportOf(name));
        expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
        expect(headingsOf(text)).toBe(expected);
      }),
    );
  });

  test('names of 10 kB are shortened, everywhere but in code', () => {
    const name = 'x'.repeat(10_000);
    for (const all of [false, true]) {
      const long = renderText(reportOf(name), { all, width: 80 })
        .split('\n')
        .filter((line) => [...line].length > 200 && !line.includes('eval()'));
      expect(long.map((line) => `${line.slice(0, 60)}… (${line.length})`)).toEqual([]);
    }
  });
});
