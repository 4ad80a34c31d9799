import type { AuditOptions } from '../audit.js';
import type { AuditRequest } from '../audit-each.js';
import { quote, UsageError } from '../errors.js';
import { isSameFile } from '../io/same-file.js';
import { type FailOn, type NamedPair, POLICY_FILE_NAME, type PolicyRules } from '../policy/policy.js';
import { suggestName } from '../suggest-name.js';
import { findCheckpoints, type OnSkip, type Search } from './find-checkpoints.js';
import { type LoadedPolicy, resolveFromPolicy } from './load-policy.js';

/** A run of some thousand audits takes seconds however small the files are; more of them were not meant. */
const MAX_AUDITS = 5_000;

/** What a run of `diff` is asked to compare. */
export interface DiffTargets {
  readonly before: string | undefined;
  readonly after: readonly string[];
  /** Names of pairs in the policy. */
  readonly pair?: readonly string[] | undefined;
  readonly allPairs?: boolean | undefined;
}

/** One audit of a run, with what decides its exit code. */
export interface PlannedAudit extends AuditRequest {
  readonly options: AuditOptions;
  readonly failOn: FailOn;
}

/**
 * The audits that a run asks for. For each setting the command line wins over the named pair, and the pair over the
 * rest of the policy.
 *
 * @param onSkip is told of what a glob could not look into.
 * @throws UsageError when a pair is unknown, more than {@link MAX_AUDITS} audits are asked for, or as {@link findCheckpoints}.
 */
export function planAudits(
  targets: DiffTargets,
  rules: PolicyRules,
  loaded: LoadedPolicy | null,
  onSkip: OnSkip,
): readonly PlannedAudit[] {
  const search: Search = { onSkip, entries: 0 };
  const audits: PlannedAudit[] = [];
  const plan = (before: string, after: readonly string[], pair: PolicyRules) => {
    const { failOn = 'error', ...options } = { ...pickRules(loaded), ...pair, ...rules };
    for (const path of after) audits.push({ before, after: path, options, failOn });
    if (audits.length > MAX_AUDITS) throw new UsageError(`more than ${MAX_AUDITS} audits in one run`);
  };
  if (targets.before !== undefined) {
    plan(targets.before, expandAfter(targets.before, targets.after, { search }), {});
    return audits;
  }
  for (const { pair, policy } of listPairs(targets, loaded)) {
    const before = resolveFromPolicy(policy, pair.before);
    const { before: _, after, ...overrides } = pair;
    const { directory } = policy;
    plan(before, expandAfter(before, after, { directory, search }), overrides);
  }
  return audits;
}

/** What the policy says about every audit. */
function pickRules(loaded: LoadedPolicy | null): PolicyRules {
  if (loaded === null) return {};
  const { pairs: _, reports: __, ...rules } = loaded.policy;
  return rules;
}

/** Every after, globs expanded. A glob that catches before as well does not mean it. */
function expandAfter(
  before: string,
  after: readonly string[],
  { directory, search }: { readonly directory?: string; readonly search: Search },
): readonly string[] {
  const expanded: string[] = [];
  for (const argument of after) {
    const found = findCheckpoints(argument, directory, search);
    const others = found.length === 1 ? found : found.filter((path) => !isSameFile(path, before));
    expanded.push(...(others.length === 0 ? found : others));
  }
  return expanded;
}

function listPairs(
  { pair: names = [], allPairs }: DiffTargets,
  loaded: LoadedPolicy | null,
): readonly { readonly pair: NamedPair; readonly policy: LoadedPolicy }[] {
  if (loaded === null) {
    throw new UsageError(
      `--${allPairs ? 'all-pairs' : 'pair'} needs a policy file, found no ${POLICY_FILE_NAME} here or above`,
      'Write one with bn-audit init CHECKPOINT, or name one with --config FILE.',
    );
  }
  const { pairs } = loaded.policy;
  if (pairs.size === 0) throw new UsageError(`${loaded.file}: pairs: expected at least one pair, found none`);
  const wanted = allPairs === true ? [...pairs.keys()] : names;
  return wanted.map((name) => {
    const pair = pairs.get(name);
    if (pair !== undefined) return { pair, policy: loaded };
    throw new UsageError(
      `--pair ${quote(name)}: ${loaded.file} has no such pair${suggestName(name, [...pairs.keys()])}`,
      `Pairs there: ${[...pairs.keys()].slice(0, 20).map(quote).join(', ')}`,
    );
  });
}
