import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type PrefixEdit, pairLayers, translateName } from '../../src/compare/pair-layers.js';
import type { NormLayer } from '../../src/norm/norm-layer.js';
import { failureOf } from '../build/failure.js';
import { layerOf } from '../build/layers.js';

type Described = string | readonly [name: string, channels: number] | NormLayer;

function toLayers(described: readonly Described[]): readonly NormLayer[] {
  return described.map((one) => {
    if (typeof one === 'string') return layerOf(one);
    return 'name' in one ? one : layerOf(one[0], { channels: one[1] });
  });
}

function pair(
  before: readonly Described[],
  after: readonly Described[],
  { maps = [], areOrdered = false }: { maps?: readonly PrefixEdit[]; areOrdered?: boolean } = {},
) {
  const toSide = (path: string, described: readonly Described[]) => ({
    path,
    layers: toLayers(described),
    isOrdered: areOrdered,
  });
  return pairLayers(toSide('before.pt', before), toSide('after.pt', after), maps);
}

/** Pairs as `before = after (how)`, then what is left on either side. */
function outcomeOf(...args: Parameters<typeof pair>) {
  const { pairs, onlyBefore, onlyAfter } = pair(...args);
  return {
    pairs: pairs.map(({ before, after, pairedBy }) => `${before.name} = ${after.name} (${pairedBy})`),
    onlyBefore: onlyBefore.map(({ name }) => name),
    onlyAfter: onlyAfter.map(({ name }) => name),
  };
}

const PATHS = ['stem.bn', 'layer1.0.bn1', 'layer1.0.bn2', 'layer2.0.bn1'];

describe('by name', () => {
  test('the same names go together, and others are left over', () => {
    expect(outcomeOf(['a.bn', 'b.bn'], ['b.bn', 'c.norm'])).toEqual({
      pairs: ['b.bn = b.bn (name)'],
      onlyBefore: ['a.bn'],
      onlyAfter: ['c.norm'],
    });
  });

  test('pairs stand in the order of before', () => {
    expect(outcomeOf(['z', 'a', 'm'], ['a', 'm', 'z']).pairs).toEqual([
      'z = z (name)',
      'a = a (name)',
      'm = m (name)',
    ]);
  });

  test('layers of other widths are no pair', () => {
    expect(
      outcomeOf(
        [
          ['bn', 4],
          ['x.bn', 8],
        ],
        [
          ['bn', 4],
          ['x.bn', 16],
        ],
      ),
    ).toEqual({
      pairs: ['bn = bn (name)'],
      onlyBefore: ['x.bn'],
      onlyAfter: ['x.bn'],
    });
  });

  test('a layer that does not know its width goes with its name', () => {
    expect(outcomeOf([['bn', 0]], [['bn', 8]]).pairs).toEqual(['bn = bn (name)']);
  });

  test('nothing goes with nothing', () => {
    expect(outcomeOf([], ['bn'])).toEqual({ pairs: [], onlyBefore: [], onlyAfter: ['bn'] });
  });
});

describe('wrapper prefixes are found', () => {
  const wrap = (prefix: string) => PATHS.map((path) => `${prefix}.${path}`);

  test.each(['module', '_orig_mod', 'model', 'backbone', 'model.encoder.net', 'state_dict'])(
    '%s, on either side',
    (prefix) => {
      expect(outcomeOf(PATHS, wrap(prefix)).pairs).toEqual(
        PATHS.map((path) => `${path} = ${prefix}.${path} (name)`),
      );
      expect(outcomeOf(wrap(prefix), PATHS).pairs).toEqual(
        PATHS.map((path) => `${prefix}.${path} = ${path} (name)`),
      );
    },
  );

  test('one in place of another', () => {
    const pairing = pair(wrap('module.encoder'), wrap('backbone'));
    expect(pairing.pairs).toHaveLength(4);
    expect(pairing.edits).toEqual([
      { from: 'module.encoder', to: 'backbone' },
      { from: '', to: '' },
    ]);
  });

  test('beside layers that only one side has', () => {
    expect(outcomeOf(PATHS, [...wrap('backbone'), 'head.norm'])).toMatchObject({
      onlyBefore: [],
      onlyAfter: ['head.norm'],
    });
  });

  test('of two parts that were wrapped differently', () => {
    const before = [...PATHS, 'decoder.a.norm', 'decoder.b.norm'];
    const after = [...wrap('encoder'), 'head.decoder.a.norm', 'head.decoder.b.norm'];
    expect(outcomeOf(before, after)).toMatchObject({ onlyBefore: [], onlyAfter: [] });
  });

  test('but a few names that end alike are no wrapper', () => {
    const others = Array.from({ length: 10 }, (_, i) => `b${i}.norm${i}`);
    expect(outcomeOf(['stem.bn', ...others], ['tail.bn', ...others.map((name) => `${name}x`)]).pairs).toEqual(
      [],
    );
  });

  test('the identity wins over a prefix that fits as well', () => {
    const both = [...PATHS, ...wrap('ema')];
    expect(outcomeOf(PATHS, both)).toEqual({
      pairs: PATHS.map((path) => `${path} = ${path} (name)`),
      onlyBefore: [],
      onlyAfter: wrap('ema'),
    });
  });
});

