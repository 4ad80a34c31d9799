import { describe, expect, test } from 'vitest';
import { findArtifactPath } from '../../src/report/any-report.js';

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
});
