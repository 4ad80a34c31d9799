import { expect, test } from 'vitest';
import { UsageError } from '../../src/errors.js';
import { inspectCheckpoint } from '../../src/inspect.js';
import { buildAuditSet } from '../../src/report/audit-set.js';
import { REPORT_FORMATS } from '../../src/report/formats.js';
import { renderJson } from '../../src/report/json.js';
import { render } from '../../src/report/render.js';
import { renderText } from '../../src/report/text.js';
import { checkpointOf, normTensors } from '../build/checkpoints.js';
import { makeLayer, makeMixedReport, makeReport } from './sample-reports.js';

const report = makeMixedReport();

test('text is the default', () => {
  expect(render(report)).toBe([...renderText(report, {})].join(''));
  expect(render(report, { width: 100, all: true })).toBe(
    [...renderText(report, { width: 100, all: true })].join(''),
  );
});

test('an inspection is told apart from an audit', async () => {
  const inspected = await inspectCheckpoint(checkpointOf(normTensors('bn')));
  expect(render(inspected)).toMatch(/^checkpoint {2}/);
  expect(render(inspected, { format: 'json' })).toBe([...renderJson(inspected)].join(''));
});

test('json is the report itself', () => {
  expect(render(report, { format: 'json' })).toBe([...renderJson(report)].join(''));
});

test('a layer is shown alone', () => {
  expect(render(makeReport({ layers: [makeLayer('bn')] }), { layer: 'bn' })).toMatch(
    /^bn {2}BatchNorm, drifted, 4 channels/,
  );
});

test('a layer that the report does not have is refused', () => {
  expect(() => render(report, { layer: 'gone' })).toThrow(new RangeError('the report has no layer gone'));
});

test.each(REPORT_FORMATS)('%s is the same text each time, and ends with a line end', (format) => {
  expect(render(report, { format })).toBe(render(report, { format }));
  expect(render(report, { format })).toMatch(/\n$/);
});

test.each(['nope', '', 'toString'])('the format %j is refused', (name) => {
  const options = { format: name } as unknown as { format: 'text' };
  const failure = new UsageError(
    `format: expected one of text, json, markdown, html, junit, sarif, github, gitlab, azure, summary, found "${name}"`,
  );
  expect(() => render(report, options)).toThrow(failure);
  expect(() => render(buildAuditSet([report, report]), options)).toThrow(failure);
});
