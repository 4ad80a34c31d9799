import { describe, expect, test } from 'vitest';
import { UsageError } from '../../src/errors.js';
import type { ProbeLayer, ProbeReport } from '../../src/probe/probe-report.js';
import { PROBE_FORMATS, renderProbe } from '../../src/probe/probe-report.js';
import type { ProbeOutput } from '../../src/probe/run.js';

const summary = {
  path: 'base.onnx',
  format: 'ONNX',
  framework: null,
  layers: 2,
  folded: 0,
  learned: 5,
} as const;

const output: ProbeOutput = {
  name: 'logits',
  type: 'float32',
  shape: [8, 10],
  relativeL2: 0.25,
  cosine: 0.97,
  maxDifference: 1.5,
  nonFinite: { after: 0, restored: 0 },
  top1: { samples: 8, changed: 3, share: 3 / 8 },
};

const layer: ProbeLayer = {
  name: 'backbone.bn1',
  node: '/backbone/bn1/BatchNormalization',
  status: 'drifted',
  via: 'live',
  channels: 64,
  putBack: true,
  outputShift: 0.5,
  movement: { sameInput: 0.4, inNetwork: 0.6 },
  contribution: { explained: 0.75, outputs: [{ name: 'logits', relativeL2: 0.0625, explained: 0.75 }] },
  notes: [],
};

function reportOf(parts: Partial<ProbeReport> = {}): ProbeReport {
  return {
    schemaVersion: 1,
    tool: { name: 'bn-audit', version: '1.2.3' },
    before: summary,
    after: { ...summary, path: 'tuned.onnx' },
    runtime: { name: 'onnxruntime-node', version: '1.30.0' },
    inputs: {
      kind: 'files',
      samples: 8,
      runs: 2,
      seed: null,
      arrays: [{ name: 'x', dtype: 'F32', shape: [8, 3], file: 'x.npy' }],
    },
    putBack: { layers: 1, alone: 1 },
    outputs: [output],
    layers: [layer],
    copyError: 1e-7,
    repeatError: 0,
    warnings: [],
    ...parts,
  };
}

const still: ProbeOutput = {
  ...output,
  relativeL2: 0,
  cosine: 1,
  maxDifference: 0,
  top1: { samples: 8, changed: 0, share: 0 },
};

describe('renderProbe', () => {
  test('says what moved, in every form that people read', () => {
    for (const format of ['text', 'markdown', 'html'] as const) {
      const text = renderProbe(reportOf(), { format, width: 200 });
      expect(text.toLowerCase()).toContain(
        'the statistics move the output by 0.250 of its own size; the top class of 3 of 8 samples changes',
      );
      for (const word of ['backbone.bn1', '0.500', '0.400', '0.600', '75 %', '0.9700', '38 %', 'x.npy'])
        expect(text).toContain(word);
    }
  });

  test('names the output where there are several', () => {
    const text = renderProbe(reportOf({ outputs: [still, { ...output, name: 'mask', top1: null }] }), {
      width: 200,
    });
    expect(text).toContain('the statistics move the output mask by 0.250 of its own size\n');
  });

  test('says why nothing moved', () => {
    const headline = (parts: Partial<ProbeReport>) =>
      renderProbe(reportOf({ outputs: [still], ...parts }), { width: 200 }).split('\n')[4];
    const none = { layers: 0, alone: 0 };
    const left = { ...layer, putBack: false, contribution: null };
    expect(headline({})).toBe('✔ STILL  putting the statistics back changes no output');
    expect(headline({ putBack: none, layers: [{ ...left, status: 'locked' }] })).toContain(
      'no norm layer drifted',
    );
    expect(headline({ putBack: none, layers: [left] })).toContain('nothing could be put back');
    expect(headline({ putBack: none, layers: [left], outputs: [output] })).toContain(
      'two runs of the model differ',
    );
  });

  test('shows NaN as NaN', () => {
    const broken = { ...output, relativeL2: Number.NaN, maxDifference: Number.NaN };
    const report = reportOf({ outputs: [still, broken] });
    expect(renderProbe(report, { width: 200 })).toContain('the statistics move the output logits by NaN');
    expect(JSON.parse(renderProbe(report, { format: 'json' })).outputs[1].relativeL2).toBe('NaN');
  });

  test('leaves out what was not measured', () => {
    const left = { ...layer, contribution: null, movement: null, outputShift: null, notes: [] };
    const text = renderProbe(reportOf({ layers: [left], putBack: { layers: 1, alone: 0 } }), { width: 300 });
    expect(text).toContain('No layer was put back alone.');
    expect(text).not.toContain('explains');
  });

  test('tells a cosine from 1', () => {
    const cosineOf = (cosine: number) =>
      renderProbe(reportOf({ outputs: [{ ...output, cosine }] }), { width: 200 })
        .split('\n')
        .find((line) => line.includes('logits  ['));
    expect(cosineOf(1 - 1e-9)).toContain('1 − 1.0e-9');
    expect(cosineOf(-0.5)).toContain('−0.5000');
  });

  test('the JSON is the report', () => {
    expect(JSON.parse(renderProbe(reportOf(), { format: 'json' }))).toEqual(reportOf());
  });

  test.each(PROBE_FORMATS)('no name steers a reader of %s', (format) => {
    const name = '\u001b]0;owned\u0007<script>alert(1)</script>|`**"\n::error::';
    const report = reportOf({
      before: { ...summary, path: name },
      outputs: [{ ...output, name }, still],
      layers: [{ ...layer, name, notes: [name] }],
      inputs: { ...reportOf().inputs, arrays: [{ name, dtype: 'F32', shape: [8], file: name }] },
      runtime: { name: 'onnxruntime-node', version: name },
      warnings: [name],
    });
    const text = renderProbe(report, { format });
    expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
    expect(text).not.toMatch(/^::/m);
    if (format === 'html') expect(text).not.toContain('<script');
    if (format === 'markdown') expect(text.replace(/`[^`\n]*`/g, '')).not.toMatch(/<script|owned/);
    expect(text.endsWith('\n')).toBe(true);
  });

  test('the page loads nothing and runs nothing', () => {
    const page = renderProbe(reportOf(), { format: 'html' });
    expect(page).toContain('default-src &#39;none&#39;; style-src &#39;sha256-');
    expect(page).not.toMatch(/<script|https?:|style=/);
  });

  test('the text fits 80 columns', () => {
    const report = reportOf({
      layers: [{ ...layer, name: `backbone.${'deep.'.repeat(30)}bn` }],
      warnings: ['a word '.repeat(40).trim()],
    });
    expect(
      renderProbe(report)
        .split('\n')
        .filter((line) => [...line].length > 80),
    ).toEqual([]);
  });

  test('a format that there is not is refused', () => {
    const options = { format: 'junit' } as unknown as { format: 'text' };
    expect(() => renderProbe(reportOf(), options)).toThrow(
      new UsageError('format: expected one of text, json, markdown, html, found "junit"'),
    );
  });
});
