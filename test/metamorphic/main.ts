// npm run fuzz:verdicts -- --minutes N [--seed S] [--case SEED]: see docs/fuzzing.md.
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { Random } from '../fuzz/random.js';
import { renderTable } from '../fuzz/table.js';
import { settle } from './model.js';
import { plans } from './plan.js';
import { type Outcome, RELATIONS, tryPlan } from './relations.js';

/** Shrinking one fault may take so long; the smallest case by then is printed. */
const SHRINK_MS = 10_000;

/** The seeds of cases lie below. */
const MAX_SEED = 2 ** 31;

const { values: options } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string', default: '1' },
    case: { type: 'string' },
  },
});

/** Cases and faulty ones by container and relation. */
const tallies = new Map<string, { cases: number; faulty: number }>();

/** How many cases showed each kind of fault, and the seed of the first. */
const found = new Map<string, { readonly seed: number; cases: number }>();

if (options.case !== undefined) await runCase(Number(options.case));
else {
  const [minutes, seed] = [Number(options.minutes), Number(options.seed)];
  if (!(minutes > 0) || !Number.isSafeInteger(seed))
    throw new Error('--minutes takes a number larger than 0, and --seed a whole number');
  const end = performance.now() + minutes * 60_000;
  const random = new Random(seed);
  while (performance.now() < end) await runCase(random.below(MAX_SEED));
}
console.log(renderTallies());
for (const [kind, { seed, cases }] of [...found].sort(([, x], [, y]) => y.cases - x.cases))
  console.log(`${cases} × ${kind} (--case ${seed})`);
process.exitCode = found.size > 0 ? 1 : 0;

async function runCase(seed: number): Promise<void> {
  const [plan] = fc.sample(plans, { seed, numRuns: 1 });
  if (plan === undefined) return;
  for (const outcome of await tryPlan(plan)) {
    const tally = tallyOf(outcome.container, outcome.relation);
    tally.cases++;
    const kinds = listKinds(outcome);
    if (kinds.length > 0) tally.faulty++;
    const fresh = kinds.filter((kind) => !found.has(kind));
    for (const kind of kinds) {
      const known = found.get(kind) ?? { seed, cases: 0 };
      known.cases++;
      found.set(kind, known);
    }
    // What else is wrong in the same place is mostly the same fault.
    if (fresh[0] !== undefined) await printSmallest(seed, fresh[0]);
  }
}

function tallyOf(container: string, relation: string): { cases: number; faulty: number } {
  const key = `${container}, ${relation}`;
  const tally = tallies.get(key) ?? { cases: 0, faulty: 0 };
  tallies.set(key, tally);
  return tally;
}

function listKinds({ relation, faults }: Outcome): readonly string[] {
  return [...new Set(faults.map(({ what }) => `${relation}: ${what}`))];
}

/** Prints the smallest plan with a fault of the same kind. */
async function printSmallest(seed: number, kind: string): Promise<void> {
  let detail = '';
  const { counterexample } = await fc.check(
    fc.asyncProperty(plans, async (plan) => {
      const faulty = (await tryPlan(plan)).find((outcome) => listKinds(outcome).includes(kind));
      const fault = faulty?.faults.find(({ what }) => kind === `${faulty.relation}: ${what}`);
      if (fault !== undefined) detail = fault.detail;
      return fault === undefined;
    }),
    { seed, numRuns: 1, interruptAfterTimeLimit: SHRINK_MS },
  );
  const smallest = counterexample === null ? '' : JSON.stringify(settle(counterexample[0]));
  console.log(`${kind}\n  --case ${seed}\n  ${detail}\n  ${smallest}\n`);
}

/** A row for each container: cases under each relation, and how many of them were faulty. */
function renderTallies(): string {
  const containers = [...new Set([...tallies.keys()].map((key) => key.split(', ')[0] ?? ''))].sort();
  const rows = containers.map((container) => [
    container,
    ...RELATIONS.map((relation) => {
      const { cases, faulty } = tallyOf(container, relation);
      return faulty === 0 ? String(cases) : `${cases} (${faulty} faulty)`;
    }),
  ]);
  return renderTable([['container', ...RELATIONS], ...rows]);
}
