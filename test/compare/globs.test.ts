import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Glob, matchNames, matchPaths } from '../../src/compare/globs.js';

test.each([
  ['backbone', 'backbone', true],
  ['backbone', 'backbone.layer1.0.bn1', true],
  ['backbone', 'backbone2.bn', false],
  ['backbone', 'model.backbone', false],
  ['backbone.layer1', 'backbone.layer10.bn', false],
  ['*', 'anything.at.all', true],
  ['backbone.*', 'backbone', false],
  ['backbone.*', 'backbone.layer1.bn', true],
  ['*.bn1', 'layer1.bn1', true],
  ['*.bn1', 'layer1.0.bn1', false],
  ['**.bn1', 'layer1.0.bn1', true],
  ['**.bn1', 'bn1', true],
  ['**.bn1', 'layer1.0.bn11', false],
  ['backbone.**', 'backbone.layer1.0.bn1', true],
  ['backbone.**.bn?', 'backbone.layer1.0.bn2', true],
  ['layer[12].**', 'layer2.0.bn1', true],
  ['layer[12].**', 'layer3.0.bn1', false],
  ['{stem,layer1}', 'layer1.bn', true],
  ['{stem,layer1}', 'layer2.bn', false],
  ['.hidden', 'hidden', false],
  ['_orig_mod.*', '_orig_mod.bn', true],
  ['!backbone', 'head', false],
  ['@(backbone)', 'backbone', false],
  ['then_branch', 'then_branch/BatchNormalization_7', false],
  ['then_branch/BatchNormalization_7', 'then_branch/BatchNormalization_7', true],
  ['backbone/layer1', 'backbone.layer1.bn', true],
  ['a.**.b', 'a.b', true],
  ['a.**.b', 'a.x.y.b', true],
  ['a.**b', 'a.xb', true],
  ['a.**b', 'a.x.b', false],
  ['a.**', 'a', false],
  ['**', '', true],
  ['a..b', 'a..b', true],
  ['a.*.b', 'a..b', true],
  ['{backbone.,}**.bn1', 'backbone.layer1.bn1', true],
  ['{backbone.,}**.bn1', 'bn1', true],
  ['{a,b{c,d*}}.bn', 'bdx.bn', true],
  ['{a,b{c,d*}}.bn', 'bx.bn', false],
  ['{a.b,c}.bn', 'a.b.bn', true],
  ['{*,x}a', 'xa', true],
  ['{a,b', '{a,b', true],
  ['{a,b', 'a', false],
  ['{a}', '{a}', true],
  ['{a}', 'a', false],
  ['x{,1}', 'x', true],
  ['block{1..12}', 'block7.bn', true],
  ['block{1..12}', 'block12', true],
  ['block{1..12}', 'block13', false],
  ['block{1..12}', 'block01', false],
  ['block{12..7}', 'block9', true],
  ['block{0..99999999}', 'block123456', true],
  ['block{0..99999999}', 'block100000000', false],
  ['block{a..c}', 'blockb', true],
  ['block{a..c}', 'blockd', false],
  ['layer[!1-3]', 'layer4', true],
  ['layer[!1-3]', 'layer2', false],
  ['layer[^1]', 'layer2', true],
  ['layer[!1]', 'layer.2', false],
  ['[]a]', ']', true],
  ['[a-]', '-', true],
  ['[z-a]', 'm', false],
  ['[\\]]', ']', true],
  ['[a', '[a', true],
  ['?', '\u{1f600}', true],
  ['[\u{1f600}]', '\u{1f600}', true],
  ['a\\*', 'a*', true],
  ['a\\*', 'ab', false],
  ['a\\', 'a\\', true],
  ['(a)', '(a)', true],
  ['(a|b)+', 'a', false],
])('%s matches %s: %j', (glob, path, is) => {
  expect(matchPaths([glob])(path)).toBe(is);
});

test('any glob of a list will do', () => {
  const isMatch = matchPaths(['stem', 'head.**']);
  expect(['stem.bn', 'head.bn', 'body.bn'].map(isMatch)).toEqual([true, true, false]);
});

test.each(['', 'a'.repeat(1025)])('a glob of no characters or too many is a usage error', (glob) => {
  expect(() => matchPaths([glob])).toThrow(/^expected a glob/);
});

test('a number is one of its range, whatever the range is', () => {
  const range = fc.tuple(fc.nat(1200), fc.nat(1200));
  const isIn = ([x, y]: readonly [number, number], number: number) =>
    Math.min(x, y) <= number && number <= Math.max(x, y);
  fc.assert(
    fc.property(range, fc.nat(1300), (ends, number) => {
      expect(matchPaths([`{${ends.join('..')}}`])(String(number))).toBe(isIn(ends, number));
    }),
  );
});

/** A part of a glob, and what it stands for as a regular expression over names of one component. */
type Part = readonly [glob: string, source: string];

