// What the readers of CI reports take, as schemas, and reports of all sorts that must follow them.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Ajv, type ValidateFunction } from 'ajv';
import AjvDraft4 from 'ajv-draft-04';
import addFormats from 'ajv-formats';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import type { AnyReport } from '../../src/report/any-report.js';
import { type AuditSet, buildAuditSet } from '../../src/report/audit-set.js';
import { HOSTILE_NAMES, makeHostileReport, makeMixedReport, SAMPLE_REPORTS } from './sample-reports.js';
import { makeTrace } from './sample-traces.js';

const hostile = Object.values(HOSTILE_NAMES).join('/');

/** Reports of every sort, a run and several audits too. */
export const ALL_SORTS: readonly (readonly [what: string, report: AnyReport | AuditSet])[] = [
  ...SAMPLE_REPORTS,
  ['a run', makeTrace()],
  ['a run of hostile names', makeTrace({ name: (index) => `${hostile}${index}`, path: () => hostile })],
  [
    'several audits',
    buildAuditSet([
      makeMixedReport(),
      makeHostileReport(),
      { before: hostile, after: 'b.pt', code: 'truncated', message: `b.pt: ${hostile}`, hint: hostile },
      { before: 'a.pt', after: 'c.pt', code: 'usage', message: 'c.pt: expected one', hint: null },
    ]),
  ],
];

/** The JSON schema of OASIS for SARIF 2.1.0, as Microsoft's package carries it. */
const SARIF_SCHEMA = createRequire(import.meta.url).resolve(
  '@microsoft/jest-sarif/lib/schemas/sarif-2.1.0-rtm.5.json',
);

const text = { type: 'string', minLength: 1 };

/** What GitLab documents of its Code Quality report: these keys are required, and others ignored. */
const GITLAB_SCHEMA = {
  type: 'array',
  items: {
    type: 'object',
    required: ['description', 'check_name', 'fingerprint', 'severity', 'location'],
    properties: {
      description: text,
      check_name: text,
      fingerprint: { type: 'string', pattern: '^[0-9a-f]{32}$' },
      severity: { enum: ['info', 'minor', 'major', 'critical', 'blocker'] },
      location: {
        type: 'object',
        required: ['path', 'lines'],
        properties: {
          // Relative to the repository.
          path: { ...text, not: { pattern: '^\\./' } },
          lines: {
            type: 'object',
            required: ['begin'],
            properties: { begin: { type: 'integer', minimum: 1 } },
          },
        },
      },
    },
  },
};

function makeJsonValidator(validate: ValidateFunction): (report: string) => readonly string[] {
  return (report) => {
    validate(JSON.parse(report));
    return (validate.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`);
  };
}

const draft4 = new AjvDraft4.default({ strict: false, allErrors: true, unicodeRegExp: false });
addFormats.default(draft4);

/** An element of XML. */
export interface XmlNode {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly XmlNode[];
}

type OrderedXml = readonly Readonly<Record<string, unknown>>[];

/** Parses well-formed XML to a tree; throws on anything else. */
export function parseXml(text: string): readonly XmlNode[] {
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
  error: { required: ['type'], optional: ['message'], children: [] },
  failure: { required: ['type'], optional: ['message'], children: [] },
  skipped: { required: [], optional: ['message', 'type'], children: [] },
  'system-out': { required: [], optional: [], children: [] },
};

/** What is wrong with an element, and with those in it, by the rules. */
function* findBroken({ name, attributes, children }: XmlNode): Iterable<string> {
  const { required = [], optional = [], children: allowed = [] } = RULES[name] ?? {};
  if (RULES[name] === undefined) yield `${name} is no element`;
  for (const one of required) if (!(one in attributes)) yield `${name} has no ${one}`;
  for (const one of Object.keys(attributes))
    if (![...required, ...optional].includes(one)) yield `${name} may have no ${one}`;
  for (const child of children) {
    if (!allowed.includes(child.name)) yield `${name} may hold no ${child.name}`;
    yield* findBroken(child);
  }
}

/** What is wrong with a report, by its format. */
export const VALIDATORS = {
  sarif: makeJsonValidator(draft4.compile(JSON.parse(readFileSync(SARIF_SCHEMA, 'utf8')))),
  gitlab: makeJsonValidator(new Ajv({ allErrors: true }).compile(GITLAB_SCHEMA)),
  junit: (report) => {
    const roots = parseXml(report);
    const names = roots.map(({ name }) => name).join();
    return [
      ...(names === 'testsuites' ? [] : [`the root is ${names}`]),
      ...roots.flatMap((root) => [...findBroken(root)]),
    ];
  },
} as const satisfies Readonly<Record<string, (report: string) => readonly string[]>>;
