import { afterAll } from 'vitest';
import { removeTempDirectories } from './build/sources.js';

// Some hold a hundred thousand files, which take longer than the ten seconds that a hook has by itself.
afterAll(removeTempDirectories, 120_000);
