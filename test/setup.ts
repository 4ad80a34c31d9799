import { afterAll } from 'vitest';
import { removeTempDirectories } from './build/sources.js';

afterAll(removeTempDirectories);
