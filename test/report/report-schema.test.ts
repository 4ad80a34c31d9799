import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { CheckpointError } from '../../src/errors.js';
import { type Baseline, createBaseline } from '../../src/formats/baseline/make-baseline.js';
import { METADATA_KEYS } from '../../src/formats/baseline/open-baseline.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { inspect } from '../../src/inspect.js';
import { probe } from '../../src/probe/probe.js';
import { renderProbe } from '../../src/probe/probe-report.js';
import type { AuditReport } from '../../src/report/audit-report.js';
import { buildAuditSet } from '../../src/report/audit-set.js';
import { render } from '../../src/report/render.js';
import { restore } from '../../src/restore/restore.js';
import { trace } from '../../src/trace/trace.js';
import { writeEventAsJson } from '../../src/watch/write-event.js';
import { listShipped, readTruth } from '../build/shipped.js';
import { makeProbeReport } from '../probe/sample-probe.js';
import { REPORT_SCHEMA } from './report-schema.js';
import { SAMPLE_REPORTS } from './sample-reports.js';
import { makeTrace } from './sample-traces.js';

const SCHEMA_FILE = fileURLToPath(new URL('../../docs/report.schema.json', import.meta.url));

const fixture = (path: string) => fileURLToPath(new URL(`../../fixtures/${path}`, import.meta.url));

/** The same schema, by which a key that it does not name is wrong: so it names every key that is written. */
function closeObjects(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closeObjects);
  if (typeof value !== 'object' || value === null) return value;
  const closed = Object.fromEntries(Object.entries(value).map(([key, part]) => [key, closeObjects(part)]));
  return 'properties' in closed && !('additionalProperties' in closed) && 'required' in closed
    ? { ...closed, additionalProperties: false }
    : closed;
}

const ajv = new Ajv2020({ allowUnionTypes: true });
const isReport = ajv.compile(REPORT_SCHEMA);
const closed = new Ajv2020({ allowUnionTypes: true });
closed.addSchema(closeObjects(REPORT_SCHEMA) as object, 'reports');

type Definition = keyof typeof REPORT_SCHEMA.$defs;

/** What is wrong with a value by one definition. */
function listFaults(value: unknown, definition: Definition): readonly string[] {
  const validate = closed.getSchema(`reports#/$defs/${definition}`);
  if (validate === undefined) throw new Error(`the schema has no ${definition}`);
  validate(value);
  return (validate.errors ?? []).map(
    ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
  );
}

/** What is wrong with what a command printed. */
function findFaults(text: string, definition: Definition): readonly string[] {
  const report: unknown = JSON.parse(text);
  return [...listFaults(report, definition), ...(isReport(report) ? [] : ['is none of the reports'])];
}

const { tensors, modules, graph, warnings } = METADATA_KEYS;

