import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import {
  type AuditOptions,
  type AuditReport,
  audit,
  CheckpointError,
  createBaseline,
  inspect,
  openCheckpoint,
  restore,
} from '../../src/index.js';
import { type Written, writeModel } from './containers.js';
import {
  isFoldedIn,
  isGraph,
  type Layer,
  type Model,
  makeModels,
  settle,
  store,
  tellsEpsilon,
} from './model.js';
import type { Plan } from './plan.js';
import { type Fault, findFaults, listOpenLayers, showPrefix } from './truth.js';

/** What must hold of every generated pair. */
export const RELATIONS = ['verdict', 'self', 'swap', 'containers', 'baseline', 'restore', 'inspect'] as const;
export type Relation = (typeof RELATIONS)[number];

/** What a relation was tried on, and what was wrong. */
export interface Outcome {
  readonly relation: Relation;
  readonly container: string;
  readonly faults: readonly Fault[];
}

/** Writes both models of a plan down and tries every relation on them. */
export async function tryPlan(unsettled: Plan): Promise<readonly Outcome[]> {
  const plan = settle(unsettled);
  const directory = mkdtempSync(join(tmpdir(), 'bn-audit-verdicts-'));
  try {
    const { before, after } = makeModels(plan);
    const [one, other] = plan.containers;
    const written = {
      before: writeModel(before, one, directory, 'before'),
      after: writeModel(after, other, directory, 'after'),
      directory,
    };
    const trial: Trial = { ...written, plan };
    const outcomes: Outcome[] = [];
    for (const relation of RELATIONS) {
      const faults = await TRIALS[relation](trial).catch((error: unknown) =>
        asksForMap(error, plan) ? [] : [toFault(error)],
      );
      outcomes.push({ relation, container: relation === 'containers' ? one : other, faults });
    }
    return outcomes;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

interface Trial {
  readonly plan: Plan;
  readonly before: Written;
  readonly after: Written;
  readonly directory: string;
}

/** Where few layers are left to tell a prefix by, two may fit: then the audit is not done, and says what it needs. */
function asksForMap(error: unknown, { prefixes, isMapped }: Plan): boolean {
  const isOpen = prefixes[0] !== prefixes[1] && !isMapped;
  return isOpen && error instanceof CheckpointError && error.hint?.includes('--map') === true;
}

/** An error is a fault: every generated pair can be audited. */
function toFault(error: unknown): Fault {
  if (!(error instanceof CheckpointError))
    return { what: `a crash: ${error}`, detail: error instanceof Error ? String(error.stack) : '' };
  const { code, message, hint } = error;
  return { what: `an error: ${code}`, detail: `${message}; ${hint}` };
}

const TRIALS: Readonly<Record<Relation, (trial: Trial) => Promise<readonly Fault[]>>> = {
  verdict: ({ before, after, plan }) => compare(before, after, plan),
  swap: ({ before, after, plan }) => compare(after, before, plan),
  async self({ before, after, directory, plan }) {
    const copies = [before, after].map(({ model, container }, index) =>
      writeModel(model, container, directory, `copy-${index}`),
    );
    const faults = [];
    for (const [index, original] of [before, after].entries())
      faults.push(...(await compare(original, copies[index] as Written, { ...plan, rounding: 'none' })));
    return faults;
  },
  async containers({ before, after, directory, plan }) {
    const twin = writeModel(before.model, after.container, directory, 'twin');
    return compare(before, twin, { ...plan, rounding: 'none' });
  },
  async baseline({ before, after, plan }) {
    const options = optionsFor(before, after, plan);
    const direct = await audit(before.path, after.path, options);
    const { rounding } = plan;
    const open = listOpenLayers(before, after, { rounding, epsilon: options.epsilon });
    const faults: Fault[] = [];
    const [one, other] = [await writeBaseline(before), await writeBaseline(after)];
    for (const [x, y] of [
      [one, after.path],
      [before.path, other],
      [one, other],
    ] as const)
      faults.push(...findDifferences(direct, await audit(x, y, options), open));
    return faults;
  },
  async restore({ before, after, directory, plan }) {
    const options = optionsFor(before, after, plan);
    const direct = await audit(before.path, after.path, options);
    const path = join(directory, basename(after.path).replace('after', 'fixed'));
    const drifted = direct.layers.filter(({ status }) => status === 'drifted');
    try {
      const { outcome } = await restore(before.path, after.path, path, options);
      const wanted = drifted.length > 0 ? 'restored' : 'nothing';
      if (outcome !== wanted) return [{ what: `outcome ${outcome} in place of ${wanted}`, detail: '' }];
    } catch (error) {
      if (mayRefuse(error, plan)) return [];
      throw error;
    }
    if (drifted.length === 0) return [];
    // What was solved for is before's up to rounding, and with whatever else was trained in it.
    if (before.container.endsWith('folded')) return findDrift(await audit(before.path, path, options));
    const names = new Set(drifted.map(({ name }) => name));
    const fixed = { ...after, path, model: putBack(before, after, (layer) => isAmong(names, layer)) };
    return [
      ...(await compare(before, fixed, plan)),
      ...(await compare(after, fixed, { ...plan, rounding: 'none' })),
    ];
  },
  async inspect({ before, after }) {
    return [...(await checkInspection(before)), ...(await checkInspection(after))];
  },
};

async function compare(before: Written, after: Written, plan: Plan): Promise<readonly Fault[]> {
  const options = optionsFor(before, after, plan);
  const { rounding } = plan;
  const report = await audit(before.path, after.path, options);
  return findFaults(report, before, after, { rounding, epsilon: options.epsilon });
}

function optionsFor(before: Written, after: Written, plan: Plan): Pick<AuditOptions, 'epsilon' | 'map'> {
  const [from, to] = [before, after].map(({ model }) => showPrefix(model).replace(/\.$/, '')) as [
    string,
    string,
  ];
  // Where a folded file stands beside one of names, nothing tells an epsilon that is not the default.
  const isTold = [before, after].some(({ container }) => tellsEpsilon(container));
  const isNeeded = [before, after].some(({ container }) => container.endsWith('folded'));
  return {
    epsilon: !isTold && isNeeded && plan.epsilons[0] !== 1e-5 ? plan.epsilons[0] : undefined,
    map: plan.isMapped && from !== to ? [{ from, to }] : undefined,
  };
}

async function writeBaseline({ path }: Written): Promise<string> {
  const checkpoint = await openCheckpoint(path);
  try {
    const { bytes } = await createBaseline(checkpoint);
    const target = `${path}.bn.safetensors`;
    writeFileSync(target, bytes);
    return target;
  } finally {
    await checkpoint.close();
  }
}

/** What a baseline must not change, apart from layers of which rounding decides. */
function findDifferences(
  direct: AuditReport,
  other: AuditReport,
  open: ReadonlySet<string>,
): readonly Fault[] {
  const [wanted, found] = [listAnswers(direct, open), listAnswers(other, open)];
  const differences = found.filter((answer) => !wanted.includes(answer));
  return wanted.length === found.length && differences.length === 0
    ? []
    : [
        {
          what: 'another answer',
          detail: `${differences.join('; ')}; of ${found.length} for ${wanted.length}`,
        },
      ];
}

function listAnswers(
  { layers, findings, verdict }: AuditReport,
  open: ReadonlySet<string>,
): readonly string[] {
  // Whether one factor explains all channels of a folded layer is a matter of rounding as well.
  const drifted = layers.filter(({ via, status }) => via === 'folded' && status === 'drifted');
  const unsure = new Set([...open, ...drifted.map(({ name }) => name)]);
  return [
    ...(layers.some(({ name }) => unsure.has(name)) ? [] : [verdict]),
    ...findings.flatMap(({ kind, level, layer }) => (unsure.has(layer) ? [] : [`${kind} ${level} ${layer}`])),
    ...layers.map(({ name, via, status, affine, neighbours, batches, channelsMoved }) =>
      open.has(name)
        ? name
        : [name, status, affine, neighbours, batches, via === 'live' ? channelsMoved : null].join(' '),
    ),
  ];
}

function isAmong(names: ReadonlySet<string>, { path, feeder }: Layer): boolean {
  return [...names].some((name) =>
    [path, feeder.path].some((own) => name === own || name.endsWith(`.${own}`)),
  );
}

function findDrift({ layers }: AuditReport): readonly Fault[] {
  return layers.flatMap(({ name, status }) =>
    status === 'drifted' ? [{ what: 'a restored layer drifts', detail: name }] : [],
  );
}

/** What docs/restore.md says that cannot be done. */
function mayRefuse(error: unknown, { containers, layers }: Plan): boolean {
  if (!(error instanceof CheckpointError) || !error.message.includes('cannot be restored:')) return false;
  if (containers[1] === 'sparse ONNX') return true;
  // Statistics that rescale all channels alike look like a constant that an optimiser has moved into the weights.
  if (containers[1].endsWith('folded') && error.message.includes('multiplied by the same constant'))
    return true;
  // Folded scales tell no statistics where what scales was trained as well.
  return containers[0].endsWith('folded') && layers.some(({ edit }) => /affine|everything/.test(edit));
}

/** After with the statistics of before in some layers; folding binds them to all else that it writes. */
function putBack(before: Written, after: Written, isRestored: (layer: Layer) => boolean): Model {
  const { statisticsType } = after.model;
  const originals = new Map(before.model.layers.map((layer) => [layer.path, layer]));
  return {
    ...after.model,
    layers: after.model.layers.map((layer) => {
      const original = originals.get(layer.path);
      if (original === undefined || !isRestored(layer)) return layer;
      if (isFoldedIn(after.container, layer.feeder.kind)) return original;
      const isCounted = !isGraph(before.container) && layer.count !== null && original.count !== null;
      const [mean, variance] = [
        store(original.mean, statisticsType),
        store(original.variance, statisticsType),
      ];
      return { ...layer, mean, variance, count: isCounted ? original.count : layer.count };
    }),
  };
}

async function checkInspection({ model, container, path }: Written): Promise<readonly Fault[]> {
  const live = model.layers.filter(({ feeder }) => !isFoldedIn(container, feeder.kind));
  const report = await inspect(path, { channels: true });
  const faults: Fault[] = [];
  if (report.layers.length !== live.length)
    faults.push({ what: 'another number of layers', detail: `${report.layers.length} for ${live.length}` });
  for (const layer of live) {
    const reported = report.layers.find(({ name }) => isAmong(new Set([name]), layer));
    const { perChannel } = reported ?? {};
    const wanted = { mean: layer.mean, variance: layer.variance };
    for (const [what, values] of Object.entries(wanted)) {
      const found = perChannel?.[what as 'mean' | 'variance'];
      if (String([...values]) !== String(found))
        faults.push({ what: `another ${what}`, detail: `${layer.path}: ${found} for ${[...values]}` });
    }
    const isInvalid =
      [...layer.mean, ...layer.variance].some((value) => !Number.isFinite(value)) ||
      layer.variance.some((value) => value < 0);
    const status = isInvalid ? 'invalid' : 'ok';
    if (reported?.status !== status)
      faults.push({ what: `status ${reported?.status} in place of ${status}`, detail: layer.path });
    const batches = isGraph(container) || layer.count === null ? null : Number(layer.count);
    if (reported?.batches !== batches)
      faults.push({
        what: 'another batch count',
        detail: `${layer.path}: ${reported?.batches} for ${batches}`,
      });
  }
  return faults;
}
