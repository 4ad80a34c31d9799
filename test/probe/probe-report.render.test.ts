import { describe, expect, test } from 'vitest';
import { UsageError } from '../../src/errors.js';
import type { ProbeReport } from '../../src/probe/probe-report.js';
import { PROBE_FORMATS, renderProbe } from '../../src/probe/probe-report.js';
import type { ProbeOutput } from '../../src/probe/run.js';
import { layer, makeProbeReport, output, summary } from './sample-probe.js';

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
      const text = renderProbe(makeProbeReport(), { format, width: 200 });
      expect(text.toLowerCase()).toContain(
        'the statistics move the output by 0.250 of its own size; the top class of 3 of 8 samples changes',
      );
      for (const word of ['backbone.bn1', '0.500', '0.400', '0.600', '75 %', '0.9700', '38 %', 'x.npy'])
        expect(text).toContain(word);
    }
  });

  test('names the output where there are several', () => {
    const text = renderProbe(makeProbeReport({ outputs: [still, { ...output, name: 'mask', top1: null }] }), {
      width: 200,
    });
    expect(text).toContain('the statistics move the output mask by 0.250 of its own size\n');
  });

  test('says why nothing moved', () => {
    const headline = (parts: Partial<ProbeReport>) =>
      renderProbe(makeProbeReport({ outputs: [still], ...parts }), { width: 200 }).split('\n')[4];
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
    const report = makeProbeReport({ outputs: [still, broken] });
    expect(renderProbe(report, { width: 200 })).toContain('the statistics move the output logits by NaN');
    expect(JSON.parse(renderProbe(report, { format: 'json' })).outputs[1].relativeL2).toBe('NaN');
  });

  test('leaves out what was not measured', () => {
    const left = { ...layer, contribution: null, movement: null, outputShift: null, notes: [] };
    const text = renderProbe(makeProbeReport({ layers: [left], putBack: { layers: 1, alone: 0 } }), {
      width: 300,
    });
    expect(text).toContain('No layer was put back alone.');
    expect(text).not.toContain('explains');
  });

  test('tells a cosine from 1', () => {
    const cosineOf = (cosine: number) =>
      renderProbe(makeProbeReport({ outputs: [{ ...output, cosine }] }), { width: 200 })
        .split('\n')
        .find((line) => line.includes('logits  ['));
    expect(cosineOf(1 - 1e-9)).toContain('1 − 1.0e-9');
    expect(cosineOf(-0.5)).toContain('−0.5000');
  });

  test('the JSON is the report', () => {
    expect(JSON.parse(renderProbe(makeProbeReport(), { format: 'json' }))).toEqual(makeProbeReport());
  });

  test.each(PROBE_FORMATS)('no name steers a reader of %s', (format) => {
    const name = '\u001b]0;owned\u0007<script>alert(1)</script>|`**"\n::error::';
    const report = makeProbeReport({
      before: { ...summary, path: name },
      outputs: [{ ...output, name }, still],
      layers: [{ ...layer, name, notes: [name] }],
      inputs: { ...makeProbeReport().inputs, arrays: [{ name, dtype: 'F32', shape: [8], file: name }] },
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
    const page = renderProbe(makeProbeReport(), { format: 'html' });
    expect(page).toContain('default-src &#39;none&#39;; style-src &#39;sha256-');
    expect(page).not.toMatch(/<script|https?:|style=/);
  });

  test('the text fits 80 columns', () => {
    const report = makeProbeReport({
      layers: [{ ...layer, name: `backbone.${'deep.'.repeat(30)}bn` }],
      warnings: ['a word '.repeat(40).trim()],
    });
    expect(
      renderProbe(report, { width: 80 })
        .split('\n')
        .filter((line) => [...line].length > 80),
    ).toEqual([]);
  });

  test('a format that there is not is refused', () => {
    const options = { format: 'junit' } as unknown as { format: 'text' };
    expect(() => renderProbe(makeProbeReport(), options)).toThrow(
      new UsageError('format: expected one of text, json, markdown, html, found "junit"'),
    );
  });
});
