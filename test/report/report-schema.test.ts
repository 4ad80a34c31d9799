import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { FINDING_KINDS } from '../../src/compare/findings.js';
import { LAYER_STATUSES } from '../../src/compare/status.js';
import { inspect } from '../../src/inspect.js';
import { renderProbe } from '../../src/probe/probe-report.js';
import { buildAuditSet } from '../../src/report/audit-set.js';
import { render } from '../../src/report/render.js';
import { restore } from '../../src/restore/restore.js';
import { makeProbeReport } from '../probe/sample-probe.js';
import { SAMPLE_REPORTS } from './sample-reports.js';

const schema = JSON.parse(readFileSync(new URL('../../docs/report.schema.json', import.meta.url), 'utf8'));
const fixture = (path: string) => fileURLToPath(new URL(`../../fixtures/${path}`, import.meta.url));

/** The same schema, by which a key that it does not name is wrong: so it names every key that is written. */
function closeObjects(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closeObjects);
  if (typeof value !== 'object' || value === null) return value;
  const closed = Object.fromEntries(Object.entries(value).map(([key, part]) => [key, closeObjects(part)]));
  return 'properties' in closed && !('additionalProperties' in closed) && closed['type'] === 'object'
    ? { ...closed, additionalProperties: false }
    : closed;
}

const ajv = new Ajv2020({ allErrors: true, allowUnionTypes: true });
const closed = new Ajv2020({ allErrors: true, allowUnionTypes: true });
closed.addSchema(closeObjects(schema) as object, 'reports');
const isReport = ajv.compile(schema);

/** What is wrong with a text by the schema of one command. */
function findFaults(text: string, definition: string): readonly string[] {
  const validate = closed.getSchema(`reports#/$defs/${definition}`);
  if (validate === undefined) throw new Error(`the schema has no ${definition}`);
  const report = JSON.parse(text);
  const faults = validate(report)
    ? []
    : (validate.errors ?? []).map((error) => `${error.instancePath} ${error.message}`);
  return isReport(report) ? faults : [...faults, 'is none of the reports'];
}

const LEAK = 'pairs/requires-grad-leak';

const PAIRS = [
  [`${LEAK}/before.safetensors`, `${LEAK}/after.safetensors`],
  [`${LEAK}/before.pt`, `${LEAK}/after.pt`],
  [`${LEAK}/before.fold.onnx`, `${LEAK}/after.fold.onnx`],
  [`${LEAK}/before.pt`, `${LEAK}/after.live.onnx`],
  ['pairs/nan/before.safetensors', 'pairs/nan/after.safetensors'],
  ['pairs/unpaired/before.safetensors', 'pairs/unpaired/after.safetensors'],
  ['shipped/int8-qdq-int8-channel/before.onnx', 'shipped/int8-qdq-int8-channel/drift-three.onnx'],
  ['shipped/parts-two/before.pt', 'shipped/parts-two/after.pt'],
] as const;

describe('docs/report.schema.json', () => {
  test.each(PAIRS)('holds for the audit of %s and %s', async (before, after) => {
    const report = await audit(fixture(before), fixture(after), { channels: true });
    expect(findFaults(render(report, { format: 'json' }), 'audit')).toEqual([]);
  });

  test('holds for several audits', async () => {
    const report = await audit(fixture(`${LEAK}/before.pt`), fixture(`${LEAK}/after.pt`));
    const failure = { before: 'a', after: 'b', code: 'truncated', message: 'c', hint: null } as const;
    const set = render(buildAuditSet([report, failure]), { format: 'json' });
    expect(findFaults(set, 'auditSet')).toEqual([]);
  });

  test.each([
    'pairs/nan/after.safetensors',
    `${LEAK}/after.live.onnx`,
    `${LEAK}/after.fold.onnx`,
    `${LEAK}/after.pt`,
  ])('holds for the inspection of %s', async (path) => {
    const report = await inspect(fixture(path), { channels: true });
    expect(findFaults(render(report, { format: 'json' }), 'inspection')).toEqual([]);
  });

  test.each([
    ['restored', `${LEAK}/after.pt`],
    ['folded', `${LEAK}/after.fold.onnx`],
  ])('holds for a restoration, %s', async (_, after) => {
    const report = await restore(fixture(`${LEAK}/before.pt`), fixture(after), 'out', { dryRun: true });
    expect(findFaults(JSON.stringify(report), 'restoration')).toEqual([]);
  });

  test('holds for a probe', () => {
    expect(findFaults(renderProbe(makeProbeReport(), { format: 'json' }), 'probe')).toEqual([]);
  });

  test.each(SAMPLE_REPORTS)('holds for %s', (_, report) => {
    const text = render(report, { format: 'json' });
    expect(findFaults(text, 'verdict' in report ? 'audit' : 'inspection')).toEqual([]);
  });

  test('refuses what is no report', () => {
    expect(isReport({ schemaVersion: 1 })).toBe(false);
  });

  test('names every kind of finding and every status', () => {
    expect(schema.$defs.finding.properties.kind.enum).toEqual(FINDING_KINDS);
    expect(schema.$defs.status.enum).toEqual(LAYER_STATUSES);
  });
});
