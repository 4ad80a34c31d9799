import { expect, test } from 'vitest';
import { type RestoreReport, renderRestoreText } from '../../src/restore/restore-report.js';

const RESTORED: RestoreReport = {
  schemaVersion: 1,
  tool: { name: 'bn-audit', version: '1.2.3' },
  outcome: 'restored',
  before: { path: 'runs/base.pt', format: 'PyTorch' },
  after: { path: 'runs/tuned.pt', format: 'PyTorch' },
  files: ['runs/fixed.pt'],
  layers: Array.from({ length: 12 }, (_, index) => ({
    name: `resnet.encoder.stages.${index % 4}.layers.${index}.normalization`,
    status: 'drifted',
    via: 'live',
    channels: 2048,
    channelsMoved: 2048,
    outputShift: 0.5,
    batches: null,
    parts: [{ part: 'running mean', tensor: 'x', dtype: 'F32', elements: 2048 }],
    notes: [],
  })),
  left: [],
  warnings: [],
};

test.each([40, 60, 80, 120, 200])(
  'every line fits %d columns, and names the layer and the shift',
  (width) => {
    const lines = renderRestoreText(RESTORED, { width }).split('\n');
    expect(lines.filter((line) => line.length > width)).toEqual([]);
    expect(lines.filter((line) => /layers\.\d+.* 0\.500$/.test(line))).toHaveLength(12);
  },
);
