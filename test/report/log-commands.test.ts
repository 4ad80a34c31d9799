import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { escapeControls, quote, quoteUnlessPlain, toShellWord } from '../../src/errors.js';
import type { ProbeReport } from '../../src/probe/probe-report.js';
import { PROBE_FORMATS, renderProbe } from '../../src/probe/probe-report.js';
import { buildAuditSet } from '../../src/report/audit-set.js';
import { REPORT_FORMATS } from '../../src/report/formats.js';
import { writeCommand } from '../../src/report/github.js';
import { toJson } from '../../src/report/json.js';
import { render } from '../../src/report/render.js';
import { type RestoreReport, renderRestoreText } from '../../src/restore/restore-report.js';
import { makeHostileReport, makeInspectReport } from './sample-reports.js';

/** What servers read from the lines of a log, as forgivingly as any of them may. */
function findCommands(text: string): readonly string[] {
  return text.split(/[\r\n\v\f\u0085\u2028\u2029]/).filter((line) => {
    const bare = line.replace(/\p{DI}/gu, '').toLowerCase();
    return bare.trim().startsWith('::') || /##(?:\[|vso\[|teamcity\[)/.test(bare);
  });
}

const COMMANDS: Readonly<Record<string, string>> = {
  'of GitHub': '::error::x',
  'of GitHub behind white space': '\u00a0\u3000\t::error::x',
  'of GitHub behind what has no width': '\u034f::error::x',
  'of GitHub, the older kind': 'a ##[error]x',
  'of Azure Pipelines': '##vso[task.setvariable variable=PATH]x',
  'of Azure Pipelines within a name': 'a.##vso[task.complete]x.bn',
  'of Azure Pipelines for the log': '##[section]x',
  'of TeamCity': "a\n##teamcity[buildStop comment='x']",
  encoded: '%0D%0A##vso[task.complete]%0D%0A::error::x',
  'behind more of the sign': '#####vso[task.complete]x',
  'in other letters': '##VSO[task.complete]##TeamCity[x]',
  'with what has no width in it': '#\u034f#\ufe0fv\u115fso[task.complete]x',
  'with what is escaped in it': '#\u200b#\u202evso[task.complete]x',
  'at the end of what is shown': `${'x'.repeat(150)}##vso[task.complete]x`,
  'at the beginning of a cut': `##vso[${'x'.repeat(3000)}`,
  'at the end of a cut': `${'x'.repeat(3000)}##vso[task.complete]`,
};

const probeOf = (name: string): ProbeReport => ({
  schemaVersion: 1,
  tool: { name: 'bn-audit', version: '1.2.3' },
  before: {
    path: name,
    format: 'ONNX',
    inModuleOrder: true,
    framework: null,
    layers: 1,
    folded: 0,
    learned: 5,
  },
  after: {
    path: name,
    format: 'ONNX',
    inModuleOrder: true,
    framework: null,
    layers: 1,
    folded: 0,
    learned: 5,
  },
  runtime: { name: 'onnxruntime-node', version: '1.30.0' },
  inputs: {
    kind: 'files',
    samples: 8,
    runs: 2,
    seed: null,
    arrays: [{ name, dtype: 'F32', shape: [8, 3], file: name }],
  },
  putBack: { layers: 1, alone: 1 },
  outputs: [
    {
      name,
      type: name,
      shape: [8, 10],
      relativeL2: 0.25,
      cosine: 0.97,
      maxDifference: 1.5,
      nonFinite: { after: 0, restored: 0 },
      top1: null,
    },
  ],
  layers: [
    {
      name,
      node: name,
      status: 'drifted',
      via: 'live',
      channels: 64,
      putBack: true,
      outputShift: 0.5,
      movement: null,
      contribution: { explained: 0.75, outputs: [{ name, relativeL2: 0.0625, explained: 0.75 }] },
      notes: [name],
    },
  ],
  copyError: 1e-7,
  repeatError: 0,
  warnings: [name],
});

