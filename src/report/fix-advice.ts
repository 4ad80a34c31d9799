import { type Finding, isLeadingDrift } from '../compare/findings.js';
import type { AuditLayer, AuditReport } from './audit-report.js';

/** Whether a finding is a frozen layer's drift that stands: what tables of drifted layers show, and advice is about. */
export function isFrozenDrift({ kind, level }: Finding): boolean {
  return kind === 'frozen-stats-drift' && level === 'error';
}

/**
 * Where statistics must be kept still: module paths whose `eval()` freezes all that drifted and nothing that was
 * trained. Empty when nothing drifted on its own.
 */
export function findModulesToFreeze({ regions, layers, findings }: AuditReport): readonly string[] {
  const blamed = new Set(findings.filter(isLeadingDrift).map(({ layer }) => layer));
  const drifted = layers.filter(
    ({ name, status }) => blamed.has(name) && (status === 'drifted' || status === 'ambiguous'),
  );
  const isInside = (name: string, path: string) =>
    path === '' || name === path || name.startsWith(`${path}.`);
  const frozen = regions
    .filter(({ status, path }) => status === 'frozen' && drifted.some(({ name }) => isInside(name, path)))
    .map(({ path }) => path);
  const others = drifted
    .filter(({ name }) => !frozen.some((path) => isInside(name, path)))
    .map(({ name }) => name);
  const convolutions = new Set(drifted.filter(isConvolution).map(({ name }) => name));
  const modules = [...frozen, ...others].flatMap((path) => (convolutions.has(path) ? parentOf(path) : path));
  return [...new Set(modules)];
}

/** A layer that was folded on both sides goes by its convolution's name: the norm layer stands beside that. */
function isConvolution({ via, before, after }: AuditLayer): boolean {
  return via === 'folded' && before.mean === null && after.mean === null;
}

/** The module above one; none above a top-level module, since the whole model is too much to freeze for it. */
function parentOf(path: string): readonly string[] {
  const dot = path.lastIndexOf('.');
  return dot < 0 ? [] : [path.slice(0, dot)];
}

/** So many modules are spelled out; a longer list is for a loop. */
const MAX_SPELLED_MODULES = 3;

/** So many names stand in a loop's tuple before the rest is only counted. */
const MAX_LISTED_MODULES = 6;

/** Python that keeps the modules in evaluation mode after `model.train()`, for a training loop. */
export function writeTrainingLoopFix(modules: readonly string[]): readonly string[] {
  if (modules.includes('')) return ['model.eval()  # in place of model.train(): nothing here is trained'];
  return ['model.train()', ...writeEvalCalls(modules, 'model')];
}

/** Python that does the same once and for all, as a method of the model's class. */
export function writeTrainOverride(modules: readonly string[]): readonly string[] {
  // eval() calls train(False), so on the model itself it would call this method again.
  const body = modules.includes('')
    ? ['return super().train(False)']
    : ['super().train(mode)', ...writeEvalCalls(modules, 'self'), 'return self'];
  return ['def train(self, mode=True):', ...body.map((line) => `    ${line}`)];
}

function writeEvalCalls(modules: readonly string[], root: string): readonly string[] {
  if (modules.length === 0) {
    return [
      `for module in ${root}.modules():  # of the frozen part`,
      '    if isinstance(module, torch.nn.modules.batchnorm._NormBase):',
      '        module.eval()',
    ];
  }
  if (modules.length <= MAX_SPELLED_MODULES) {
    return modules.map((path) => `${accessModule(root, path)}.eval()`);
  }
  const listed = modules.slice(0, MAX_LISTED_MODULES);
  const rest = modules.length - listed.length;
  return [
    `for name in (${rest > 0 ? `  # and ${rest} more` : ''}`,
    ...listed.map((path) => `    ${quotePython(path)},`),
    '):',
    `    ${root}.get_submodule(name).eval()`,
  ];
}

/** A module as Python reaches it: attributes and indices where the path is made of them, else `get_submodule`. */
function accessModule(root: string, path: string): string {
  const components = path.split('.');
  if (!components.every((component) => /^(?:[A-Za-z_]\w*|\d+)$/.test(component))) {
    return `${root}.get_submodule(${quotePython(path)})`;
  }
  return (
    root +
    components.map((component) => (/^\d/.test(component) ? `[${component}]` : `.${component}`)).join('')
  );
}

/** A Python string literal in ASCII: nothing from a file's names gets out of it. */
function quotePython(text: string): string {
  const escaped = [...text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')].map((character) => {
    const codePoint = character.codePointAt(0) ?? 0;
    return codePoint >= 0x20 && codePoint < 0x7f
      ? character
      : `\\U${codePoint.toString(16).padStart(8, '0')}`;
  });
  return `"${escaped.join('')}"`;
}
