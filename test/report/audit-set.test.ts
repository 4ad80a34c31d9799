import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { describe, expect, test } from 'vitest';
import { CheckpointError, UsageError } from '../../src/errors.js';
import { type AuditFailure, buildAuditSet, describeFailure } from '../../src/report/audit-set.js';
import { REPORT_FORMATS } from '../../src/report/formats.js';
import { MAX_ANNOTATIONS } from '../../src/report/github.js';
import { render } from '../../src/report/render.js';
import {
  HOSTILE_NAMES,
  makeCleanReport,
  makeHostileReport,
  makeLayer,
  makeRegion,
  makeReport,
} from './sample-reports.js';
import { parseWorkflowCommands } from './workflow-commands.js';

const paths = (after: string) => ({ before: 'runs/base.pt', after });

const failure: AuditFailure = {
  ...paths('runs/broken.pt'),
  code: 'truncated',
  message: 'runs/broken.pt: expected 8 bytes, found 3 (at byte 0)',
  hint: 'Was the download interrupted?',
};

const drifted = (after: string, outputShift: number) =>
  makeReport({
    layers: [makeLayer('backbone.bn1', { outputShift }), makeLayer('backbone.bn2', { outputShift: 0.01 })],
    paths: ['runs/base.pt', after],
  });

const set = buildAuditSet([drifted('runs/1.pt', 0.2), failure, drifted('runs/2.pt', 0.9), makeCleanReport()]);

describe('the verdict over several audits', () => {
  test.each([
    ['clean', [makeCleanReport(), makeCleanReport()]],
    ['drifted', [makeCleanReport(), drifted('x', 1)]],
    ['failed', [makeCleanReport(), failure]],
    ['failed', [drifted('x', 1), failure]],
  ] as const)('is %s', (verdict, outcomes) => {
    expect(buildAuditSet(outcomes).verdict).toBe(verdict);
  });
});

describe('a failure', () => {
  test('tells the file, the byte and the way out', () => {
    const error = new CheckpointError('expected 8 bytes, found 3', {
      code: 'truncated',
      file: 'runs/broken.pt',
      offset: 0n,
      hint: 'Was the download interrupted?',
    });
    expect(describeFailure(paths('runs/broken.pt'), error)).toEqual(failure);
  });

  test('may be an option that cannot apply', () => {
    expect(describeFailure(paths('x'), new UsageError('--frozen "y" matches nothing'))).toEqual({
      ...paths('x'),
      code: 'usage',
      message: '--frozen "y" matches nothing',
      hint: null,
    });
  });
});

