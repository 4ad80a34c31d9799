import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { POLICY_FILE_NAME } from '../../src/options.js';
import { makeWorkspace, runCli } from './run.js';

const LEAK = ['pairs/requires-grad-leak/before.safetensors', 'pairs/requires-grad-leak/after.safetensors'];
const leak = { before: LEAK[0], after: LEAK[1] };
const locked = { before: 'pairs/locked/before.safetensors', after: 'pairs/locked/after.safetensors' };

const withPolicy = (policy: object, name = POLICY_FILE_NAME) =>
  makeWorkspace({ [name]: JSON.stringify(policy) });
const HOLDS = `bn-audit: using the policy "${POLICY_FILE_NAME}"\n`;

describe('a policy file', () => {
  test('in the working directory holds, and a line says so', async () => {
    const { stderr, exitCode } = await runCli(['diff', ...LEAK], withPolicy({ allow: ['backbone'] }));
    expect({ stderr, exitCode }).toEqual({ stderr: HOLDS, exitCode: 0 });
  });

  test('above the working directory holds, and its paths start from there', async () => {
    const workspace = withPolicy({ pairs: { leak }, reports: { json: 'audit.json' } });
    mkdirSync(join(workspace, 'src'));
    const { stdout, stderr, exitCode } = await runCli(['diff', '--pair', 'leak'], join(workspace, 'src'));
    expect(stderr).toBe(
      `bn-audit: using the policy "../${POLICY_FILE_NAME}"\nbn-audit: wrote "../audit.json" (json)\n`,
    );
    expect(stdout).toContain('../pairs/requires-grad-leak/before.safetensors');
    expect([exitCode, existsSync(join(workspace, 'audit.json'))]).toEqual([1, true]);
  });

  test('is that of --config, from wherever that lies', async () => {
    const workspace = makeWorkspace({ [POLICY_FILE_NAME]: '{"failOn": 3}' });
    mkdirSync(join(workspace, 'ci'));
    writeFileSync(join(workspace, 'ci', 'p.json'), JSON.stringify({ allow: ['backbone'] }));
    const { stderr, exitCode } = await runCli(['diff', ...LEAK, '--config', 'ci/p.json'], workspace);
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 });
  });

  test('that --config names and is not there is an error', async () => {
    const { stderr, exitCode } = await runCli(['diff', ...LEAK, '--config', 'gone.json'], makeWorkspace());
    expect({ stderr, exitCode }).toEqual({ stderr: 'bn-audit: gone.json: no such file\n', exitCode: 2 });
  });

  test('is left alone with --no-config', async () => {
    const { stderr, exitCode } = await runCli(
      ['diff', ...LEAK, '--no-config'],
      withPolicy({ allow: ['backbone'] }),
    );
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 1 });
  });

  test('with an unknown key stops the run, and says what was meant', async () => {
    const { stdout, stderr, exitCode } = await runCli(
      ['diff', ...LEAK],
      withPolicy({ forzen: ['backbone'] }),
    );
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
    expect(stderr).toMatch(
      /^bn-audit: bn-audit\.config\.json: forzen: unknown key; did you mean "frozen"\?\n {2}Keys here: /,
    );
  });

  test('with a key twice stops the run at the line and column', async () => {
    const workspace = makeWorkspace({ [POLICY_FILE_NAME]: '{"allow": [], "allow": ["**"]}' });
    const { stderr, exitCode } = await runCli(['diff', ...LEAK], workspace);
    expect({ stderr, exitCode }).toEqual({
      stderr:
        'bn-audit: bn-audit.config.json: duplicate JSON key "allow": it appears twice in one object (line 1, column 15)\n',
      exitCode: 2,
    });
  });

  test('says nothing with --quiet', async () => {
    const run = await runCli(['diff', ...LEAK, '-q'], withPolicy({ allow: ['backbone'] }));
    expect(run).toEqual({ stdout: '', stderr: '', exitCode: 0 });
  });
});

