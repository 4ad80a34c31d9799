import { describe, expect, test } from 'vitest';
import type { AuditLayer } from '../../src/report/audit-report.js';
import { type RenderOptions, render } from '../../src/report/render.js';
import { makeLayer, makeReport } from './sample-reports.js';

const renderLayerText = (layer: AuditLayer, options: RenderOptions = {}) =>
  render(makeReport({ layers: [layer] }), { ...options, layer: layer.name });

const layer = makeLayer('backbone.bn', {
  channels: 3,
  channelsMoved: 2,
  outputShift: 0.75,
  epsilon: 0,
  perChannel: {
    before: { mean: [0, 1, 2], variance: [1, 4, 1] },
    after: { mean: [0, 3, 2.5], variance: [1, 4, 4] },
    stdRatio: [1, 1, 2],
  },
});

test('a layer is shown channel by channel, those that moved most first', () => {
  expect(renderLayerText(layer)).toMatchInlineSnapshot(`
    "backbone.bn  BatchNorm, drifted, 3 channels, ε 0
      2 of 3 channels moved; output shift 0.750

      channel  mean before  after  var before  after  std ratio  mean shift
            1         1.00   3.00        4.00   4.00     × 1.00  ███████ 1.00 σ
            2         2.00   2.50        1.00   4.00     × 2.00  ███▌    0.500 σ
            0            0      0        1.00   1.00     × 1.00          0 σ
    "
  `);
});

test('with --all the channels stand in their order', () => {
  const channels = [...renderLayerText(layer, { all: true }).matchAll(/^ {2} +(\d) /gm)].map(
    ([, channel]) => channel,
  );
  expect(channels).toEqual(['0', '1', '2']);
});

describe('many channels', () => {
  const count = 40;
  const wide = makeLayer('bn', {
    channels: count,
    perChannel: {
      before: { mean: Array(count).fill(0), variance: Array(count).fill(1) },
      after: { mean: Array.from({ length: count }, (_, i) => i / 10), variance: Array(count).fill(1) },
      stdRatio: Array(count).fill(1),
    },
  });

  test('are cut at the 32 that moved most, and the rest is counted', () => {
    expect(renderLayerText(wide)).toMatch(/\n {2}… 8 more channels that moved less \(--all\)\n$/);
    expect(renderLayerText(wide)).toMatch(/\n +39 /);
    expect(renderLayerText(wide)).not.toMatch(/\n +7 /);
  });

  test('are all shown with --all', () => {
    expect(renderLayerText(wide, { all: true }).match(/σ$/gm)).toHaveLength(count);
  });
});

test('a channel that became NaN comes first', () => {
  const broken = makeLayer('bn', {
    perChannel: {
      before: { mean: [0, 0], variance: [1, 1] },
      after: { mean: [5, Number.NaN], variance: [1, Number.NaN] },
      stdRatio: [1, Number.NaN],
    },
  });
  expect(renderLayerText(broken)).toMatch(/std ratio.*\n +1 .*NaN/);
});

test('where the statistics are hidden, a sentence says so', () => {
  expect(
    renderLayerText(makeLayer('bn', { perChannel: { before: null, after: null, stdRatio: [] } })),
  ).toMatch(/\n {2}Its statistics cannot be read on both sides\.\n$/);
});

test('a hostile name steers nothing', () => {
  const text = renderLayerText({ ...layer, name: `\u001b[2J${'x'.repeat(10_000)}\n` });
  expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f]/);
  expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThan(700);
});
