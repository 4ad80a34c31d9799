import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { FINDING_KINDS } from '../../src/compare/findings.js';
import { makeWorkspace, runCli } from './run.js';

const workspace = makeWorkspace();

describe('explain', () => {
  test.each(FINDING_KINDS)('prints the page of %s, from any directory', async (kind) => {
    const page = readFileSync(new URL(`../../docs/findings/${kind}.md`, import.meta.url), 'utf8');
    expect(await runCli(['explain', kind], workspace)).toEqual({ stdout: page, stderr: '', exitCode: 0 });
  });
});