describe('ambiguity', () => {
  test('two prefixes that fit equally well are refused, with the way out', async () => {
    const after = ['student', 'teacher'].flatMap((prefix) => PATHS.map((path) => `${prefix}.${path}`));
    expect(await failureOf(() => pair(PATHS, after))).toEqual({
      message: '4 of its norm layers fit under the prefix "student" as well as under the prefix "teacher"',
      code: 'ambiguous',
      file: 'after.pt',
      hint: 'Say which is meant: --map =student, or --map =teacher',
    });
  });

  test('likewise where before has both', async () => {
    const before = ['student', 'teacher'].flatMap((prefix) => PATHS.map((path) => `${prefix}.${path}`));
    expect((await failureOf(() => pair(before, PATHS))).message).toBe(
      '4 of its norm layers fit under the names without "student" as well as under the names without "teacher"',
    );
  });

  test('what is left over beside a paired model is left unpaired rather than refused', () => {
    expect(outcomeOf([...PATHS, 'old.norm'], [...PATHS, 'one.norm', 'two.norm'])).toMatchObject({
      onlyBefore: ['old.norm'],
      onlyAfter: ['one.norm', 'two.norm'],
    });
    expect(outcomeOf([...PATHS, 'one.norm', 'two.norm'], [...PATHS, 'new.norm'])).toMatchObject({
      onlyBefore: ['one.norm', 'two.norm'],
      onlyAfter: ['new.norm'],
    });
  });

  test('a map decides it', () => {
    const after = ['student', 'teacher'].flatMap((prefix) => PATHS.map((path) => `${prefix}.${path}`));
    expect(outcomeOf(PATHS, after, { maps: [{ from: '', to: 'teacher' }] }).pairs).toEqual(
      PATHS.map((path) => `${path} = teacher.${path} (map)`),
    );
  });
});

describe('by hand', () => {
  test('a map renames a leading path', () => {
    expect(
      outcomeOf(['enc.bn', 'dec.bn'], ['dec.bn', 'x.y.bn'], { maps: [{ from: 'enc', to: 'x.y' }] }).pairs,
    ).toEqual(['enc.bn = x.y.bn (map)', 'dec.bn = dec.bn (name)']);
  });

  test('maps are tried in their order', () => {
    const maps = [
      { from: 'a', to: 'one' },
      { from: 'a', to: 'two' },
    ];
    expect(outcomeOf(['a.bn'], ['two.bn', 'one.bn'], { maps }).pairs).toEqual(['a.bn = one.bn (map)']);
  });

  test('a map renames a whole layer', () => {
    expect(outcomeOf(['old'], ['new'], { maps: [{ from: 'old', to: 'new' }] }).pairs).toEqual([
      'old = new (map)',
    ]);
  });

  test('a map means whole components', () => {
    expect(outcomeOf(['encoder.bn'], ['xoder.norm'], { maps: [{ from: 'enc', to: 'x' }] }).pairs).toEqual([]);
  });
});

describe('by order', () => {
  const unnamed = (name: string, channels: number) => layerOf(name, { channels, isNamed: false });

  test('where a graph has lost its names and both sides stand in order', () => {
    const before = ['a.bn', 'b.norm'];
    const after = [unnamed('BatchNormalization_0', 2), unnamed('BatchNormalization_1', 2)];
    expect(outcomeOf(before, after, { areOrdered: true }).pairs).toEqual([
      'a.bn = BatchNormalization_0 (order)',
      'b.norm = BatchNormalization_1 (order)',
    ]);
  });

  test('by the number of channels alone where each occurs once', () => {
    expect(
      outcomeOf(
        [
          ['a', 8],
          ['b', 4],
        ],
        [unnamed('n0', 4), unnamed('n1', 8)],
      ).pairs,
    ).toEqual(['a = n1 (order)', 'b = n0 (order)']);
  });

  test('not where numbers of channels repeat and the order is lost', () => {
    expect(
      outcomeOf(
        [
          ['a', 4],
          ['b', 4],
        ],
        [unnamed('n0', 4), unnamed('n1', 4)],
      ).pairs,
    ).toEqual([]);
  });

  test('not where one side has more', () => {
    expect(outcomeOf([['a', 4]], [unnamed('n0', 4), unnamed('n1', 8)], { areOrdered: true }).pairs).toEqual(
      [],
    );
  });

  test('not where the numbers of channels disagree', () => {
    expect(
      outcomeOf(
        [
          ['a', 4],
          ['b', 8],
        ],
        [unnamed('n0', 4), unnamed('n1', 16)],
        { areOrdered: true },
      ).pairs,
    ).toEqual([]);
  });

  test('not where both sides have names', () => {
    expect(outcomeOf([['a.x', 4]], [['b.y', 4]], { areOrdered: true }).pairs).toEqual([]);
  });
});