describe('for each setting', () => {
  const auditWith = async (policy: object, ...args: readonly string[]) => {
    const { stdout, exitCode } = await runCli(['diff', '--format', 'json', ...args], withPolicy(policy));
    return { report: JSON.parse(stdout), exitCode };
  };
  const policy = {
    allow: ['backbone'],
    epsilon: 0.5,
    failOn: 'warning',
    pairs: { leak: { ...leak, epsilon: 0.25 }, plain: leak },
  };

  test('the policy holds where nothing else is said', async () => {
    const { report, exitCode } = await auditWith(policy, '--pair', 'plain');
    expect([report.layers[0].epsilon, report.layers[0].allowed, exitCode]).toEqual([0.5, true, 0]);
  });

  test('the pair wins over the rest of the policy', async () => {
    const { report } = await auditWith(policy, '--pair', 'leak');
    expect([report.layers[0].epsilon, report.layers[0].allowed]).toEqual([0.25, true]);
  });

  test('the command line wins over the pair', async () => {
    const { report, exitCode } = await auditWith(
      policy,
      '--pair',
      'leak',
      '--epsilon',
      '0.125',
      '--allow',
      'head',
    );
    expect([report.layers[0].epsilon, report.layers[0].allowed, exitCode]).toEqual([0.125, false, 1]);
  });

  test('the command line wins over the policy without a pair, zero and empty included', async () => {
    const { report } = await auditWith({ ...policy, minShift: 9, allow: [] }, ...LEAK, '--min-shift', '0');
    expect(report.verdict).toBe('drifted');
  });

  test('--fail-on error wins over failOn warning', async () => {
    const momentumZero = ['pairs/momentum-zero/before.safetensors', 'pairs/momentum-zero/after.safetensors'];
    expect((await auditWith({ failOn: 'warning' }, ...momentumZero)).exitCode).toBe(1);
    expect((await auditWith({ failOn: 'warning' }, ...momentumZero, '--fail-on', 'error')).exitCode).toBe(0);
  });

  test('frozen of the policy is insisted on', async () => {
    const { stderr, exitCode } = await runCli(['diff', ...LEAK], withPolicy({ frozen: ['backbon'] }));
    expect(exitCode).toBe(2);
    expect(stderr).toContain('--frozen "backbon" matches no norm layer');
  });

  test('map of the policy pairs the names', async () => {
    const { report } = await auditWith({ map: { backbone: 'backbone' } }, ...LEAK);
    expect(report.layers[0].pairedBy).toBe('map');
  });
});

describe('pairs', () => {
  const pairs = { leak, locked, gone: { before: 'gone.pt', after: 'gone2.pt' } };

  test('run by name, several give one report and the highest exit code', async () => {
    const workspace = withPolicy({ pairs });
    const clean = await runCli(['diff', '--pair', 'locked'], workspace);
    const both = await runCli(['diff', '--pair', 'locked', '--pair', 'leak', '--format', 'json'], workspace);
    expect([clean.exitCode, both.exitCode]).toEqual([0, 1]);
    expect(JSON.parse(both.stdout).reports).toHaveLength(2);
  });

  test('all run with --all-pairs: one that cannot be audited does not stop the others', async () => {
    const { stdout, exitCode } = await runCli(['diff', '--all-pairs'], withPolicy({ pairs }));
    expect(exitCode).toBe(2);
    expect(stdout).toContain('✖ failed   gone.pt → gone2.pt');
    expect(stdout).toContain('1 of 3 checkpoints drifted, 1 failed: it could not be audited.');
  });

  test('may have a level of their own', async () => {
    const momentumZero = {
      before: 'pairs/momentum-zero/before.safetensors',
      after: 'pairs/momentum-zero/after.safetensors',
    };
    const workspace = withPolicy({
      pairs: { strict: { ...momentumZero, failOn: 'warning' }, lax: momentumZero },
    });
    const exitCodes = ['strict', 'lax'].map(
      async (name) => (await runCli(['diff', '--pair', name], workspace)).exitCode,
    );
    expect(await Promise.all(exitCodes)).toEqual([1, 0]);
    expect((await runCli(['diff', '--all-pairs'], workspace)).exitCode).toBe(1);
  });

  test.each([
    [
      ['--pair', 'lek'],
      /--pair "lek": bn-audit\.config\.json has no such pair; did you mean "leak"\?\n {2}Pairs there: /,
    ],
    [['--pair', 'leak', ...LEAK], /checkpoints cannot be given together with '--pair' or '--all-pairs'/],
    [[], /missing required argument 'before'/],
    [LEAK.slice(0, 1), /missing required argument 'after'/],
    [['', 'x'], /missing required argument 'before'/],
  ] as const)('are refused: diff %j', async (args, message) => {
    const { stderr, exitCode } = await runCli(['diff', ...args], withPolicy({ pairs }));
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(message);
  });

  test('need a policy file', async () => {
    const { stderr, exitCode } = await runCli(['diff', '--all-pairs'], makeWorkspace());
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(
      /^bn-audit: --all-pairs needs a policy file, found no bn-audit\.config\.json here or above/,
    );
  });

  test.each([
    ['--all-pairs', '--all-pairs'],
    ['--pair=leak', '--pair <name>'],
  ])('and --no-config contradict each other: %s', async (option, name) => {
    const { stderr, exitCode } = await runCli(['diff', option, '--no-config'], withPolicy({ pairs }));
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(`bn-audit: option '--no-config' cannot be used with option '${name}'\n`);
  });

  test('need to be in it: none is no pass', async () => {
    expect((await runCli(['diff', '--all-pairs'], withPolicy({ pairs: {} }))).exitCode).toBe(2);
  });
});

