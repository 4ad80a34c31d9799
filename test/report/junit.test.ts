import { describe, expect, test } from 'vitest';
import { makeMixedReport, renderAs, SAMPLE_REPORTS } from './sample-reports.js';
import { parseXml, type XmlNode } from './validators.js';

const renderJunit = renderAs('junit');

function findAll(nodes: readonly XmlNode[], name: string): readonly XmlNode[] {
  return nodes.flatMap((node) => [...(node.name === name ? [node] : []), ...findAll(node.children, name)]);
}

describe('JUnit', () => {
  test('has a test case for each layer and for what else was found', async () => {
    await expect(renderJunit(makeMixedReport())).toMatchFileSnapshot('__snapshots__/mixed.junit.xml');
  });

  test('names suites by the checkpoints that they compare: two pairs may share one', () => {
    const suites = findAll(parseXml(renderJunit(makeMixedReport())), 'testsuite');
    expect(suites.map(({ attributes }) => attributes['name'])).toEqual([
      'bn-audit runs/base.pt → runs/tuned.pt',
    ]);
  });

  test.each(SAMPLE_REPORTS)('counts what it holds in %s', (_, report) => {
    const roots = parseXml(renderJunit(report));
    const [suite] = findAll(roots, 'testsuite');
    expect(suite?.attributes).toMatchObject({
      tests: String(findAll(roots, 'testcase').length),
      failures: String(findAll(roots, 'failure').length),
      skipped: String(findAll(roots, 'skipped').length),
      errors: '0',
    });
  });

  test.each(SAMPLE_REPORTS)('holds no character that XML 1.0 forbids in %s', (_, report) => {
    expect(renderJunit(report)).not.toMatch(/[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/u);
  });

  test('fails the layers with errors, skips the accepted ones, passes the rest', () => {
    const cases = findAll(parseXml(renderJunit(makeMixedReport())), 'testcase');
    const outcomes = cases.map(({ attributes, children }) => [
      attributes['name'],
      children.map(({ name }) => name).join(),
    ]);
    expect(outcomes).toEqual([
      ['backbone.bn1', 'failure'],
      ['backbone.layer1.bn1', 'failure'],
      ['backbone.layer1.bn2', 'skipped'],
      ['neck.bn', 'system-out'],
      ['neck.bn2', ''],
      ['head.bn', 'failure'],
      ['head.bn3', 'skipped'],
    ]);
  });
});
