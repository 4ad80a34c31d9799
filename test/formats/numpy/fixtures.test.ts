import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../../src/audit.js';
import type { AuditReport } from '../../../src/report/audit-report.js';
import { restore } from '../../../src/restore/restore.js';
import { failureOf } from '../../build/failure.js';

const DIRECTORY = resolve(import.meta.dirname, '../../../fixtures/arrays');

/** The files whose names say whose names their arrays have; the others have PyTorch's. */
const NAMINGS = ['paddle', 'caffe2', 'keras', 'flax'];

/** Every form that is there, as the path of its before. */
const forms = readdirSync(DIRECTORY, { recursive: true, encoding: 'utf8' })
  .filter((name) => /^(?!reference)[^/]+.[^/]*-before[^/]*$/.test(name))
  .sort();

/** A report without the files' names and formats, and with names as paths: Flax's are nested in pickles, joined elsewhere. */
function withoutFiles(report: AuditReport): unknown {
  const text = JSON.stringify(report, (key, value) =>
    key === 'path' || key === 'format' || key === 'inModuleOrder' ? undefined : value,
  );
  const toPath = (name: string) => name.replaceAll('/', '.').replace('batch_stats.', '');
  return JSON.parse(text.replace(/"(?:batch_stats|backbone)[^"]*"/g, toPath));
}

const pathOf = (form: string) => join(DIRECTORY, form);
const afterOf = (form: string) => form.replace('-before', '-after');

describe('an audit of arrays says what one of the same tensors in safetensors says', () => {
  test('there are forms of either NumPy and of every framework', () => {
    expect(forms.length).toBeGreaterThan(30);
    for (const kind of ['numpy1', 'numpy2', ...NAMINGS, 'torch-save']) expect(forms.join()).toContain(kind);
  });

  test.each(forms)('%s', async (form) => {
    const naming = NAMINGS.find((known) => basename(form).startsWith(known)) ?? 'torch';
    const reference = `reference/${naming}-before.safetensors`;
    const expected = await audit(pathOf(reference), pathOf(afterOf(reference)));
    const found = await audit(pathOf(form), pathOf(afterOf(form)));
    expect(expected.summary.byStatus).toMatchObject({ drifted: 2 });
    expect(withoutFiles(found)).toEqual(withoutFiles(expected));
  });

  test.each(forms)('%s against safetensors: nothing differs', async (form) => {
    const naming = NAMINGS.find((known) => basename(form).startsWith(known)) ?? 'torch';
    const { verdict, summary } = await audit(pathOf(form), pathOf(`reference/${naming}-before.safetensors`));
    expect({ verdict, ...summary.byStatus }).toMatchObject({ verdict: 'clean', locked: 2 });
  });
});

describe('restore puts statistics into the arrays of a file', () => {
  const target = (form: string) => join(mkdtempSync(join(tmpdir(), 'restored-')), basename(form));

  test.each(forms.filter((form) => !/protocol-2|blobs|(?:zip|legacy)-before\.pth/.test(form)))(
    '%s',
    async (form) => {
      const fixed = target(form);
      const report = await restore(pathOf(form), pathOf(afterOf(form)), fixed);
      expect(report.outcome).toBe('restored');
      expect((await audit(pathOf(form), fixed)).summary.byStatus).toMatchObject({ locked: 2 });
    },
  );

  test.each(['protocol-2/numpy1-before.pkl', 'torch-save/zip-before.pth', 'torch-save/legacy-before.pth'])(
    '%s: not into arrays that are written as text',
    async (form) => {
      const failure = await failureOf(() => restore(pathOf(form), pathOf(afterOf(form)), target(form)));
      expect(failure.message).toContain('its array is written as text');
      expect(failure.hint).toContain('pickle_protocol=4');
    },
  );
});
