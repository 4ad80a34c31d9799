import { LOG_COMMAND } from '../errors.js';
import type { FreezePlan } from './freeze-plan.js';

/** How a framework of modules spells what the code below needs. */
export interface Dialect {
  /** Whom the code calls a module. */
  readonly noun: string;
  /** Methods that iterate over all submodules, bare and with their paths. */
  readonly all: string;
  readonly allNamed: string;
  /** The attribute that only norm layers have. */
  readonly mean: string;
  /** A submodule by an expression for its path. */
  readonly lookUp: (root: string, path: string) => string;
  /** What that needs imported. */
  readonly lookUpImport: string | null;
}

/** PyTorch, and MLX after it. */
export const TORCH: Dialect = {
  noun: 'module',
  all: 'modules',
  allNamed: 'named_modules',
  mean: 'running_mean',
  lookUp: (root, path) => `${root}.get_submodule(${path})`,
  lookUpImport: null,
};

/** Paddle, which has no way to look up a sublayer by its path. */
export const PADDLE: Dialect = {
  noun: 'layer',
  all: 'sublayers',
  allNamed: 'named_sublayers',
  mean: '_mean',
  lookUp: (root, path) => `reduce(getattr, ${path}.split("."), ${root})`,
  lookUpImport: 'from functools import reduce',
};

/** So many modules are spelled out; a longer list is for a rule or a loop. */
const MAX_SPELLED_MODULES = 3;

/** A list of names is broken into lines of about so many columns. */
const LIST_WIDTH = 68;

/**
 * Python that puts what a plan says in evaluation mode.
 *
 * @param root the expression for the model that the paths start from.
 */
export function writeEvalCalls(plan: FreezePlan, root: string, dialect: Dialect = TORCH): readonly string[] {
  const hidden = plan.isPartHidden
    ? ['frozen_part.eval()  # the frozen part of your model, whose path these files do not tell']
    : [];
  const code = [...writeKnownCalls(plan, root, dialect), ...hidden];
  const isLookedUp = code.some((line) => line.includes(dialect.lookUp(root, '').split('(')[0] ?? ''));
  return dialect.lookUpImport !== null && isLookedUp ? [dialect.lookUpImport, '', ...code] : code;
}

function writeKnownCalls({ modules, rule }: FreezePlan, root: string, dialect: Dialect): readonly string[] {
  if (modules.length <= MAX_SPELLED_MODULES) {
    return modules.map((path) => `${accessModule(root, path, dialect)}.eval()`);
  }
  if (rule === null) {
    return ['for name in (', ...writeList(modules), '):', `    ${dialect.lookUp(root, 'name')}.eval()`];
  }
  const { noun, mean, all, allNamed } = dialect;
  const parent = accessModule(root, rule.under, dialect);
  const isNorm = `hasattr(${noun}, ${quotePython(mean)})`;
  return rule.leaves === null
    ? [`for ${noun} in ${parent}.${all}():`, `    if ${isNorm}:`, `        ${noun}.eval()`]
    : [
        `for name, ${noun} in ${parent}.${allNamed}():`,
        `    if ${writeEndsWith(rule.leaves)} and ${isNorm}:`,
        `        ${noun}.eval()`,
      ];
}

function writeEndsWith(leaves: readonly string[]): string {
  const endings = leaves.map((leaf) => quotePython(`.${leaf}`));
  return `name.endswith(${endings.length === 1 ? endings.join('') : `(${endings.join(', ')})`})`;
}

/** The items of a Python tuple or set, some on a line. */
export function writeList(names: readonly string[]): readonly string[] {
  const lines: string[] = [];
  for (const name of names) {
    const item = `${quotePython(name)},`;
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + item.length <= LIST_WIDTH) {
      lines[lines.length - 1] = `${last} ${item}`;
    } else lines.push(`    ${item}`);
  }
  return lines;
}

/** A module as Python reaches it: attributes and indices where the path is made of them, else looked up by its path. */
function accessModule(root: string, path: string, dialect: Dialect): string {
  if (path === '') return root;
  const components = path.split('.');
  const isPlain = (component: string) =>
    /^(?:[A-Za-z_]\w*|0|[1-9]\d*)$/.test(component) && !KEYWORDS.has(component);
  if (!components.every(isPlain)) return dialect.lookUp(root, quotePython(path));
  return (
    root +
    components.map((component) => (/^\d/.test(component) ? `[${component}]` : `.${component}`)).join('')
  );
}

/** Words that stand for no attribute (Python 3.14's `keyword.kwlist`). */
const KEYWORDS: ReadonlySet<string> = new Set(
  (
    'False None True and as assert async await break class continue def del elif else except finally for from global ' +
    'if import in is lambda nonlocal not or pass raise return try while with yield'
  ).split(' '),
);

/** A Python string literal in ASCII: nothing from a file's names gets out of it. */
export function quotePython(text: string): string {
  const quotable = text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replace(LOG_COMMAND, '\\x23');
  const escaped = [...quotable].map((character) => {
    const codePoint = character.codePointAt(0) ?? 0;
    return codePoint >= 0x20 && codePoint < 0x7f
      ? character
      : `\\U${codePoint.toString(16).padStart(8, '0')}`;
  });
  return `"${escaped.join('')}"`;
}
