// npm run release -- VERSION: makes a release that a person only has to push. VERSION is 1.2.3, major, minor or patch.
// npm run address -- OWNER/NAME: writes the address of the repository wherever it is named.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Stands in the docs while the repository has no address. */
const NO_ADDRESS = 'OWNER/bn-audit';

/** Files that name the version or the address, besides docs/. */
const NAMING = [
  'README.md',
  'package.json',
  'package-lock.json',
  'src/errors.ts',
  'pre-commit/package.json',
  'pre-commit/.pre-commit-hooks.yaml',
  'pre-commit/README.md',
];

/** How the version is named in them: what comes before it. */
const VERSION_NAMED =
  /("name": "bn-audit(?:-pre-commit)?",\s+"version": "|VERSION = '|bn-audit@v?|bn-audit-|rev: v|bn-audit v|'v)\d+\.\d+\.\d+\b/g;

function listNaming(root) {
  const docs = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' });
  return [...NAMING, ...docs.filter((name) => name.endsWith('.md')).map((name) => join('docs', name))];
}

/** Rewrites the files that name version or address; those that `edit` leaves as they are stay untouched. */
function editNaming(root, edit) {
  for (const name of listNaming(root)) {
    const path = join(root, name);
    const text = readFileSync(path, 'utf8');
    const edited = edit(text);
    if (edited !== text) writeFileSync(path, edited);
  }
}

/** The versions that the files name, each with its file. */
export function listNamedVersions(root) {
  return listNaming(root).flatMap((file) =>
    [...readFileSync(join(root, file), 'utf8').matchAll(VERSION_NAMED)].map(([named, start]) => ({
      file,
      version: named.slice(start.length),
    })),
  );
}

/** Writes a version wherever one is named. */
export function setVersion(root, version) {
  editNaming(root, (text) => text.replace(VERSION_NAMED, (_, start) => start + version));
}

function readManifest(root) {
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
}

/** `OWNER/NAME` as package.json has it; null where it has none. */
export function readAddress(root) {
  const { repository } = readManifest(root);
  return /^git\+https:\/\/github\.com\/(.+)\.git$/.exec(repository?.url ?? '')?.[1] ?? null;
}

/**
 * Writes the address of the repository wherever it is named: package.json, whence npm has it, the sources, and docs.
 *
 * @throws Error where it is no OWNER/NAME.
 */
export function setAddress(root, address) {
  if (!/^[\w.-]+\/[\w.-]+$/.test(address)) throw new Error(`expected OWNER/NAME, found ${address}`);
  const old = readAddress(root);
  const field = `  "repository": {\n    "type": "git",\n    "url": "git+https://github.com/${address}.git"\n  },\n`;
  editNaming(root, (text) =>
    text
      .replaceAll(old ?? NO_ADDRESS, address)
      .replace(/(REPOSITORY: string \| null = )null/, `$1'${address}'`)
      .replace(/^( {2}"license": .*\n)(?! {2}"(?:repository|private)")(?= {2}"type")/m, `$1${field}`),
  );
}

/**
 * The version that comes after another.
 *
 * @param wanted a version, or the part to raise: major, minor, patch.
 * @throws Error where it is neither, or lower.
 */
export function raiseVersion(current, wanted) {
  const part = ['major', 'minor', 'patch'].indexOf(wanted);
  const numbers = current.split('.').map(Number);
  if (part >= 0) return numbers.map((n, i) => (i < part ? n : i === part ? n + 1 : 0)).join('.');
  if (!/^\d+\.\d+\.\d+$/.test(wanted))
    throw new Error(`expected a version such as 1.2.3, or major, minor or patch, found ${wanted}`);
  if (wanted.localeCompare(current, 'en', { numeric: true }) < 0)
    throw new Error(`expected a version from ${current} on, found ${wanted}`);
  return wanted;
}

/**
 * The changelog with what is unreleased under a version and its day.
 *
 * @throws Error where nothing is unreleased.
 */
export function dateChangelog(text, version, day) {
  const [, unreleased = ''] = /^## \[Unreleased\]\n([\s\S]*?)(?=^## |(?![\s\S]))/m.exec(text) ?? [];
  if (unreleased.trim() === '') throw new Error('CHANGELOG.md: expected something unreleased, found nothing');
  return text.replace('## [Unreleased]\n', `## [Unreleased]\n\n## [${version}] - ${day}\n`);
}

/** What the changelog says of a version. */
export function findNotes(text, version) {
  const [, rest = ''] = text.split(`## [${version}]`);
  return rest.slice(rest.indexOf('\n')).split(/^## /m)[0].trim();
}

function release(root, wanted, day) {
  const run = (file, ...args) => execFileSync(file, args, { cwd: root, encoding: 'utf8' });
  if (readAddress(root) === null)
    throw new Error('the repository has no address yet: npm run address -- OWNER/NAME writes it');
  if (run('git', 'status', '--porcelain') !== '') throw new Error('there are changes: commit them first');
  const version = raiseVersion(readManifest(root).version, wanted);
  const tag = `v${version}`;
  if (run('git', 'tag', '--list', tag) !== '') throw new Error(`${tag} is released already`);
  const changelog = join(root, 'CHANGELOG.md');
  writeFileSync(changelog, dateChangelog(readFileSync(changelog, 'utf8'), version, day));
  setVersion(root, version);
  run('git', 'commit', '--all', '--message', `Release ${version}`);
  run('git', 'tag', '--annotate', tag, '--message', `bn-audit ${version}`);
  run('npm', 'pack', '--loglevel=error');
  return `bn-audit ${version}: a commit, the tag ${tag}, and bn-audit-${version}.tgz, as npm would have it.
To publish:   git push --follow-tags   (the workflow "Release" then waits for an approval)
To take back: git tag --delete ${tag} && git reset --hard HEAD~\n`;
}

function main(root, [command = '', argument = '']) {
  if (command === '--address') setAddress(root, argument);
  else if (command === '--notes')
    console.log(findNotes(readFileSync(join(root, 'CHANGELOG.md'), 'utf8'), readManifest(root).version));
  else process.stdout.write(release(root, command, new Date().toISOString().slice(0, 10)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main(fileURLToPath(new URL('..', import.meta.url)), process.argv.slice(2));
  } catch (error) {
    console.error(`release: ${error.message}`);
    process.exitCode = 1;
  }
}
