/** A model as the code sees it: every module's path, and which of them are norm layers. */
export interface ModuleTree {
  readonly modules: ReadonlySet<string>;
  readonly norms: ReadonlySet<string>;
}

/**
 * Runs the few forms of Python that reports print for PyTorch against a module tree.
 *
 * @returns the modules that are in evaluation mode afterwards.
 * @throws on any line that it does not know, and where the code would reach a module that is not there.
 */
export function interpretFix(code: readonly string[], tree: ModuleTree): ReadonlySet<string> {
  const still = new Set<string>();
  const evaluate = (path: string) => {
    if (!tree.modules.has(path)) throw new Error(`no module ${path}`);
    for (const module of tree.modules) if (isInside(module, path)) still.add(module);
  };
  const lines = [...code];
  const take = (pattern: RegExp) => pattern.exec(lines[0] ?? '') ?? null;
  while (lines.length > 0) {
    const call = take(/^(model.*)\.eval\(\)$/);
    const listed = take(/^for name in \($/);
    const all = take(/^for module in (model.*)\.modules\(\):$/);
    const named = take(/^for name, module in (model.*)\.named_modules\(\):$/);
    if (call !== null) {
      evaluate(resolve(call[1] ?? ''));
      lines.shift();
    } else if (listed !== null) {
      const end = lines.indexOf('):');
      for (const line of lines.slice(1, end)) for (const name of stringsOf(line)) evaluate(name);
      if (lines[end + 1] !== '    model.get_submodule(name).eval()')
        throw new Error(`unknown: ${lines[end + 1]}`);
      lines.splice(0, end + 2);
    } else if (all !== null || named !== null) {
      const under = resolve((all ?? named)?.[1] ?? '');
      const endings =
        named === null ? null : stringsOf(lines[1] ?? '').filter((text) => text !== 'running_mean');
      for (const norm of tree.norms) {
        const name = under === '' ? norm : norm.slice(under.length + 1);
        const fits = endings === null || endings.some((ending) => name.endsWith(ending));
        if (isInside(norm, under) && fits) still.add(norm);
      }
      if (!/hasattr\(module, "running_mean"\):$/.test(lines[1] ?? ''))
        throw new Error(`unknown: ${lines[1]}`);
      if (lines[2] !== '        module.eval()') throw new Error(`unknown: ${lines[2]}`);
      lines.splice(0, 3);
    } else throw new Error(`unknown: ${lines[0]}`);
  }
  return still;
}

function isInside(module: string, path: string): boolean {
  return path === '' || module === path || module.startsWith(`${path}.`);
}

/** The path of an expression such as `model.net[0].get_submodule("a-b")`. */
function resolve(expression: string): string {
  const looked = /^model\.get_submodule\((".*")\)$/.exec(expression);
  if (looked !== null) return stringsOf(looked[1] ?? '')[0] ?? '';
  const parts = [...expression.slice('model'.length).matchAll(/\.([A-Za-z_]\w*)|\[(\d+)\]/g)];
  return parts.map(([, attribute, index]) => attribute ?? index ?? '').join('.');
}

/** The values of the string literals on a line. */
function stringsOf(line: string): readonly string[] {
  return [...line.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, text = '']) =>
    text.replace(/\\(?:U([0-9a-f]{8})|(.))/g, (_, code: string | undefined, other: string) =>
      code === undefined ? other : String.fromCodePoint(Number.parseInt(code, 16)),
    ),
  );
}
