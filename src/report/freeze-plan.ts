import { isLeadingDrift } from '../compare/finding.js';
import { isUnder, splitPath } from '../norm/naming.js';
import type { AuditLayer, AuditReport } from './audit-report.js';

/** Which parts of the model must be kept still, for code that does it. */
export interface FreezePlan {
  /**
   * What was frozen and drifted all the same, as module paths: `''` for the whole model, of which nothing was trained and
   * nothing is new. Empty where the files do not tell all of it.
   */
  readonly blamed: readonly string[];
  /** Norm layers that drifted, and whose path is known. */
  readonly layers: readonly AuditLayer[];
  /** Module paths that hold all of these, and nothing that was trained or may drift. */
  readonly modules: readonly string[];
  /** A rule that picks the same layers among all norm layers; null where none fits. */
  readonly rule: NormRule | null;
  /** Whether layers drifted whose place in the model the files do not tell. */
  readonly isPartHidden: boolean;
}

/** All norm layers below a module, or those of them whose paths end in certain names. */
export interface NormRule {
  readonly under: string;
  readonly leaves: readonly string[] | null;
}

/** Longer paths are no module's: code is not written with them. */
const MAX_PATH_LENGTH = 300;

/** So many names at the ends of paths make a rule; with more it would be no shorter than a list. */
const MAX_LEAVES = 3;

/** Deeper modules are looked up by their whole path alone; regions end there too. */
const MAX_DEPTH = 64;

/** Plans what to keep still. Without modules and with nothing hidden, nothing drifted on its own. */
export function planFreeze({ regions, layers, findings }: AuditReport): FreezePlan {
  const blamed = new Set(findings.filter(isLeadingDrift).map(({ layer }) => layer));
  const drifted = layers.filter(({ name, status }) => blamed.has(name) && isDriftStatus(status));
  // A layer that is new in after has a note of its own.
  const fresh = findings.filter(({ kind, level }) => kind === 'unpaired-layer' && level === 'note');
  const trained = [...layers.filter(isTrained).map(({ name }) => name), ...fresh.map(({ layer }) => layer)];
  const spared = [...trained, ...layers.filter(({ allowed }) => allowed).map(({ name }) => name)];
  // Where names were lost, what bears none may lie anywhere: no module is known to be frozen as a whole.
  const isLost = layers.some(({ named }) => !named);
  const frozen = new Set(
    isLost ? [] : regions.filter(({ status }) => status === 'frozen').map(({ path }) => path),
  );
  const blamedParts = coverLayers(drifted, frozen, trained);
  const still = coverLayers(drifted, frozen, spared);
  const modules = still.modules.filter(({ length }) => length <= MAX_PATH_LENGTH);
  const isPartHidden = still.isPartHidden || modules.length < still.modules.length;
  const names = drifted.map(({ name }) => name);
  return {
    blamed: blamedParts.isPartHidden ? [] : blamedParts.modules,
    layers: drifted.filter((layer) => isPath(layer) && layer.name.length <= MAX_PATH_LENGTH),
    modules,
    rule: isPartHidden ? null : findRule(names, spared),
    isPartHidden,
  };
}

/** The largest frozen modules that hold drifted layers and none to spare, and the drifted layers outside of them. */
function coverLayers(
  drifted: readonly AuditLayer[],
  frozen: ReadonlySet<string>,
  spared: readonly string[],
): Pick<FreezePlan, 'modules' | 'isPartHidden'> {
  const mixed = new Set(spared.flatMap(modulesAround));
  const modules = new Set<string>();
  let isPartHidden = false;
  for (const layer of drifted) {
    const around = modulesAround(layer.name);
    const top = around.findIndex((path) => frozen.has(path));
    const inside = top < 0 ? [layer.name] : around.slice(top).filter((path) => !mixed.has(path));
    const [module] = inside.filter((path) => path !== layer.name || isPath(layer));
    if (module === undefined) isPartHidden = true;
    else modules.add(module);
  }
  return { modules: [...modules], isPartHidden };
}

/** Whether code can reach the layer by its name: not a graph's node, nor the convolution that it was folded into. */
function isPath({ named, via, before, after }: AuditLayer): boolean {
  const isConvolution = via === 'folded' && before.mean === null && after.mean === null;
  return named && !isConvolution;
}

function isDriftStatus(status: AuditLayer['status']): boolean {
  return status === 'drifted' || status === 'ambiguous';
}

/** Whether the layer had reason to move. */
function isTrained({ status, affine, neighbours }: AuditLayer): boolean {
  if (status === 'locked' || isDriftStatus(status)) return false;
  return affine === 'changed' || neighbours === 'changed';
}

/** The root, every module down to a path, and the path itself. */
function modulesAround(path: string): readonly string[] {
  const around = [''];
  for (let dot = path.indexOf('.'); dot >= 0 && around.length < MAX_DEPTH; dot = path.indexOf('.', dot + 1)) {
    around.push(path.slice(0, dot));
  }
  return path === '' ? around : [...around, path];
}

function findRule(drifted: readonly string[], spared: readonly string[]): NormRule | null {
  const under = commonParent(drifted);
  const others = spared.filter((name) => isUnder(name, under));
  if (others.length === 0) return { under, leaves: null };
  const leaves = [...new Set(drifted.map(leafOf))];
  const isExact =
    !others.some((name) => leaves.includes(leafOf(name))) &&
    drifted.every((name) => splitPath(name)[0] !== under);
  return isExact && leaves.length <= MAX_LEAVES ? { under, leaves } : null;
}

function leafOf(path: string): string {
  return splitPath(path)[1];
}

/** The deepest module that holds all of them. */
function commonParent(paths: readonly string[]): string {
  const [first = '', ...others] = paths;
  let [parent] = splitPath(first);
  for (const path of others) {
    while (parent !== '' && (!isUnder(path, parent) || path === parent)) [parent] = splitPath(parent);
  }
  return parent;
}