describe('--report', () => {
  test('writes any number of reports, and the main one is printed as before', async () => {
    const workspace = makeWorkspace();
    const plain = await runCli(['diff', ...LEAK], workspace);
    const args = [
      '--report',
      'html=out.html',
      '--report',
      'junit=out.xml',
      '--report',
      'json=a.json',
      '--report=json=b.json',
    ];
    const written = ['out.html" (html', 'out.xml" (junit', 'a.json" (json', 'b.json" (json'];
    expect(await runCli(['diff', ...LEAK, ...args], workspace)).toEqual({
      ...plain,
      stderr: written.map((file) => `bn-audit: wrote "${file})\n`).join(''),
    });
    const read = (name: string) => readFileSync(join(workspace, name), 'utf8');
    expect(read('out.html')).toMatch(/^<!doctype html>/);
    expect(read('out.xml')).toMatch(/^<\?xml/);
    expect(read('a.json')).toBe(read('b.json'));
    expect(JSON.parse(read('a.json')).layers[0]).not.toHaveProperty('perChannel');
  });

  test('comes beside the reports of the policy', async () => {
    const workspace = withPolicy({ reports: { junit: 'p.xml' } });
    await runCli(['diff', ...LEAK, '--report', 'markdown=c.md'], workspace);
    expect(['p.xml', 'c.md'].map((name) => existsSync(join(workspace, name)))).toEqual([true, true]);
  });

  test('is there for inspect', async () => {
    const workspace = makeWorkspace();
    await runCli(['inspect', leak.after ?? '', '--report', 'html=health.html'], workspace);
    expect(existsSync(join(workspace, 'health.html'))).toBe(true);
  });

  test.each(['html', 'htm=x', '=x', 'html='])('%s is refused', async (value) => {
    const { stderr, exitCode } = await runCli(['diff', ...LEAK, '--report', value], makeWorkspace());
    expect(exitCode).toBe(2);
    expect(stderr).toContain('It must be FORMAT=FILE, with a format of text, json, markdown');
  });

  test('of a policy follows no link out of its directory', async () => {
    const outside = makeWorkspace({ 'kept.txt': 'kept' });
    const workspace = withPolicy({ reports: { text: 'link.txt', json: 'dir/out.json' } });
    symlinkSync(join(outside, 'kept.txt'), join(workspace, 'link.txt'));
    const viaFile = await runCli(['diff', ...LEAK], workspace);
    expect(viaFile.exitCode).toBe(2);
    expect(viaFile.stderr).toContain('link.txt: a report of a policy file must stay in its directory');
    writeFileSync(join(workspace, POLICY_FILE_NAME), JSON.stringify({ reports: { json: 'dir/out.json' } }));
    symlinkSync(outside, join(workspace, 'dir'));
    expect((await runCli(['diff', ...LEAK], workspace)).exitCode).toBe(2);
    expect(readFileSync(join(outside, 'kept.txt'), 'utf8')).toBe('kept');
    expect(existsSync(join(outside, 'out.json'))).toBe(false);
  });
});