describe('several audits', () => {
  test('as JSON are one object with every report in the order of the arguments', () => {
    const json = JSON.parse(render(set, { format: 'json' }));
    expect(Object.keys(json)).toEqual(['schemaVersion', 'tool', 'verdict', 'reports', 'failures']);
    expect(json).toMatchObject({ schemaVersion: 1, verdict: 'failed', failures: [failure] });
    expect(json.reports.map((report: { after: { path: string } }) => report.after.path)).toEqual([
      'runs/1.pt',
      'runs/2.pt',
      'runs/tuned.pt',
    ]);
  });

  test('as text are a line each, and the whole report of the one that drifted most', () => {
    const text = render(set);
    expect(text).toMatch(/^before {2}runs\/base\.pt\n/);
    expect(text).toMatch(/^✖ drifted .* runs\/1\.pt/m);
    expect(text).toMatch(/^✖ failed {3}runs\/broken\.pt\n.*expected 8 bytes/m);
    expect(text).toMatch(/^✔ clean .* runs\/tuned\.pt/m);
    expect(text).toContain('2 of 4 checkpoints drifted, 1 failed: it could not be audited.');
    expect(text.match(/✖ DRIFTED/g)).toHaveLength(1);
    expect(text).toMatch(/^── runs\/2\.pt ─+$/m);
    for (const line of text.split('\n')) expect([...line].length).toBeLessThanOrEqual(80);
  });

  test('as text with all are the whole reports of every one that drifted', () => {
    expect(render(set, { all: true }).match(/✖ DRIFTED/g)).toHaveLength(2);
  });

  test('as text name before where it differs', () => {
    const others = buildAuditSet([
      makeReport({ layers: [makeLayer('a')], paths: ['x.pt', 'y.pt'] }),
      failure,
    ]);
    expect(render(others)).toContain('x.pt → y.pt');
  });

  test('as Markdown are a table, what failed first, and the report of the worst', () => {
    const text = render(set, { format: 'markdown' });
    expect(text).toMatch(/^### ❌ 2 of 4 checkpoints drifted, 1 failed: it could not be audited\.\n/);
    expect(text.indexOf('Failed')).toBeLessThan(text.indexOf('Drifted'));
    expect(text.match(/^### /gm)).toHaveLength(2);
  });

  test('as Markdown fit a comment, and with all a job summary, however many they are', {
    timeout: 120_000,
  }, () => {
    const name = 'x'.repeat(10_000);
    const many = buildAuditSet(
      Array.from({ length: 2000 }, (_, index) => ({ ...drifted(`${index}${name}`, 1), warnings: [name] })),
    );
    const length = (all: boolean) => Buffer.byteLength(render(many, { format: 'markdown', all }));
    expect(length(false)).toBeLessThanOrEqual(65_536);
    expect(length(true)).toBeLessThanOrEqual(1_000_000);
    expect(render(many, { format: 'markdown' })).toContain('… and 1,940 more checkpoints.');
  });

  test('as JUnit are a suite each, the failed one an error', () => {
    const text = render(set, { format: 'junit' });
    expect(XMLValidator.validate(text)).toBe(true);
    const { testsuites } = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '' }).parse(text);
    expect(testsuites).toMatchObject({ errors: '1', failures: '4' });
    expect(testsuites.testsuite).toHaveLength(4);
    expect(testsuites.testsuite[3]).toMatchObject({
      errors: '1',
      testcase: { name: 'runs/broken.pt', error: { type: 'truncated', message: failure.message } },
    });
  });

  test('as SARIF are a run each, told apart by their ids', () => {
    const log = JSON.parse(render(set, { format: 'sarif' }));
    const runs: { automationDetails: { id: string }; invocations: { executionSuccessful: boolean }[] }[] =
      log.runs;
    expect(new Set(runs.map(({ automationDetails }) => automationDetails.id)).size).toBe(4);
    expect(runs.map(({ invocations }) => invocations[0]?.executionSuccessful)).toEqual([
      true,
      true,
      true,
      false,
    ]);
  });

  test('as GitLab issues have fingerprints of their own', () => {
    const issues: { fingerprint: string; check_name: string }[] = JSON.parse(
      render(set, { format: 'gitlab' }),
    );
    expect(new Set(issues.map(({ fingerprint }) => fingerprint)).size).toBe(issues.length);
    expect(issues[0]?.check_name).toBe('not-audited');
  });

  test('as annotations share the ten of a step: every checkpoint comes before any second finding', () => {
    const layers = Array.from({ length: 30 }, (_, index) => makeLayer(`part${index}.bn`));
    const regions = layers.map((_, index) => makeRegion(`part${index}`));
    const many = buildAuditSet([
      ...[1, 2, 3].map((index) => makeReport({ layers, regions, paths: ['base.pt', `${index}.pt`] })),
      failure,
    ]);
    const commands = parseWorkflowCommands(render(many, { format: 'github' }));
    expect(commands).toHaveLength(MAX_ANNOTATIONS);
    expect(commands.slice(0, 5).map(({ properties }) => properties['file'])).toEqual([
      'runs/broken.pt',
      '1.pt',
      '2.pt',
      '3.pt',
      '1.pt',
    ]);
    expect(commands.at(-1)?.message).toBe('82 more errors of 91; the report has them all');
  });

  test('as HTML are one page: the answer, then a row each, what failed first', () => {
    const page = render(set, { format: 'html' });
    expect(page).toContain(
      '<h1 id="headline">2 of 4 checkpoints drifted, 1 failed: it could not be audited</h1>',
    );
    expect(page).toContain('The worst is <bdi class="path">runs/2.pt</bdi>');
    const rows = page.match(/<(?:summary|div) class="row">.*/g) ?? [];
    expect(rows.map((row) => />([\w ]+)<\/span><span class="which">/.exec(row)?.[1])).toEqual([
      'Failed',
      'Drifted',
      'Drifted',
      'Clean',
    ]);
    expect(rows[2]).toContain('2 of 2 norm layers drifted');
    expect(rows[2]).toMatch(/worst <bdi class="name"><span>backbone\.<wbr><\/span>bn1<\/bdi>/);
    expect(rows[2]).toContain('<b>0.900</b>');
    expect(page).toContain('expected 8 bytes, found 3 (at byte 0)');
    expect(page.match(/<details /g)).toHaveLength(3);
  });

  test('as HTML stay small, and keep a row for what has no room', () => {
    const layers = Array.from({ length: 30 }, (_, index) => makeLayer(`bn${index}`, { outputShift: 0.1 }));
    const many = Array.from({ length: 300 }, () => makeReport({ layers }));
    const page = render(buildAuditSet([...many, drifted('last.pt', 1)]), { format: 'html' });
    expect(Buffer.byteLength(page)).toBeLessThan(1_200_000);
    expect(page.match(/class="row"/g)).toHaveLength(301);
    expect(page.match(/is left out here/g)?.length).toBeGreaterThan(10);
    expect(page).toMatch(/<summary class="row">.*last\.pt/);
  });
});

describe.each(REPORT_FORMATS)('hostile names in several audits as %s', (format) => {
  test.each(Object.entries(HOSTILE_NAMES))('do not break out: %s', (_, name) => {
    const hostile = (text: string) =>
      buildAuditSet([
        { ...makeHostileReport([text]), after: { ...makeCleanReport().after, path: text } },
        { ...failure, before: text, after: text, message: `${text} ${text}`, hint: text },
      ]);
    const text = render(hostile(name), { format, all: true });
    expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/);
    if (format !== 'github' && format !== 'azure')
      expect(parseWorkflowCommands(format === 'json' ? '' : text)).toEqual([]);
    if (['json', 'sarif', 'gitlab'].includes(format)) expect(() => JSON.parse(text)).not.toThrow();
    if (format === 'junit') expect(XMLValidator.validate(text)).toBe(true);
    if (format === 'github')
      for (const command of parseWorkflowCommands(text)) expect(['error', 'warning']).toContain(command.name);
    if (format === 'html') {
      // Names wrap after dots, and code is left out where they are too long for it.
      const tags = (page: string) =>
        [...page.replace(/<section id="fix"[\s\S]*?<\/section>|<wbr>/g, '').matchAll(/<\/?([a-z]\w*)/g)].map(
          ([, tag]) => tag,
        );
      expect(tags(text)).toEqual(tags(render(hostile('plain'), { format, all: true })));
    }
  });
});