/** The metadata of a baseline, with the texts in it that are JSON read as such. */
function readMetadata(baseline: Uint8Array): unknown {
  const length = Number(new DataView(baseline.buffer, baseline.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(baseline.subarray(8, 8 + length)));
  const texts: readonly (readonly [string, string])[] = Object.entries(header.__metadata__);
  const areJson: readonly string[] = [tensors, modules, graph, warnings];
  return Object.fromEntries(
    texts.map(([key, text]) => [key, areJson.includes(key) ? JSON.parse(text) : text]),
  );
}

async function makeBaseline(path: string): Promise<Baseline> {
  const checkpoint = await openCheckpoint(path);
  try {
    return await createBaseline(checkpoint);
  } finally {
    await checkpoint.close();
  }
}

/** What work comes to; nothing where a file is refused, of which no JSON tells. */
async function unlessRefused<Result>(work: Promise<Result>): Promise<readonly Result[]> {
  try {
    return [await work];
  } catch (error) {
    if (error instanceof CheckpointError) return [];
    throw error;
  }
}

const LEAK = 'pairs/requires-grad-leak';
const RUN = 'runs/leak';

const PAIRS: readonly (readonly [before: string, after: string])[] = [
  ...readdirSync(fixture('pairs')).map(
    (name) => [`pairs/${name}/before.safetensors`, `pairs/${name}/after.safetensors`] as const,
  ),
  ...['.pt', '.live.onnx', '.fold.onnx', '.training.onnx'].map(
    (ending) => [`${LEAK}/before${ending}`, `${LEAK}/after${ending}`] as const,
  ),
  [`${LEAK}/before.pt`, `${LEAK}/after.fold.onnx`],
  ...listShipped().flatMap((name) =>
    readTruth(name)
      .cases.filter(({ options }) => options.length === 0)
      .map(({ before, after }) => [`shipped/${name}/${before}`, `shipped/${name}/${after}`] as const),
  ),
];

const CHECKPOINTS = [...new Set(PAIRS.flat())];

test('docs/report.schema.json is what its table says', async () => {
  await expect(`${JSON.stringify(REPORT_SCHEMA, null, 2)}\n`).toMatchFileSnapshot(SCHEMA_FILE);
});

describe('the schema of JSON', { timeout: 120_000 }, () => {
  test('holds for the audits of all pairs of fixtures, and for all of them together', async () => {
    const reports: AuditReport[] = [];
    for (const [before, after] of PAIRS)
      reports.push(...(await unlessRefused(audit(fixture(before), fixture(after), { channels: true }))));
    expect(reports.length).toBeGreaterThan(80);
    const faults = reports.flatMap((report) => findFaults(render(report, { format: 'json' }), 'audit'));
    expect(faults).toEqual([]);
    const failure = { before: 'a', after: 'b', code: 'truncated', message: 'c', hint: null } as const;
    const set = render(buildAuditSet([...reports.slice(0, 9), failure]), { format: 'json' });
    expect(findFaults(set, 'auditSet')).toEqual([]);
  });

  test('holds for the inspections of all of their checkpoints', async () => {
    const faults: (readonly string[])[] = [];
    for (const path of CHECKPOINTS)
      for (const report of await unlessRefused(inspect(fixture(path), { channels: true })))
        faults.push(findFaults(render(report, { format: 'json' }), 'inspection'));
    expect(faults.length).toBeGreaterThan(80);
    expect(faults.flat()).toEqual([]);
  });

  test('holds for the baselines of all of their checkpoints', async () => {
    const faults: (readonly string[])[] = [];
    for (const path of CHECKPOINTS)
      for (const { bytes } of await unlessRefused(makeBaseline(fixture(path))))
        faults.push(listFaults(readMetadata(bytes), 'baseline'));
    expect(faults.length).toBeGreaterThan(80);
    expect(faults.flat()).toEqual([]);
  });

  test('holds for a trace of a run, and for one in which nothing drifted', async () => {
    const paths = readdirSync(fixture(RUN)).filter((name) => name.startsWith('epoch_'));
    const checkpoints = paths.map((name) => fixture(`${RUN}/${name}`));
    const base = fixture(`${RUN}/base.pt`);
    for (const some of [checkpoints, checkpoints.slice(0, 2), [...checkpoints, fixture('README.md')]]) {
      const report = await trace(base, some);
      expect(findFaults(render(report, { format: 'json' }), 'trace')).toEqual([]);
    }
  });

  test('holds for each line of a watch', async () => {
    const report = await audit(fixture(`${LEAK}/before.pt`), fixture(`${LEAK}/after.pt`));
    expect(findFaults(writeEventAsJson({ kind: 'audited', path: 'after.pt', report }), 'audit')).toEqual([]);
    const failure = {
      before: 'a.pt',
      after: 'b.pt',
      code: 'truncated',
      message: 'b.pt: …',
      hint: null,
    } as const;
    expect(findFaults(writeEventAsJson({ kind: 'failed', path: 'b.pt', failure }), 'watchFailure')).toEqual(
      [],
    );
    expect(findFaults(writeEventAsJson({ kind: 'gone', path: 'b.pt' }), 'watchGone')).toEqual([]);
  });

  test.each([
    ['restored', `${LEAK}/after.pt`],
    ['folded', `${LEAK}/after.fold.onnx`],
    ['left as they are', `${LEAK}/before.safetensors`],
  ])('holds for a restoration, %s', async (_, after) => {
    const report = await restore(fixture(`${LEAK}/before.pt`), fixture(after), 'out', { dryRun: true });
    expect(findFaults(JSON.stringify(report), 'restoration')).toEqual([]);
  });

  test('holds for probes with inputs and without', async () => {
    const [before, after] = [fixture(`${LEAK}/before.pt`), fixture(`${LEAK}/after.live.onnx`)];
    for (const options of [{ samples: 2 }, { inputs: [fixture('probe/input.npy')] }]) {
      const report = await probe(before, after, options);
      expect(findFaults(renderProbe(report, { format: 'json' }), 'probe')).toEqual([]);
    }
    expect(findFaults(renderProbe(makeProbeReport(), { format: 'json' }), 'probe')).toEqual([]);
  });

  test.each([...SAMPLE_REPORTS, ['a long run', makeTrace()] as const])('holds for %s', (_, report) => {
    const text = render(report, { format: 'json' });
    const definition = 'checkpoints' in report ? 'trace' : 'verdict' in report ? 'audit' : 'inspection';
    expect(findFaults(text, definition)).toEqual([]);
  });

  test('refuses what is no report', () => {
    expect(isReport({ schemaVersion: 1 })).toBe(false);
  });

  test('lets keys be added, as its promise says', async () => {
    const report = await audit(fixture(`${LEAK}/before.pt`), fixture(`${LEAK}/after.pt`));
    expect(isReport({ ...JSON.parse(render(report, { format: 'json' })), later: 1 })).toBe(true);
  });
});
