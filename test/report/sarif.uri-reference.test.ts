import { expect, test } from 'vitest';
import { toUriReference } from '../../src/report/sarif.js';

test.each([
  ['runs/after v2.pt', 'runs/after%20v2.pt'],
  ['a:b#c?d%e.pt', 'a%3Ab%23c%3Fd%25e.pt'],
  ['/repo/after.pt', 'file:///repo/after.pt'],
  ['C:/repo/after.pt', 'file:///C:/repo/after.pt'],
  ['a\ud800.pt', 'a%EF%BF%BD.pt'],
])('%j is the URI %s', (path, expected) => {
  expect(toUriReference(path)).toBe(expected);
});
