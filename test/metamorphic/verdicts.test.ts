import fc from 'fast-check';
import { expect, test } from 'vitest';
import { plans } from './plan.js';
import { tryPlan } from './relations.js';

/** A few seconds; `npm run fuzz:verdicts` tries more. */
const CASES = 15;

test('what is known to have happened to a model is what an audit says, in every container', async () => {
  await fc.assert(
    fc.asyncProperty(plans, async (plan) => {
      const faults = (await tryPlan(plan)).flatMap(({ relation, faults }) =>
        faults.map(({ what, detail }) => `${relation}: ${what} (${detail})`),
      );
      expect(faults).toEqual([]);
    }),
    { seed: 19, numRuns: CASES },
  );
}, 60_000);
