import { describe, expect, test } from 'vitest';
import { matchPaths } from '../src/compare/globs.js';
import { suggestFrozen, toGlob } from '../src/policy.js';
import { checkpointOf, normTensors, tensorOf } from './build/checkpoints.js';

/** A model with norm layers, and the weights of two output channels where a name says so. */
const modelOf = (names: readonly string[]) =>
  checkpointOf(
    names.flatMap((name) =>
      name.endsWith('.weight') ? [tensorOf(name, [1, 2], { shape: [2, 1] })] : normTensors(name),
    ),
    { inModuleOrder: true },
  );

const namesOf = (names: readonly string[]) => {
  const { frozen, others } = suggestFrozen(modelOf(names));
  return { frozen: frozen.map(({ path }) => path), others: others.map(({ path }) => path) };
};

describe('what is suggested to be frozen', () => {
  test('is the part that is named like a backbone', () => {
    expect(namesOf(['backbone.conv.weight', 'backbone.bn', 'neck.bn', 'head.bn', 'head.fc.weight'])).toEqual({
      frozen: ['backbone'],
      others: ['neck', 'head'],
    });
  });

  test('is everything that holds norm layers or feeds them, where no part is named so', () => {
    expect(namesOf(['conv1.weight', 'bn1', 'layer1.0.conv1.weight', 'layer1.0.bn1', 'fc.weight'])).toEqual({
      frozen: ['conv1', 'bn1', 'layer1'],
      others: ['fc'],
    });
  });

  test('is not a part that is named like a head, though it holds norm layers', () => {
    expect(namesOf(['layer1.bn', 'classifier.bn', 'aux_classifier.bn'])).toEqual({
      frozen: ['layer1'],
      others: ['classifier', 'aux_classifier'],
    });
  });

  test('is looked for inside wrappers, and named without them', () => {
    expect(namesOf(['module._orig_mod.encoder.bn', 'module._orig_mod.decoder.bn'])).toEqual({
      frozen: ['encoder'],
      others: ['decoder'],
    });
  });

  test('is the backbone where there is nothing else', () => {
    expect(namesOf(['backbone.0.bn', 'backbone.1.bn'])).toEqual({ frozen: ['backbone'], others: [] });
  });

  test('is nothing where only heads hold norm layers', () => {
    expect(namesOf(['head.bn', 'fc.weight'])).toEqual({ frozen: [], others: ['head', 'fc'] });
  });

  test('counts its norm layers and learned tensors', () => {
    expect(suggestFrozen(modelOf(['backbone.bn1', 'backbone.bn2', 'head.weight'])).frozen).toEqual([
      { path: 'backbone', layers: 2, learned: 4 },
    ]);
  });
});

describe('a glob for a module', () => {
  test.each(['backbone', 'a.b', 'a[0]', 'a*b', 'a{b,c}', '!a', '(a)', 'a+b', 'a\\b', "a'b", 'ä'])(
    '%s means that module and no other',
    (path) => {
      const isMatch = matchPaths([toGlob(path)]);
      expect([isMatch(path), isMatch(`${path}.bn`), isMatch('other'), isMatch('ab'), isMatch('a0')]).toEqual([
        true,
        true,
        false,
        false,
        false,
      ]);
    },
  );

  test('means everything for the whole model', () => {
    expect(matchPaths([toGlob('')])('a.b.c')).toBe(true);
  });
});
