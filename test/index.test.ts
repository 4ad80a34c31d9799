import { expect, test } from 'vitest';
import * as api from '../src/index.js';

test('the public API is this and no more', () => {
  expect(Object.keys(api).sort()).toEqual(
    [
      ...[
        'audit',
        'auditCheckpoints',
        'auditEach',
        'buildAuditSet',
        'createBaseline',
        'probe',
        'restore',
        'inspect',
        'inspectCheckpoint',
        'openCheckpoint',
        'render',
        'renderProbe',
        'trace',
      ],
      ...['CheckpointError', 'UsageError', 'VERSION'],
    ].sort(),
  );
});
