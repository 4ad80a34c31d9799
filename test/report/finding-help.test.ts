import { describe, expect, test } from 'vitest';
import { FINDING_KINDS } from '../../src/compare/findings.js';
import { countsBatches, helpWith } from '../../src/report/finding-help.js';

const OTHERS = ['keras', 'flax', 'paddle', 'mxnet', 'caffe2', 'darknet'] as const;

/** What only PyTorch has. */
const TORCH_WORDS = /requires_grad|batch count|model\.eval\(\)|load_state_dict|num_batches_tracked|lr=0/;

describe('help speaks the words of the framework', () => {
  test.each(OTHERS)('%s', (framework) => {
    for (const kind of FINDING_KINDS) {
      // A count that moved is there only where the checkpoint has one, and what a file declares is named as it does.
      if (kind === 'batch-stats-while-frozen' || kind === 'declared-frozen-changed') continue;
      const { meaning, remedy } = helpWith(kind, framework);
      expect(`${kind}: ${meaning} ${remedy}`).not.toMatch(TORCH_WORDS);
    }
    expect(countsBatches(framework)).toBe(false);
  });

  test('PyTorch’s where no file tells', () => {
    for (const framework of [null, 'pytorch', 'lightning'] as const) {
      expect(helpWith('frozen-stats-drift', framework).meaning).toMatch(/requires_grad=False/);
      expect(countsBatches(framework)).toBe(true);
    }
  });

  test('each says how to keep statistics still', () => {
    expect(OTHERS.map((framework) => helpWith('frozen-stats-drift', framework).remedy)).toEqual([
      expect.stringContaining('trainable=False'),
      expect.stringContaining('use_running_average=True'),
      expect.stringContaining('evaluation mode'),
      expect.stringContaining('use_global_stats=True'),
      expect.stringContaining('is_test=1'),
      expect.stringContaining('bn-audit restore'),
    ]);
  });
});
