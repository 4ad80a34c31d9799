import { expect, test } from 'vitest';
import { CheckpointError, UsageError } from '../../src/errors.js';
import { checkReport, expectResultOrRefusal, Fault, Meter } from './oracle.js';

const outcomeOf = (error: unknown) =>
  expectResultOrRefusal('step', () => {
    throw error;
  });

test('a result is handed on', async () => {
  expect(await expectResultOrRefusal('step', async () => 5)).toBe(5);
});

test.each([
  new CheckpointError('expected a header, found none', { code: 'truncated', file: 'x' }),
  new UsageError('expected a glob', 'Name one.'),
])('a refusal is fine: $name', async (error) => {
  expect(await outcomeOf(error)).toBeNull();
});

test('a refusal that asks to be reported is a fault', async () => {
  const error = new CheckpointError('the layer moved', {
    code: 'unsupported',
    file: 'x',
    hint: 'Please report this.',
  });
  await expect(outcomeOf(error)).rejects.toThrow(Fault);
});

test.each([new TypeError('x is undefined'), new RangeError('Invalid array length'), 'a string'])(
  'any other error is a fault: %s',
  async (error) => {
    await expect(outcomeOf(error)).rejects.toThrow(Fault);
  },
);

test.each(['two\nlines', 'a \u001b[31mcolour', 'x'.repeat(5000)])(
  'a refusal that is not one short line is a fault',
  async (message) => {
    await expect(outcomeOf(new UsageError(message))).rejects.toThrow(Fault);
    await expect(outcomeOf(new UsageError('fine', message))).rejects.toThrow(Fault);
  },
);

test('the key of a fault says where it came from, not with which values', async () => {
  const keyOf = async (name: string) => {
    const breakIt = () => {
      throw new TypeError(`${name} is undefined`);
    };
    return expectResultOrRefusal('step', breakIt).catch((fault: Fault) => fault.key);
  };
  expect(await keyOf('a')).toBe(await keyOf('b'));
  expect(await keyOf('a')).toContain('TypeError breakIt');
});

test('a report has lines, and nothing that steers a terminal', () => {
  expect(() => checkReport('render', 'one\n\ttwo\n')).not.toThrow();
  expect(() => checkReport('render', 'one\u001b[2J')).toThrow('"one\\u001b[2J"');
});

test('memory that an execution takes at its peak counts, also where it gave it back', () => {
  const meter = new Meter({ cpuSeconds: 60, memoryBytes: 100_000_000 });
  // The worker may have had a higher peak in the tests of other files.
  const toPeak = process.resourceUsage().maxRSS * 1024 - process.memoryUsage.rss();
  expect(new Uint8Array(toPeak + 300_000_000).fill(1).at(-1)).toBe(1);
  expect(() => meter.check()).toThrow(/took \d+ MB of memory/);
});

test('time of the processor counts', () => {
  const meter = new Meter({ cpuSeconds: 0.01, memoryBytes: 1e12 });
  const end = performance.now() + 1000;
  while (performance.now() < end && process.cpuUsage().user >= 0) if (isOver(meter)) break;
  expect(isOver(meter)).toBe(true);
});

function isOver(meter: Meter): boolean {
  try {
    meter.check();
    return false;
  } catch (error) {
    return error instanceof Fault && error.key === 'slow';
  }
}
