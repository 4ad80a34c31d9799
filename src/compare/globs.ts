import picomatch from 'picomatch';
import { withoutSureWrappers } from '../norm/naming.js';

/** Whether a module path is meant by a list of globs. */
export type PathMatcher = (path: string) => boolean;

/**
 * A matcher for globs over module paths with `.` as the separator: `*` is one component, `**` any number. A glob
 * that matches a module means everything below it too, as in a .gitignore: `backbone` covers `backbone.layer1.bn1`.
 */
export function matchPaths(globs: readonly string[]): PathMatcher {
  if (globs.length === 0) return () => false;
  const isMatch = picomatch(globs.map(toSlashes), {
    dot: true,
    nonegate: true,
    noextglob: true,
    strictSlashes: true,
  });
  return (path) => ancestorsOf(path).some((ancestor) => isMatch(ancestor));
}

/** Whether what goes by several names is meant by a list of globs, whichever of the names they use. */
export type NameMatcher = (names: readonly string[]) => boolean;

/**
 * A matcher like that of {@link matchPaths} for layers and tensors, each with all of its names. A glob that means none
 * of them is read without its wrappers: `module.backbone` means what `backbone` does.
 */
export function matchNames(globs: readonly string[], all: readonly (readonly string[])[]): NameMatcher {
  const resolved = globs.map((glob) => {
    const bare = withoutSureWrappers(glob);
    return bare === glob || all.some((names) => names.some(matchPaths([glob]))) ? glob : bare;
  });
  const isMatch = matchPaths(resolved);
  return (names) => names.some(isMatch);
}

function toSlashes(glob: string): string {
  return glob.replaceAll('.', '/');
}

/** A path and everything above it, as slash-separated paths: `a/b/c`, `a/b`, `a`. */
function ancestorsOf(path: string): readonly string[] {
  const components = path.replaceAll('/', '\u2215').split('.');
  return components.map((_, index) => components.slice(0, components.length - index).join('/'));
}
