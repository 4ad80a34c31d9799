import { expect, test } from 'vitest';
import { VERSION } from '../../src/errors.js';
import { type CheckpointEvent, writeEvent, writeEventAsJson } from '../../src/watch/write-event.js';

const failed = (path: string, message: string, hint: string | null = null): CheckpointEvent => ({
  kind: 'failed',
  path,
  failure: { before: 'base.pt', after: path, code: 'truncated', message, hint },
});

test('what could not be audited is a line with the reason and the way out', () => {
  expect(writeEvent(failed('runs/a.pt', 'runs/a.pt: expected 8 bytes', 'Try again.'), {})).toBe(
    '✖ failed   runs/a.pt  expected 8 bytes. Try again.',
  );
  expect(writeEvent(failed('runs/a', 'runs/a/shard.pt: expected 8 bytes'), {})).toBe(
    '✖ failed   runs/a  runs/a/shard.pt: expected 8 bytes',
  );
  expect(JSON.parse(writeEventAsJson(failed('runs/a.pt', 'runs/a.pt: expected 8 bytes')))).toEqual({
    schemaVersion: 1,
    tool: { name: 'bn-audit', version: VERSION },
    verdict: 'failed',
    before: { path: 'base.pt' },
    after: { path: 'runs/a.pt' },
    code: 'truncated',
    message: 'runs/a.pt: expected 8 bytes',
    hint: null,
  });
});

test('what was deleted in time is a line of its own', () => {
  const gone: CheckpointEvent = { kind: 'gone', path: 'runs/a.pt' };
  expect(writeEvent(gone, {})).toBe('– gone     runs/a.pt  deleted before it could be audited');
  expect(JSON.parse(writeEventAsJson(gone))).toMatchObject({ verdict: 'gone', after: { path: 'runs/a.pt' } });
});

test('a terminal shows as much of the path as fits, and the rest below', () => {
  const path = `runs/${'long_name_of_a_run/'.repeat(4)}epoch_07.pt`;
  const event = failed(path, 'expected 8 bytes of a tensor, found 4');
  const shown = writeEvent(event, { width: 40, wholeNames: false });
  expect(shown).toBe(`✖ failed   runs/long…f_a_run/epoch_07.pt
           expected 8 bytes of a tensor,
           found 4`);
  expect(writeEvent(event, { width: 200, wholeNames: false })).not.toContain('\n');
  expect(writeEvent(event, { width: 40, wholeNames: true })).toBe(
    `✖ failed   ${path}  expected 8 bytes of a tensor, found 4`,
  );
});

test.each(['\u001b[2J\n::error::owned', 'x\r##vso[task.complete]', '\u202egnp.tp', '##teamcity[x'])(
  'no name steers a terminal, breaks a line or commands a CI server: %j',
  (name) => {
    for (const event of [failed(name, `${name}: ${name}`, name), { kind: 'gone', path: name } as const])
      for (const line of [writeEvent(event, {}), writeEventAsJson(event)]) {
        expect(line).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
        expect(line).not.toMatch(/^::|##(?:vso|teamcity)?\[/);
      }
    expect(JSON.parse(writeEventAsJson({ kind: 'gone', path: name })).after.path).toBe(name);
  },
);