const { parts } = fc.letrec<{ parts: Part; part: Part }>((tie) => ({
  parts: fc.array(tie('part'), { maxLength: 4 }).map(join),
  part: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom<Part>(['a', 'a'], ['b', 'b'], ['*', '[^.]*'], ['?', '[^.]'], ['[a-b]', '[ab]']),
    fc.constantFrom<Part>(['[!a]', '[^a.]'], ['\\{', '\\{'], ['(', '\\('], ['c', 'c']),
    fc.array(tie('parts'), { minLength: 2, maxLength: 3 }).map(toAlternatives),
  ),
}));

function join(all: readonly Part[]): Part {
  return [all.map(([glob]) => glob).join(''), all.map(([, source]) => source).join('')];
}

function toAlternatives(all: readonly Part[]): Part {
  return [`{${all.map(([glob]) => glob).join(',')}}`, `(?:${all.map(([, source]) => source).join('|')})`];
}

test('a glob matches what the regular expression of its parts does', () => {
  // Stars side by side would be one `**`.
  const components = fc.array(
    parts.filter(([glob]) => glob !== '' && !glob.includes('**')),
    { minLength: 1, maxLength: 3 },
  );
  const name = fc.array(fc.constantFrom('a', 'b', 'ab', 'c', '{', '('), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(components, fc.array(name, { minLength: 1, maxLength: 3 }), (globs, names) => {
      const path = names.map((letters) => letters.join('')).join('.');
      const source = globs.map(([, part]) => part).join('\\.');
      const isMatch = matchPaths([globs.map(([glob]) => glob).join('.')]);
      expect(isMatch(path)).toBe(new RegExp(`^${source}(?:\\.|$)`).test(path));
    }),
    { numRuns: 500 },
  );
});

describe('reading takes no more steps than the lengths of glob and name multiplied', () => {
  const name = 'a'.repeat(500);
  const dots = 'a.'.repeat(2_000);
  test.each([
    ['a nested plus', '(a+)+b', name],
    ['stars', '*a*a*a*a*a*a*c', name],
    ['globstars', `${'**.a.'.repeat(60)}b`, dots],
    ['question marks', `${'?*'.repeat(400)}b`, name],
    ['alternatives', `${'{a,aa,a*}'.repeat(100)}b`, name],
    ['nested alternatives', `${'{a*,'.repeat(200)}b${'}'.repeat(200)}`, name],
    ['nested braces', `${'{'.repeat(400)}a,b${'}'.repeat(400)}`, name],
    ['classes', `${'[a-z]*'.repeat(150)}b`, name],
    ['ranges', '{1..999999999}'.repeat(70), '9'.repeat(500)],
    ['one globstar', '**.bn', dots],
  ])('%s', (_, text, path) => {
    const glob = new Glob(text, { separators: '.', seesHidden: true });
    let reached = glob.start;
    for (const component of path.split('.'))
      reached = glob.readSeparator(glob.readComponent(reached, component));
    // A character of a glob may be two nodes and a range of two numbers; a range of numbers is some twenty classes.
    expect(glob.stepCount).toBeLessThan(20 * text.length * path.length);
  });
});

test('a glob that takes too many steps is a usage error that names it', () => {
  const isMatch = matchPaths([`${'?*'.repeat(400)}b`]);
  expect(() => isMatch('a'.repeat(200_000))).toThrow(/^the glob "\?\*\?\*.*" takes more than 50000000 steps/);
});

test('a module path of 120,000 components is covered by its first', () => {
  expect(matchPaths(['a'])('a.'.repeat(120_000))).toBe(true);
});

test('an empty list matches nothing', () => {
  expect(matchPaths([])('anything')).toBe(false);
});

test('what goes by several names is meant by any of them', () => {
  const isMatch = matchNames(['backbone'], []);
  expect(isMatch(['body.bn', 'backbone.bn'])).toBe(true);
  expect(isMatch(['body.bn'])).toBe(false);
});

test.each([
  ['module.backbone', 'backbone.bn'],
  ['module._orig_mod.backbone', 'backbone.bn'],
  ['backbone._fsdp_wrapped_module.*.bn1', 'backbone.layer1.bn1'],
  ['**._checkpoint_wrapped_module.bn1', 'backbone.layer1.bn1'],
  ['backbone._fsdp_wrapped_module', 'backbone.bn'],
])('%s means %s where the names have no such wrapper', (glob, name) => {
  expect(matchNames([glob], [[name]])([name])).toBe(true);
});

test('a glob that means something as it stands keeps its wrappers', () => {
  const names = [['module.bn'], ['bn']];
  expect(names.map(matchNames(['module.bn'], names))).toEqual([true, false]);
});

test.each(['module', '_orig_mod', 'module._orig_mod'])(
  '%s alone means nothing without its wrapper',
  (glob) => {
    expect(matchNames([glob], [['bn']])(['bn'])).toBe(false);
  },
);

test('an inner module may be a part of the model, and its glob does not come to mean the whole', () => {
  const names = [['encoder.bn']];
  expect(names.map(matchNames(['encoder.module'], names))).toEqual([false]);
});
