import { execFileSync } from 'node:child_process';
import { cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { dateChangelog, findNotes, listNamedVersions, raiseVersion, readAddress } from '../build/release.js';
import { findAddress, VERSION } from '../src/errors.js';
import { makeTempDirectory } from './build/sources.js';

const root = fileURLToPath(new URL('..', import.meta.url));

test('the version is the same wherever it is named', () => {
  const named = listNamedVersions(root);
  expect(named.filter(({ version }) => version !== VERSION)).toEqual([]);
  const files = new Set(named.map(({ file }) => file));
  const naming = [
    ...['package.json', 'package-lock.json', 'src/errors.ts', 'pre-commit/package.json'],
    ...['pre-commit/.pre-commit-hooks.yaml', 'docs/ci/pre-commit.md', 'docs/ci/github-actions.md'],
  ];
  for (const file of naming) expect(files).toContain(file);
});

test('the address of the repository is the same wherever it is named', () => {
  const address = readAddress(root);
  expect(findAddress('docs/measures.md')).toBe(
    address === null ? null : `https://github.com/${address}/blob/v${VERSION}/docs/measures.md`,
  );
  const pages = ['docs/ci/github-actions.md', 'docs/ci/pre-commit.md', 'docs/releasing.md'];
  const named = pages.flatMap(
    (page) =>
      readFileSync(join(root, page), 'utf8').match(/(?<=github\.com\/|uses: )[\w-]+\/bn-audit/g) ?? [],
  );
  expect(named.length).toBeGreaterThan(2);
  expect(new Set(named)).toEqual(new Set([address ?? 'OWNER/bn-audit']));
});

describe('raiseVersion', () => {
  test.each([
    ['patch', '0.1.3'],
    ['minor', '0.2.0'],
    ['major', '1.0.0'],
    ['0.10.0', '0.10.0'],
    ['0.1.2', '0.1.2'],
  ])('from 0.1.2 by %s is %s', (wanted, raised) => {
    expect(raiseVersion('0.1.2', wanted)).toBe(raised);
  });

  test.each(['0.1.1', 'v1.0.0', '', '1.0'])('refuses "%s"', (wanted) => {
    expect(() => raiseVersion('0.1.2', wanted)).toThrow(/^expected a version/);
  });
});

describe('the changelog', () => {
  const text =
    '# Changelog\n\n## [Unreleased]\n\n### Added\n\n- One.\n\n## [0.1.0] - 2026-01-01\n\n- Zero.\n';

  test('gets a section with the day, and an empty one for what comes', () => {
    const dated = dateChangelog(text, '0.2.0', '2026-02-03');
    expect(dated).toContain(
      '## [Unreleased]\n\n## [0.2.0] - 2026-02-03\n\n### Added\n\n- One.\n\n## [0.1.0]',
    );
    expect(findNotes(dated, '0.2.0')).toBe('### Added\n\n- One.');
    expect(findNotes(dated, '0.1.0')).toBe('- Zero.');
    expect(() => dateChangelog(dated, '0.3.0', '2026-02-04')).toThrow(/found nothing$/);
  });
});

describe('npm run release', () => {
  /** A repository like this one, with an address. */
  function makeRepository() {
    const directory = join(makeTempDirectory(), 'clone');
    const names = [
      ...['bin', 'build', 'docs', 'src', 'pre-commit', 'build.js', 'package.json', 'package-lock.json'],
      ...['tsconfig.json', 'tsconfig.types.json', 'LICENSE', 'README.md', '.gitignore', '.npmrc'],
    ];
    for (const name of names) cpSync(join(root, name), join(directory, name), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
    writeFileSync(join(directory, 'CHANGELOG.md'), '## [Unreleased]\n\n- All of it.\n');
    writeFileSync(join(directory, '.git-exclude'), 'node_modules\n');
    const run = (file: string, ...args: readonly string[]) =>
      execFileSync(file, args, {
        cwd: directory,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
        // What packing builds is tested in package.test.ts.
        env: { ...process.env, npm_config_ignore_scripts: 'true' },
      });
    run('git', 'init', '--quiet');
    for (const [key, value] of [
      ['user.name', 'someone'],
      ['user.email', 'someone@example.org'],
      ['core.excludesFile', '.git-exclude'],
    ] as const)
      run('git', 'config', key, value);
    const commit = () => {
      run('git', 'add', '.');
      run('git', 'commit', '--quiet', '--message', 'all');
    };
    const read = (name: string) => readFileSync(join(directory, name), 'utf8');
    return {
      directory,
      run,
      commit,
      read,
      node: (...args: readonly string[]) => run(process.execPath, 'build/release.js', ...args),
    };
  }

  test('makes version, dated changelog, commit, tag and tarball, with the address everywhere', {
    timeout: 120_000,
  }, () => {
    const { directory, run, commit, read, node } = makeRepository();
    commit();
    if (readAddress(root) === null) expect(() => node('minor')).toThrow(/has no address yet/);
    node('--address', 'someone/bn-audit');
    expect(() => node('minor')).toThrow(/commit them first/);
    commit();
    expect(node('9.8.7')).toContain('bn-audit-9.8.7.tgz');
    expect(new Set(listNamedVersions(directory).map(({ version }) => version))).toEqual(new Set(['9.8.7']));
    expect(read('CHANGELOG.md')).toMatch(
      /^## \[Unreleased\]\n\n## \[9\.8\.7\] - \d{4}-\d\d-\d\d\n\n- All of it\.\n$/,
    );
    expect(node('--notes')).toBe('- All of it.\n');
    expect(run('git', 'status', '--porcelain')).toBe('');
    expect(run('git', 'describe')).toBe('v9.8.7\n');
    expect(JSON.parse(read('package.json'))).toMatchObject({
      version: '9.8.7',
      repository: { type: 'git', url: 'git+https://github.com/someone/bn-audit.git' },
    });
    expect(read('src/errors.ts')).toContain("REPOSITORY: string | null = 'someone/bn-audit'");
    expect(read('docs/ci/github-actions.md')).toContain('uses: someone/bn-audit@v9.8.7 ');
    expect(read('docs/ci/pre-commit.md')).toContain('https://github.com/someone/bn-audit-pre-commit');
    const packed = run('tar', 'xzOf', 'bn-audit-9.8.7.tgz', 'package/package.json');
    expect(JSON.parse(packed).version).toBe('9.8.7');
    expect(() => node('9.8.7')).toThrow(/is released already/);
  });
});
