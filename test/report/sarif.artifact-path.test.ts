import { describe, expect, test } from 'vitest';
import { findArtifactPath, toUriReference } from '../../src/report/sarif.js';

describe('artifact paths', () => {
  test.each([
    ['runs/after.pt', undefined, 'runs/after.pt'],
    ['./runs/after.pt', undefined, 'runs/after.pt'],
    ['runs//after.pt', undefined, 'runs/after.pt'],
    ['/repo/runs/after.pt', '/repo', 'runs/after.pt'],
    ['/repo/runs/after.pt', '/repo/', 'runs/after.pt'],
    ['/repository/after.pt', '/repo', '/repository/after.pt'],
    ['C:\\repo\\runs\\after.pt', 'C:\\repo', 'runs/after.pt'],
    ['runs/a\\b.pt', undefined, 'runs/a\\b.pt'],
    ['.', undefined, '.'],
  ])('of %j in %j is %j', (path, root, expected) => {
    expect(findArtifactPath(path, { root })).toBe(expected);
  });

  test.each([
    ['runs/after v2.pt', 'runs/after%20v2.pt'],
    ['a:b#c?d%e.pt', 'a%3Ab%23c%3Fd%25e.pt'],
    ['/repo/after.pt', 'file:///repo/after.pt'],
    ['C:/repo/after.pt', 'file:///C:/repo/after.pt'],
    ['a\ud800.pt', 'a%EF%BF%BD.pt'],
  ])('%j is the URI %s', (path, expected) => {
    expect(toUriReference(path)).toBe(expected);
  });
});