const restorationOf = (name: string): RestoreReport => ({
  schemaVersion: 1,
  tool: { name: 'bn-audit', version: '1.2.3' },
  outcome: 'restored',
  before: { path: name, format: 'ONNX' },
  after: { path: name, format: 'ONNX' },
  files: [name],
  layers: [
    {
      name,
      status: 'drifted',
      via: 'live',
      channels: 4,
      channelsMoved: 4,
      outputShift: 0.5,
      batches: null,
      parts: [{ part: 'running mean', tensor: name, dtype: 'F32', elements: 4 }],
      notes: [name],
    },
  ],
  left: [{ name, status: 'invalid' }],
  warnings: [name],
});

/** Everything that is shown of a name, by what shows it. */
function showAll(name: string, width: number): ReadonlyMap<string, string> {
  const names = [name, `a.${name}`, `${name}b`];
  const [audit, inspection] = [makeHostileReport(names), makeInspectReport(names)];
  const failure = { before: name, after: name, code: 'malformed', message: name, hint: name } as const;
  const set = buildAuditSet([audit, failure, audit]);
  const layer = render(audit, { layer: name, width });
  return new Map([
    ['a layer', layer],
    ['a restoration', renderRestoreText(restorationOf(name), { width, all: true })],
    ['JSON of a restoration', toJson(restorationOf(name))],
    [
      'a quoted name',
      [quote, quoteUnlessPlain, toShellWord, escapeControls].map((show) => `x ${show(name)}`).join('\n'),
    ],
    ...REPORT_FORMATS.flatMap((format) =>
      Object.entries({ audit, inspection, set }).map(
        ([what, report]) =>
          [
            `${what} as ${format}`,
            render(report, { format, all: true, ...(format === 'text' && { width }) }),
          ] as const,
      ),
    ),
    ...PROBE_FORMATS.map(
      (format) => [`probe as ${format}`, renderProbe(probeOf(name), { format, all: true })] as const,
    ),
  ]);
}

/** The lines that command a server, but for annotations of our own that hold nothing more. */
function findForeignCommands(name: string, width: number): readonly string[] {
  const isOwn = (line: string) =>
    /^(?:::(?:error|warning) title=[^:]*::|##vso\[task\.logissue [^\]]*\])/.test(line) &&
    findCommands(line.slice(2)).length === 0;
  return [...showAll(name, width)].flatMap(([what, text]) =>
    findCommands(text).flatMap((line) =>
      / as (?:github|azure)$/.test(what) && isOwn(line) ? [] : [`${what}: ${line}`],
    ),
  );
}

describe('a command in a name is none in any report', () => {
  test.each(Object.entries(COMMANDS))('%s', (_, name) => {
    expect(findCommands(name)).not.toEqual([]);
    expect(findForeignCommands(name, 80)).toEqual([]);
  });

  test('whatever it is made of, and wherever it is cut', { timeout: 120_000 }, () => {
    const parts = [
      '#',
      '##',
      'vso[',
      'teamcity[',
      '[',
      '::',
      'error',
      '\u00a0',
      '\u034f',
      '\u200b',
      '\n',
      '\r',
      '…',
      ' ',
    ];
    const name = fc.array(fc.constantFrom(...parts, '%0A', '`', '|', '.', '\\', '"', 'x'.repeat(40)), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(name, fc.integer({ min: 20, max: 120 }), (pieces, width) => {
        expect(findForeignCommands(pieces.join(''), width)).toEqual([]);
      }),
      { numRuns: 100 },
    );
  });
});

test('JSON holds the names as they are', () => {
  for (const name of Object.values(COMMANDS)) {
    const { layers } = JSON.parse(render(makeInspectReport([name]), { format: 'json' }));
    expect(layers[0].name).toBe(name.toWellFormed());
  }
});

test('the message of a GitHub command holds no other', () => {
  for (const text of Object.values(COMMANDS)) {
    const command = writeCommand('error', { title: text, file: text, message: text });
    expect(findCommands(command.slice(2))).toEqual([]);
    expect(command).not.toMatch(/%0A::|%0D/);
  }
});
