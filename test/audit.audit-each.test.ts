import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { type AuditRequest, audit, auditEach, withAudits } from '../src/audit.js';
import { isFailure } from '../src/report/audit-set.js';

const pair = (name: string) => fileURLToPath(new URL(`../fixtures/pairs/${name}`, import.meta.url));
const before = pair('requires-grad-leak/before.safetensors');
const drifted = pair('requires-grad-leak/after.safetensors');

test('audits come one by one, each with its own options, and a failure stops none', async () => {
  const requests: readonly AuditRequest[] = [
    { before, after: drifted },
    { before, after: 'gone.pt' },
    { before, after: drifted, options: { frozen: ['nope'] } },
    { before, after: drifted, options: { allow: ['**'] } },
  ];
  const outcomes: string[] = [];
  for await (const { request, outcome } of auditEach(requests)) {
    expect(request).toBe(requests[outcomes.length]);
    outcomes.push(isFailure(outcome) ? outcome.code : outcome.verdict);
  }
  expect(outcomes).toEqual(['drifted', 'not-found', 'usage', 'clean']);
});

test('nothing is opened before it is asked for', async () => {
  let asked = 0;
  function* requests(): Generator<AuditRequest> {
    for (;;) {
      asked++;
      yield { before, after: drifted };
    }
  }
  for await (const _ of auditEach(requests())) break;
  expect(asked).toBe(1);
});

test('a defect is thrown, not reported as a failure of a checkpoint', async () => {
  const options = {
    get frozen(): readonly string[] {
      throw new TypeError('broken on purpose');
    },
  };
  await expect(auditEach([{ before, after: drifted, options }]).next()).rejects.toThrow(TypeError);
});

test('audits against one before open it once, and say of each after what audit says of the two', async () => {
  const opened: string[] = [];
  const onOpenFile = (path: string) => opened.push(path);
  const outcomes = await withAudits(before, { onOpenFile }, async (auditNext) => [
    await auditNext(drifted, {}),
    await auditNext('gone.pt', {}),
    await auditNext(drifted, { frozen: ['nope'] }),
    await auditNext(drifted, { allow: ['**'] }),
  ]);
  expect(opened).toEqual([before]);
  expect(outcomes.map((outcome) => (isFailure(outcome) ? outcome.code : outcome.verdict))).toEqual([
    'drifted',
    'not-found',
    'usage',
    'clean',
  ]);
  expect(outcomes[0]).toEqual(await audit(before, drifted));
});

test('a before that cannot be opened is no outcome of an after', async () => {
  const failing = withAudits('gone.pt', {}, (auditNext) => auditNext(drifted, {}));
  await expect(failing).rejects.toThrow(expect.objectContaining({ code: 'not-found', file: 'gone.pt' }));
});
