import { describe, expect, test } from 'vitest';
import { encodeNumbers } from '../../src/report/html/channel-codec.js';
import { buildTraceData } from '../../src/report/html/trace-data.js';
import { render } from '../../src/report/render.js';
import { makeMoments, type TraceCheckpoint } from '../../src/report/trace-report.js';
import { makeTrace } from './sample-traces.js';

const moment = (checkpoints: readonly Partial<TraceCheckpoint>[]) =>
  checkpoints.map((_, index) =>
    makeMoments(
      checkpoints.map((one) => ({ epoch: null, step: null, path: 'x.pt', ...one }) as TraceCheckpoint),
      (name) => `<${name}>`,
    )(index),
  );

describe('a checkpoint is called by', () => {
  test('its epoch, and its step where epochs are not apart, or where there are none', () => {
    expect(
      moment([
        { epoch: 1, step: 5 },
        { epoch: 2, step: 9 },
      ]),
    ).toEqual(['epoch 1', 'epoch 2']);
    expect(
      moment([
        { epoch: 1, step: 5 },
        { epoch: 1, step: 9000 },
      ]),
    ).toEqual(['epoch 1, step 5', 'epoch 1, step 9,000']);
    expect(moment([{ step: 5 }, { epoch: 1, step: 9 }])).toEqual(['step 5', 'step 9']);
  });

  test('its name where neither tells, with its directory where the name is that of all', () => {
    expect(moment([{ path: 'a/x.pt' }, { epoch: 3, path: 'a/y.pt' }])).toEqual(['<x.pt>', '<y.pt>']);
    expect(moment([{ path: 'out/c-1/model.safetensors' }])).toEqual(['<c-1/model.safetensors>']);
  });
});

describe('a trace', () => {
  test('as JUnit has a test for each layer, whose message says when it began', () => {
    const xml = render(makeTrace(), { format: 'junit' });
    expect(xml).toContain('tests="4" failures="2"');
    expect(xml).toContain('<failure message="not yet at epoch 2, drifted from epoch 3 on');
    expect(xml).toContain('<property name="skipped" value="runs/a/x.pt: expected a checkpoint"/>');
  });

  test('is annotated at the checkpoint at which it began', () => {
    const options = { format: 'sarif' } as const;
    const { runs } = JSON.parse(render(makeTrace(), options));
    expect(runs).toHaveLength(1);
    expect(runs[0].results[0].locations[0].physicalLocation.artifactLocation).toEqual({
      uri: 'runs/a/epoch_3.pt',
    });
    expect(render(makeTrace(), { format: 'github' })).toContain(
      'file=runs/a/epoch_3.pt::2 layers, the worst backbone.layer0.bn',
    );
    const [issue] = JSON.parse(render(makeTrace(), { format: 'gitlab' }));
    expect(issue.location.path).toBe('runs/a/epoch_3.pt');
  });

  test('as Markdown fits a comment, whatever its size and names', () => {
    const name = (index: number) => `${'x'.repeat(5000)}${index}`;
    const long = makeTrace({
      layers: 300,
      checkpoints: 500,
      onset: 100,
      name,
      path: (index) => `runs/${name(index)}`,
    });
    expect(render(long, { format: 'markdown' }).length).toBeLessThan(65_536);
    expect(render(long, { format: 'markdown', all: true }).length).toBeLessThan(1_000_000);
    expect(render(makeTrace(), { format: 'markdown' })).toMatch(
      /^### ❌ Drifted: .*first at epoch 3; 1 of 5 checkpoints was left out\n/,
    );
  });

  test('as text on a terminal stays within 80 columns, whatever its names', () => {
    const name = (index: number) => `backbone.${'block.'.repeat(40)}${index}.bn`;
    const path = (index: number) => `runs/${'directory/'.repeat(30)}checkpoint ${index}.pt`;
    const report = makeTrace({ layers: 30, name, path });
    const unnamed = { ...report, checkpoints: report.checkpoints.map((one) => ({ ...one, epoch: null })) };
    for (const one of [report, unnamed]) {
      const lines = render(one, { width: 80 }).split('\n');
      expect(lines.filter((line) => [...line].length > 80)).toEqual([]);
    }
  });

  test('as a page of 300 layers over 500 checkpoints stays under 3 MB, and holds every number of its chart', () => {
    const report = makeTrace({ layers: 150, checkpoints: 500, onset: 120 });
    expect(render(report, { format: 'html' }).length).toBeLessThan(3_000_000);
    const data = buildTraceData(report);
    expect(data.onset).toEqual({ step: 120, label: 'epoch 121' });
    expect(data.moments).toHaveLength(500);
    expect(data.layers).toHaveLength(300);
    expect(data.layers[7]?.shifts).toBe(encodeNumbers(report.layers[7]?.outputShift.map(Number) ?? []));
  });

  test('as a page of very many checkpoints shows the largest of several in a row, and leaves out what moved least', () => {
    const report = makeTrace({ layers: 600, checkpoints: 900, onset: 450 });
    const { layers, moments, onset } = buildTraceData(report);
    expect(layers).toHaveLength(1000);
    expect(moments).toHaveLength(300);
    expect(onset).toEqual({ step: 150, label: 'epoch 451' });
    expect(layers.filter(({ status }) => status === 'drifted')).toHaveLength(600);
  });
});
