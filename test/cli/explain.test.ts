import { describe, expect, test } from 'vitest';
import { FINDING_KINDS, titleOf } from '../../src/compare/findings.js';
import { LAYER_STATUSES } from '../../src/compare/status.js';
import { makeWorkspace, runCli } from './run.js';

const workspace = makeWorkspace();

const explain = async (...words: readonly string[]) => {
  const { stdout, stderr, exitCode } = await runCli(['explain', ...words], workspace);
  expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 });
  return stdout;
};

describe('explain', () => {
  test.each(FINDING_KINDS)('lays out the page of %s, from any directory', async (kind) => {
    const text = await explain(kind);
    expect(text).toMatch(new RegExp(`^${kind}\n\n`));
    expect(text).not.toMatch(/^#|\]\(|^```/m);
  });

  test.each(LAYER_STATUSES)('tells of the status %s what it takes, and where to read on', async (status) => {
    const text = await explain(status);
    expect(text).toMatch(new RegExp(`^${status}\n\n(?:.*\n)*? {2}what it says {2}\\S`));
    expect(text).toMatch(/\nmore {2}bn-audit explain measures\n/);
  });

  test.each(['output shift', 'outputShift', 'OUTPUT-SHIFT'])('takes %s for one measure', async (name) => {
    const text = await explain(...name.split(' '));
    expect(text).toContain('  formula         √( Σ γ²·(d² + (σB/σA − 1)²) / Σ γ² )\n');
    // What all measures start from, and what is said of this one below the table.
    expect(text).toContain('\n    σ = √(v + ε)\n');
    expect(text).toContain('\n`outputShift` uses γ of after');
    expect(text).not.toContain('uses the spread');
  });

  test.each([
    ['log-std ratio', /^logStdRatio, std ratio\n/],
    ['mean shift', /unit +standard deviations of before/],
    ['running mean', /They are buffers/],
    ['eval mode', /`model\.eval\(\)`/],
    ['BatchNorm', /subtracts a mean/],
    ['momentum', /0\.99 is m = 0\.01/],
    ['ε', /1e-5 in PyTorch/],
    ['frozen', /`requires_grad=False`/],
    ['folded', /more {2}bn-audit explain measures\n {6}bn-audit explain folding\n$/],
    ['norm layer', /carries running statistics/],
  ])('knows the word %s', async (word, expected) => {
    expect(await explain(...word.split(' '))).toMatch(expected);
  });

  test('prints pages of the docs, with commands where they have links', async () => {
    expect(await explain('folding')).toMatch(/^Folded BatchNorm\n[\s\S]*\n {6}bn-audit explain measures\n/);
    expect(await explain('ci/gitlab')).toMatch(/^GitLab/);
  });

  test('without a topic lists all, grouped', async () => {
    const text = await explain();
    const heads = text.match(/^[A-Z]\w*$/gm);
    expect(heads).toEqual(['Findings', 'Statuses', 'Measures', 'Words', 'Pages']);
    expect(text.replace(/\s+/g, ' ')).toContain(` frozen-stats-drift ${titleOf('frozen-stats-drift')} `);
    for (const name of ['  locked ', '  outputShift ', 'running mean,', '  folding '])
      expect(text).toContain(name);
    expect(text).not.toContain('architecture');
  });

  test('marks headings in colour, and nothing else where there is none', async () => {
    const { stdout } = await runCli(['explain', 'drifted', '--color', 'always'], workspace);
    expect(stdout).toMatch(/^\u001b\[1mdrifted\u001b\[22m\n/);
    expect(await explain('drifted')).not.toContain('\u001b');
  });

  test.each([
    ['framed', '"framed": no such topic; did you mean "frozen"?'],
    ['frozen-drift', '"frozen-drift": no such topic; did you mean "frozen-stats-drift"?'],
    ['output shfit', '"output shfit": no such topic; did you mean "outputShift"?'],
    ['\u001b[2J', '"\\\\x1b[2J": no such topic'],
  ])('%j is no topic, and the nearest is named', async (name, message) => {
    const { stdout, stderr, exitCode } = await runCli(['explain', ...name.split(' ')], workspace);
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
    expect(stderr).toMatch(/^bn-audit: .*\n {2}All topics: bn-audit explain\n$/);
    expect(stderr).toContain(message.replace('\\\\', '\\'));
  });

  test.each(['40', '60', '80', '120', '200'])(
    'breaks no line of %s columns but code and commands',
    async (COLUMNS) => {
      for (const topic of [...FINDING_KINDS, 'measures', 'folding', 'options', 'guards', 'trained']) {
        const { stdout } = await runCli(['explain', topic], workspace, { env: { COLUMNS } });
        const wide = stdout
          .split('\n')
          .filter((line) => [...line].length > Number(COLUMNS))
          // Code, commands, and a word that stands in a line or a cell alone.
          .filter((line) => !/^ *(?: {4}|more {2}bn-audit)|(?:^| {2})\S+$/.test(line));
        expect(wide, topic).toEqual([]);
      }
    },
  );
});
