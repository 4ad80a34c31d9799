import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Intervals, listShipped, readTruth, SHIPPED } from './build/shipped.js';

/** What fixtures/README.md allows the whole group. */
const LIMIT_BYTES = 1_230_000;

const STATUSES = [
  'locked',
  'drifted',
  'affine-frozen',
  'trained',
  'held',
  'invalid',
  'unresolved',
  'ambiguous',
  'unpaired',
  'absent',
];

const FIRST_WORDS = ['fused', 'int8', 'ort', 'parts', 'pruned', 'renamed'];

const directories = listShipped();

/** Each case, under a name that no other case of its directory has. */
const casesOf = (directory: string) =>
  readTruth(directory).cases.map(
    (one) => [[one.before, '→', one.after, ...one.options].join(' '), one] as const,
  );

/** The channels whose interval leaves out 1. */
const withoutOne = ({ intervals }: Intervals) =>
  intervals.flatMap((interval, channel) => {
    if (interval === null) return [];
    const [low, high] = interval;
    return low <= 1 && (high === null || 1 <= high) ? [] : [channel];
  });

test('every kind of model is there, in less than the limit', () => {
  expect([...new Set(directories.map((name) => name.split('-')[0]))].sort()).toEqual(FIRST_WORDS);
  const sizes = directories.flatMap((directory) =>
    readdirSync(join(SHIPPED, directory)).map((file) => statSync(join(SHIPPED, directory, file)).size),
  );
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(LIMIT_BYTES);
});

describe.each(directories)('%s', (directory) => {
  test('says what it is, and no file is there for nothing', () => {
    const { note, torch, cases } = readTruth(directory);
    expect(note).not.toBe('');
    expect(torch).toMatch(/^\d+\.\d+\.\d+$/);
    const used = new Set(cases.flatMap(({ before, after }) => [before, after]));
    expect([...used, 'expected.json'].sort()).toEqual(readdirSync(join(SHIPPED, directory)).sort());
    const names = casesOf(directory).map(([name]) => name);
    expect(new Set(names).size).toBe(names.length);
  });

  test.each(casesOf(directory))('%s: layers and exit codes', (_, { before, after, ...expected }) => {
    expect(before).not.toBe(after);
    const exitCodes = [expected.exitCode].flat();
    expect(exitCodes.length).toBeGreaterThan(0);
    expect(exitCodes.filter((code) => ![0, 1, 2].includes(code))).toEqual([]);
    const allowed = Object.values(expected.statuses);
    expect(allowed.length).toBeGreaterThan(0);
    expect(allowed.filter((statuses) => statuses.length === 0)).toEqual([]);
    expect(allowed.flat().filter((status) => !STATUSES.includes(status))).toEqual([]);
    // What must be drifted, in whatever else the file leaves open, is an error.
    if (allowed.some((statuses) => statuses.join() === 'drifted')) expect(exitCodes).toContain(1);
    for (const [layer, how] of Object.entries(expected.pairedBy ?? {})) {
      expect(how).toBe('values');
      expect(Object.keys(expected.statuses)).toContain(layer);
    }
    for (const mention of expected.mentions ?? []) expect(new RegExp(mention, 'i')).toBeInstanceOf(RegExp);
    expect(expected.why).not.toBe('');
  });

  test.each(casesOf(directory))('%s: measures', (_, { statuses, measures = {} }) => {
    for (const [layer, one] of Object.entries(measures)) {
      expect(statuses[layer], layer).toContain('drifted');
      expect(Object.keys(one)).toEqual(['meanShiftRms', 'logStdRatioRms', 'outputShift']);
      expect(Object.values(one).filter((value) => !(value >= 0 && Number.isFinite(value)))).toEqual([]);
      expect(one['outputShift'], layer).toBeGreaterThan(0);
    }
  });

  test.each(casesOf(directory))('%s: intervals hold the true factors', (_, expected) => {
    const { statuses, factors = {}, intervals = {} } = expected;
    for (const [layer, one] of Object.entries(intervals)) {
      expect(one.withoutOne, layer).toEqual(withoutOne(one));
      expect(
        one.intervals.flatMap((interval, channel) => (interval === null ? [channel] : [])),
        layer,
      ).toEqual(one.empty);
      if (one.steps !== undefined) expect(one.steps).toHaveLength(one.intervals.length);
      if (one.empty.length > 0) expect(statuses[layer], layer).toEqual(['trained']);
      else if (one.withoutOne.length > 0) expect(statuses[layer], layer).toContain('drifted');
      else expect(statuses[layer], layer).not.toContain('drifted');
    }
    for (const [layer, values] of Object.entries(factors)) {
      const one = intervals[layer];
      if (one === undefined) continue;
      expect(values).toHaveLength(one.intervals.length);
      values.forEach((factor, channel) => {
        const interval = one.intervals[channel];
        if (interval == null)
          throw new Error(`${layer}: nothing fits channel ${channel}, though one factor is true`);
        const [low, high] = interval;
        expect(factor, `${layer} ${channel}`).toBeGreaterThanOrEqual(low * (1 - 1e-6));
        if (high !== null) expect(factor, `${layer} ${channel}`).toBeLessThanOrEqual(high * (1 + 1e-6));
      });
    }
  });
});

test('drift-fifth moves weights by a quarter of a quantisation step at most, drift-three by nearly three at least', () => {
  const quantised = directories.filter((name) => name.startsWith('int8-') && name !== 'int8-qat');
  expect(quantised.length).toBeGreaterThanOrEqual(7);
  for (const directory of quantised) {
    const stepsOf = (after: string) =>
      readTruth(directory)
        .cases.filter((one) => one.after === after)
        .flatMap(({ intervals = {} }) => Object.values(intervals).flatMap(({ steps = [] }) => steps));
    expect(Math.max(0, ...stepsOf('drift-fifth.onnx')), directory).toBeLessThanOrEqual(0.25);
    expect(Math.min(Infinity, ...stepsOf('drift-three.onnx')), directory).toBeGreaterThanOrEqual(2.9);
  }
});
