import { expect, test } from 'vitest';
import { planAudits } from '../../src/cli/diff-command.js';
import { startSearch } from '../../src/cli/find-checkpoints.js';

test('a run of more audits than were meant is a usage error before any of them', () => {
  const plan = (count: number) =>
    planAudits({ before: 'b.pt', after: Array<string>(count).fill('a.pt') }, {}, null, startSearch().search);
  expect(plan(5_000)).toHaveLength(5_000);
  expect(() => plan(5_001)).toThrow('more than 5000 audits in one run');
});
