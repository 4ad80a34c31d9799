/**
 * A checkpoint's path as CI systems want it: with forward slashes, relative to the repository where it lies in it.
 *
 * @param root the repository's directory, against which absolute paths are made relative; they stay absolute without.
 */
export function findArtifactPath(path: string, root?: string | undefined): string {
  const normal = normalizePath(path);
  if (root === undefined) return normal;
  const base = normalizePath(root).replace(/\/+$/, '');
  return base !== '' && normal.startsWith(`${base}/`) ? normal.slice(base.length + 1) : normal;
}

function normalizePath(path: string): string {
  const isWindows = /^(?:[A-Za-z]:)?[\\/]/.test(path) && path.includes('\\');
  const slashed = isWindows || /^\.{1,2}\\/.test(path) ? path.replaceAll('\\', '/') : path;
  return slashed.replace(/\/+/g, '/').replace(/^(?:\.\/)+(?=.)/, '');
}

/** A path as a URI reference (RFC 3986): relative, or of the file scheme when the path is absolute. */
export function toUriReference(path: string): string {
  const isAbsolute = /^(?:\/|[A-Za-z]:\/)/.test(path);
  const encoded = path.toWellFormed().split('/').map(encodeURIComponent).join('/');
  if (!isAbsolute) return encoded;
  return `file://${path.startsWith('/') ? '' : '/'}${encoded.replace(/^([A-Za-z])%3A/, '$1:')}`;
}
