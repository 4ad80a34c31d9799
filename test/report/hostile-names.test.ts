import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { describe, expect, test } from 'vitest';
import { REPORT_FORMATS } from '../../src/report/formats.js';
import { type ReportFormat, render } from '../../src/report/render.js';
import { HOSTILE_NAMES, makeHostileReport, makeInspectReport } from './sample-reports.js';
import { parseWorkflowCommands, readAzureIssues } from './workflow-commands.js';

/** Controls, and characters that reorder or break lines: nothing that a terminal, a log or a reader would act on. */
const STEERING = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/;

/** The same for JSON, whose strings hold names as they are. */
const CONTROLS = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/;

/** A format's own structure, as its consumer sees it: the same for a hostile name as for a plain one. */
function findStructure(format: ReportFormat, text: string): unknown {
  switch (format) {
    case 'json':
    case 'sarif':
    case 'gitlab':
      return shapeOf(JSON.parse(text));
    case 'junit':
      expect(XMLValidator.validate(text)).toBe(true);
      return shapeOf(new XMLParser({ ignoreAttributes: false, parseTagValue: false }).parse(text));
    case 'html': {
      // Names wrap after dots, and code is left out where they are too long for it.
      const page = text.replace(/<section id="fix"[\s\S]*?<\/section>|<wbr>/g, '');
      return [...page.matchAll(/<\/?([a-z]\w*)/g)].map(([, name]) => name);
    }
    case 'github':
      return parseWorkflowCommands(text).map(({ name, properties }) => [name, Object.keys(properties)]);
    case 'markdown':
      return text.split('\n').map((line) => line.replace(/[^|]/g, '').length);
    case 'azure':
      return readAzureIssues(text).map(Object.keys);
    case 'text':
      return null;
    case 'summary':
      return text.split('\n').length;
    default:
      return format satisfies never;
  }
}

function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(shapeOf);
  if (typeof value !== 'object' || value === null) return typeof value;
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, shapeOf(part)]));
}

describe.each(REPORT_FORMATS)('hostile names in %s', (format) => {
  const plain = {
    audit: render(makeHostileReport(['plain']), { format }),
    inspection: render(makeInspectReport(['plain', 'plain2']), { format }),
  };

  // JSON and the code of a text report hold names whole, for machines.
  const isWhole = format === 'json' || format === 'text';

  test.each(Object.entries(HOSTILE_NAMES))('do not break out: %s', (_, name) => {
    const audit = render(makeHostileReport([name]), { format, all: true });
    const inspection = render(makeInspectReport([name, `${name}2`]), { format, all: true });
    for (const text of [audit, inspection]) {
      expect(text).not.toMatch(format === 'json' ? CONTROLS : STEERING);
      expect(text.isWellFormed()).toBe(true);
      if (!['github', 'azure', 'json'].includes(format)) expect(parseWorkflowCommands(text)).toEqual([]);
    }
    if (format === 'markdown') return; // its structure is tested by a parser, in markdown.test.ts
    expect(findStructure(format, audit)).toEqual(findStructure(format, plain.audit));
    expect(findStructure(format, inspection)).toEqual(findStructure(format, plain.inspection));
  });

  test('are shortened where people read them', () => {
    const text = render(makeHostileReport([HOSTILE_NAMES['long'] ?? '']), { format });
    if (!isWhole) expect(text).not.toContain('x'.repeat(3000));
  });
});