describe('the order of layers is irrelevant', () => {
  const path = fc
    .array(fc.constantFrom('stem', 'layer1', 'layer2', '0', '1', 'bn1', 'bn2', 'downsample'), {
      minLength: 1,
      maxLength: 4,
    })
    .map((parts) => parts.join('.'));
  const model = fc.uniqueArray(path, { minLength: 1, maxLength: 12 });

  test('to the pairs that are found by name', () => {
    const shuffles = model.chain((paths) =>
      fc.record({
        before: fc.constant(paths),
        shuffledBefore: fc.shuffledSubarray(paths, { minLength: paths.length }),
        shuffledAfter: fc.shuffledSubarray(paths, { minLength: paths.length }),
        prefix: fc.constantFrom('', 'module.', 'model.encoder.'),
      }),
    );
    fc.assert(
      fc.property(shuffles, ({ before, shuffledBefore, shuffledAfter, prefix }) => {
        const wrap = (paths: readonly string[]) => paths.map((one) => prefix + one);
        const outcome = (...args: Parameters<typeof pair>) => {
          try {
            return outcomeOf(...args).pairs.toSorted();
          } catch (error) {
            return String(error);
          }
        };
        expect(outcome(shuffledBefore, wrap(shuffledAfter))).toEqual(outcome(before, wrap(before)));
      }),
      { numRuns: 300 },
    );
  });

  test('a checkpoint pairs with itself completely', () => {
    fc.assert(
      fc.property(model, (paths) => {
        expect(outcomeOf(paths, paths)).toEqual({
          pairs: paths.map((one) => `${one} = ${one} (name)`),
          onlyBefore: [],
          onlyAfter: [],
        });
      }),
    );
  });
});

test('2,000 layers with a prefix are paired in seconds, not minutes', () => {
  const before = Array.from({ length: 2000 }, (_, i) => `blocks.${i}.bn`);
  const start = performance.now();
  expect(
    pair(
      before,
      before.map((name) => `module.${name}`),
    ).pairs,
  ).toHaveLength(2000);
  expect(performance.now() - start).toBeLessThan(10_000);
});

describe('translateName', () => {
  const exists =
    (...names: readonly string[]) =>
    (name: string) =>
      names.includes(name);

  test('the first edit whose result exists is taken', () => {
    const edits = [
      { from: 'a', to: 'b' },
      { from: '', to: '' },
    ];
    expect(translateName('a.w', edits, exists('b.w', 'a.w'))).toBe('b.w');
    expect(translateName('a.w', edits, exists('a.w'))).toBe('a.w');
    expect(translateName('a.w', edits, exists('c.w'))).toBeNull();
  });

  test('a leading path is dropped, added or replaced', () => {
    expect(translateName('m.w', [{ from: 'm', to: '' }], exists('w'))).toBe('w');
    expect(translateName('w', [{ from: '', to: 'm' }], exists('m.w'))).toBe('m.w');
    expect(translateName('m.w', [{ from: 'm', to: 'x.y' }], exists('x.y.w'))).toBe('x.y.w');
    expect(translateName('mm.w', [{ from: 'm', to: '' }], exists('w', 'm.w'))).toBeNull();
  });
});

test('a wrapper is not looked for in names that are longer than those of modules', () => {
  const long = (prefix: string) => `${prefix}.${'m.'.repeat(500)}bn`;
  expect(outcomeOf([long('a')], [long('b')]).pairs).toEqual([]);
  expect(outcomeOf([long('a'), 'c.bn'], [long('a'), 'c.bn']).pairs).toHaveLength(2);
});

test('a wrapper is found among more names of one kind than edits are counted', () => {
  const names = Array.from({ length: 2_000 }, (_, i) => `stage${i}.block${(i * 7) % 2_000}.bn`);
  const { pairs, onlyBefore } = outcomeOf(
    names,
    names.map((name) => `net.${name}`),
  );
  expect([pairs.length, onlyBefore.length]).toEqual([2_000, 0]);
});
