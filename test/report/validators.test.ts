import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { render } from '../../src/report/render.js';
import { makeTempDirectory } from '../build/sources.js';
import { ALL_SORTS, VALIDATORS } from './validators.js';

describe.each(['sarif', 'gitlab', 'junit'] as const)('%s follows its schema', (format) => {
  test.each(ALL_SORTS)('in %s', (_, report) => {
    expect(VALIDATORS[format](render(report, { format }))).toEqual([]);
  });
});

/** Where .ci/reports has put validators that are no packages of npm, or too large for everybody. */
const TOOLS = process.env['VALIDATORS_PATH'];

if (TOOLS === undefined)
  console.warn('Validators of other projects are left out: .ci/reports installs and runs them.');

describe.skipIf(TOOLS === undefined)('other projects’ own validators', { timeout: 120_000 }, () => {
  const folder = makeTempDirectory();

  /** Writes all reports in a format, and gives the files to a program. */
  function runOn(format: keyof typeof VALIDATORS, program: string, args: readonly string[]) {
    const files = ALL_SORTS.map(([, report], index) => {
      const file = join(folder, `${index}.${format}`);
      writeFileSync(file, render(report, { format }));
      return file;
    });
    const command = join(TOOLS ?? '', program);
    expect(existsSync(command), command).toBe(true);
    // The multitool would look for libraries of all alphabets.
    const env = { ...process.env, DOTNET_SYSTEM_GLOBALIZATION_INVARIANT: '1' };
    const { status, stdout, stderr } = spawnSync(command, [...args, ...files], { encoding: 'utf8', env });
    return { status, said: stdout + stderr, files };
  }

  test('Jenkins’ schema of its xUnit plugin takes JUnit', () => {
    const { status, said, files } = runOn('junit', 'bin/xmlschema-validate', [
      '--schema',
      join(TOOLS ?? '', 'junit-10.xsd'),
    ]);
    expect(said.match(/is valid/g), said).toHaveLength(files.length);
    expect(status).toBe(0);
  });

  test('Microsoft’s SARIF Multitool has no complaint, its rules of GitHub’s code scanning included', () => {
    const { status, said } = runOn('sarif', 'sarif-multitool', ['validate', '--rule-kind', 'Sarif;Ghas']);
    // There is none until the address of the repository is known.
    const faults = said
      .split('\n')
      .filter((line) => /: (?:error|warning) /.test(line) && !line.includes('informationUri'));
    expect(faults).toEqual([]);
    expect(said).toContain('Analysis completed successfully');
    expect(status).toBe(0);
  });
});
