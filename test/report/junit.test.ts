import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { describe, expect, test } from 'vitest';
import { makeMixedReport, renderAs, SAMPLE_REPORTS } from './sample-reports.js';

const renderJunit = renderAs('junit');

interface XmlNode {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly XmlNode[];
}

type OrderedXml = readonly Readonly<Record<string, unknown>>[];

/** Parses well-formed XML to a tree; throws on anything else. */
function parseXml(text: string): readonly XmlNode[] {
  const result = XMLValidator.validate(text);
  if (result !== true) throw new Error(JSON.stringify(result.err));
  const parser = new XMLParser({
    preserveOrder: true,
    ignoreAttributes: false,
    attributeNamePrefix: '',
    parseAttributeValue: false,
  });
  return toNodes(parser.parse(text) as OrderedXml);
}

function toNodes(parsed: OrderedXml): readonly XmlNode[] {
  return parsed.flatMap((entry) => {
    const name = Object.keys(entry).find((key) => key !== ':@' && key !== '#text' && key !== '?xml');
    if (name === undefined) return [];
    const attributes = (entry[':@'] ?? {}) as Record<string, string>;
    return [{ name, attributes, children: toNodes(entry[name] as OrderedXml) }];
  });
}

/** What junit-10.xsd of the Jenkins xUnit plugin (and Ant's older schema) allow, of what this renderer writes. */
const RULES: Readonly<
  Record<string, { required: readonly string[]; optional: readonly string[]; children: readonly string[] }>
> = {
  testsuites: {
    required: [],
    optional: ['name', 'time', 'tests', 'failures', 'errors'],
    children: ['testsuite'],
  },
  testsuite: {
    required: ['name', 'tests', 'failures', 'errors', 'time'],
    optional: ['skipped', 'timestamp', 'hostname', 'id', 'package'],
    children: ['properties', 'testcase', 'system-out', 'system-err'],
  },
  properties: { required: [], optional: [], children: ['property'] },
  property: { required: ['name', 'value'], optional: [], children: [] },
  testcase: {
    required: ['name', 'classname', 'time'],
    optional: ['status', 'assertions'],
    children: ['skipped', 'error', 'failure', 'system-out', 'system-err'],
  },
  failure: { required: ['type'], optional: ['message'], children: [] },
  skipped: { required: [], optional: ['message', 'type'], children: [] },
  'system-out': { required: [], optional: [], children: [] },
};

function checkRules(node: XmlNode): void {
  const rule = RULES[node.name];
  if (rule === undefined) throw new Error(`element ${node.name} is not in the schema`);
  const attributes = Object.keys(node.attributes);
  expect(attributes).toEqual(expect.arrayContaining([...rule.required]));
  expect([...rule.required, ...rule.optional]).toEqual(expect.arrayContaining(attributes));
  for (const child of node.children) {
    expect(rule.children).toContain(child.name);
    checkRules(child);
  }
}

function findAll(nodes: readonly XmlNode[], name: string): readonly XmlNode[] {
  return nodes.flatMap((node) => [...(node.name === name ? [node] : []), ...findAll(node.children, name)]);
}

describe('JUnit', () => {
  test('has a test case for each layer and for what else was found', async () => {
    await expect(renderJunit(makeMixedReport())).toMatchFileSnapshot('__snapshots__/mixed.junit.xml');
  });

  test.each(SAMPLE_REPORTS)('follows the schema of Jenkins and Ant in %s', (_, report) => {
    const roots = parseXml(renderJunit(report));
    expect(roots.map(({ name }) => name)).toEqual(['testsuites']);
    for (const root of roots) checkRules(root);
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
