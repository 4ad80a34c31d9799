import { describe, expect, test } from 'vitest';
import { readCommand } from '../../src/cli/run-command.js';
import { usageFailureOf } from '../build/failure.js';

describe('a command to run', () => {
  test.each([
    ['notify {}', 'notify "$1"'],
    ['cp {} {}.bad', 'cp "$1" "$1".bad'],
    ["echo 'it''s' {}", `echo 'it''s' "$1"`],
    ['echo "a \\" b" {}', 'echo "a \\" b" "$1"'],
    ['echo \\" {}', 'echo \\" "$1"'],
    ['kill 4711', 'kill 4711'],
    ['echo "$1"', 'echo "$1"'],
    ['f() { :; }; f {}', 'f() { :; }; f "$1"'],
  ])('has the path where {} is, as one argument: %s', (text, command) => {
    expect(readCommand(text)).toBe(command);
  });

  test.each(["echo '{}'", 'echo "{}"', 'echo "at {} now"', `echo "it's {}"`])(
    'is refused where {} would not be one argument: %s',
    async (text) => {
      expect(await usageFailureOf(() => readCommand(text))).toEqual({
        message: '--exec: {} stands within quotes, where it would not be one argument',
        hint: 'Leave it bare: it is one argument whatever is in it. Within double quotes, write $1.',
      });
    },
  );

  test('is refused where there is none', async () => {
    const { message } = await usageFailureOf(() => readCommand(' '));
    expect(message).toBe('--exec: expected a command, found an empty text');
  });
});
