import { describe, expect, test } from 'vitest';
import type { DriftCause } from '../../src/compare/compare-layers.js';
import { makeFinding } from '../../src/compare/findings.js';
import { keepCurableByEval, listRemedies } from '../../src/report/answer.js';
import { summarizeCauses } from '../../src/report/audit-report.js';
import { REPORT_FORMATS } from '../../src/report/formats.js';
import { render } from '../../src/report/render.js';
import { makeLayer, makeReport } from './sample-reports.js';

const TRAINING: DriftCause = {
  kind: 'training-mode',
  old: { share: 0.9 ** 12, momentum: 0.1, momentumFrom: 'default' },
};
const AVERAGED: DriftCause = { kind: 'averaged', side: 'after', count: 20.5, rose: true };

/** Drifted layers called a, b, c, … of a frozen backbone, one for each cause. */
const layersOf = (...causes: readonly (DriftCause | null)[]) =>
  causes.map((cause, index) => makeLayer(`backbone.${String.fromCharCode(97 + index)}`, { cause }));

const reportOf = (...causes: readonly (DriftCause | null)[]) => {
  const layers = layersOf(...causes);
  const learned = { tensors: 9, equal: 9, elements: 100 };
  return makeReport({
    layers,
    regions: [
      {
        path: 'backbone',
        status: 'frozen',
        layers: layers.length,
        drifted: layers.length,
        learned,
        equality: 'exact',
        relativeDifference: 0,
      },
    ],
  });
};

const sentencesOf = (...causes: readonly DriftCause[]) =>
  reportOf(...causes).summary.causes.map(({ sentence }) => sentence);

describe('the causes of a report', () => {
  test('are one where all layers agree', () => {
    expect(reportOf(TRAINING, TRAINING).summary.causes).toMatchObject([{ kind: 'training-mode', layers: 2 }]);
  });

  test('are several where they do not, that of most layers first', () => {
    const { causes } = reportOf({ kind: 'reset' }, TRAINING, TRAINING).summary;
    expect(causes.map(({ kind, layers }) => [kind, layers])).toEqual([
      ['training-mode', 2],
      ['reset', 1],
    ]);
  });

  test('leave out layers of which no count tells', () => {
    expect(reportOf(null).summary.causes).toEqual([]);
    expect(reportOf(null, TRAINING).summary.causes).toHaveLength(1);
  });

  test('leave out drift that was accepted', () => {
    const findings = [makeFinding('frozen-stats-drift', 'backbone.a', 'allowed: moved', 'note')];
    expect(summarizeCauses(layersOf(TRAINING), findings)).toEqual([]);
  });
});

describe('the sentence about training', () => {
  const leaving = (share: number, momentum: number | 'cumulative' = 0.1): DriftCause => ({
    kind: 'training-mode',
    old: { share, momentum, momentumFrom: momentum === 0.1 ? 'default' : 'module' },
  });

  test.each([
    [leaving(0.2824), '28 % of the old statistics, at PyTorch’s default momentum of 0.1.'],
    [leaving(0.0312), '3.1 % of the old statistics, at PyTorch’s default momentum of 0.1.'],
    [leaving(0.0001), 'less than 0.1 % of the old statistics, at PyTorch’s default momentum of 0.1.'],
    [leaving(0.5, 0.03), '50 % of the old statistics, at their momentum of 0.03.'],
    [leaving(0.5, 'cumulative'), '50 % of the old statistics, which weigh all batches alike.'],
  ])('%j: %s', (cause, ending) => {
    expect(sentencesOf(cause)).toEqual([`The training-mode batches leave ${ending}`]);
  });

  test('says from where to where the layers differ', () => {
    expect(sentencesOf(leaving(0.5, 0.03), leaving(0.25, 0.01))).toEqual([
      'The training-mode batches leave 25 % to 50 % of the old statistics.',
    ]);
  });

  test('claims no share where none is known', () => {
    expect(sentencesOf({ kind: 'training-mode', old: null })).toEqual([
      'The batch counts rose: the layers ran in training mode.',
    ]);
  });
});

describe('advice', () => {
  const INCURABLE: readonly DriftCause[] = [
    { kind: 'uncounted' },
    { kind: 're-estimated' },
    { kind: 'reset' },
    { kind: 'averaged', side: 'after', count: 13.5, rose: false },
  ];

  test.each(INCURABLE)('for $kind layers is their own, and no code', (cause) => {
    const report = reportOf(cause);
    expect(listRemedies(report)).toHaveLength(1);
    expect(keepCurableByEval(report).findings).toEqual([]);
    for (const format of ['text', 'markdown', 'html'] as const) {
      const said = render(report, { format });
      expect(said).toContain('What to do');
      expect(said).not.toMatch(/model\.backbone\.eval\(\)|def train\(self|do not stop BatchNorm/);
    }
  });

  test.each([TRAINING, AVERAGED, { kind: 'ema' } as const, null])(
    'for layers that %o tells of is code',
    (cause) => {
      for (const format of ['text', 'markdown', 'html'] as const)
        expect(render(reportOf(cause), { format })).toContain('model.backbone.eval()');
    },
  );

  test('for uncounted layers of Ultralytics, whose files are moving averages, is code', () => {
    const report = reportOf({ kind: 'uncounted' });
    const saved = { ...report, after: { ...report.after, framework: 'ultralytics' } as const };
    expect(listRemedies(saved)).toEqual([]);
    expect(keepCurableByEval(saved).findings).toEqual(report.findings);
    expect(render(saved)).toContain('trainer.model.backbone.eval()');
  });

  test('for several causes says how many layers each concerns', () => {
    const remedies = listRemedies(
      reportOf(TRAINING, { kind: 'reset' }, { kind: 'uncounted' }, { kind: 'uncounted' }),
    );
    expect(remedies.map((remedy) => remedy.slice(0, 13))).toEqual(['2 norm layers', '1 norm layer:']);
  });

  test('freezes only what evaluation mode would have kept', () => {
    const report = { ...reportOf(TRAINING, { kind: 'reset' }), regions: [] };
    const said = render(report);
    expect(said).toContain('model.backbone.a.eval()');
    expect(said).not.toContain('model.backbone.b.eval()');
  });
});

test('the answer tells the cause in every format that has one', () => {
  const report = reportOf({ kind: 're-estimated' });
  for (const format of REPORT_FORMATS.filter((one) => ['text', 'markdown', 'html', 'json'].includes(one)))
    expect(render(report, { format }).replace(/\s+/g, ' ')).toContain('were reset and estimated again');
});
