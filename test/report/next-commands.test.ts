import { join } from 'node:path';
import { expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { listNextCommands } from '../../src/report/next-commands.js';
import { SHIPPED } from '../build/shipped.js';

test('a quantised model is probed, and not restored: its codes take no statistics back', async () => {
  const [before, after] = ['before', 'drift'].map((name) =>
    join(SHIPPED, 'int8-qdq-int8-channel', `${name}.onnx`),
  ) as [string, string];
  expect(listNextCommands(await audit(before, after), [])).toEqual([['probe', before, after]]);
});
