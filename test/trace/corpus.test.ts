import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { trace } from '../../src/trace/trace.js';

const run = fileURLToPath(
  new URL(
    '../../../shared/corpus/pairs/Linzaer+Ultra-Light-Fast-Generic-Face-Detector-1MB/RFB-run',
    import.meta.url,
  ),
);

const isThere = existsSync(run);
if (!isThere) console.warn(`skipped: the checkpoints of a real run are not there (${run})`);

test.skipIf(!isThere)(
  'a real run, of which all was trained, is traced from its first epoch to its last',
  async () => {
    const names = readdirSync(run).filter((name) => name.endsWith('.pth'));
    const epochOf = (name: string) => Number(/Epoch-(\d+)-/.exec(name)?.[1]);
    const epochs = names.map(epochOf).sort((x, y) => x - y);
    const first = names.find((name) => epochOf(name) === epochs[0]) ?? '';
    const others = names.filter((name) => name !== first).map((name) => join(run, name));
    const report = await trace(join(run, first), others.toReversed());
    expect(report).toMatchObject({ verdict: 'clean', order: ['batches'], findings: [], skipped: [] });
    expect(report.checkpoints.map(({ epoch }) => epoch)).toEqual(epochs.slice(1));
    // 80 batches an epoch, and 35 layers that count each.
    expect(report.checkpoints.map(({ batches }) => batches)).toEqual(
      report.checkpoints.map(({ epoch }) => 35 * 80 * ((epoch ?? 0) + 1)),
    );
    expect(report.layers).toHaveLength(35);
    for (const { spans, thawed, onset } of report.layers) {
      expect(spans).toEqual([{ status: 'trained', from: 0, to: epochs.length - 2 }]);
      expect({ thawed, onset }).toEqual({ thawed: 0, onset: null });
    }
  },
);
