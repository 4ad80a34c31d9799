import type { AuditReport } from './audit-report.js';

/** Where statistics must be kept still: module paths whose `eval()` freezes all that drifted and nothing trained. */
export function findModulesToFreeze({ regions, layers }: AuditReport): readonly string[] {
  const frozen = regions
    .filter(({ status, drifted }) => status === 'frozen' && drifted > 0)
    .map(({ path }) => path);
  const isCovered = (name: string) =>
    frozen.some((path) => path === '' || name === path || name.startsWith(`${path}.`));
  const others = layers
    .filter(({ name, status }) => status === 'drifted' && !isCovered(name))
    .map(({ name }) => name);
  return [...frozen, ...others];
}

/** So many modules are spelled out; a longer list is for a loop. */
const MAX_SPELLED_MODULES = 3;

/** So many names stand in a loop's tuple before the rest is only counted. */
const MAX_LISTED_MODULES = 6;

/** Python that keeps the modules in evaluation mode after `model.train()`, for a training loop. */
export function writeTrainingLoopFix(modules: readonly string[]): readonly string[] {
  return ['model.train()', ...writeEvalCalls(modules, 'model')];
}

/** Python that does the same once and for all, as a method of the model's class. */
export function writeTrainOverride(modules: readonly string[]): readonly string[] {
  const body = ['super().train(mode)', ...writeEvalCalls(modules, 'self'), 'return self'];
  return ['def train(self, mode=True):', ...body.map((line) => `    ${line}`)];
}

function writeEvalCalls(modules: readonly string[], root: string): readonly string[] {
  if (modules.length <= MAX_SPELLED_MODULES) {
    return modules.map((path) =>
      path === '' && root === 'self' ? 'super().train(False)' : `${accessModule(root, path)}.eval()`,
    );
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
  if (path === '') return root;
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
