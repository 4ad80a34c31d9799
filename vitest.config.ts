import { defineConfig } from 'vitest/config';
import { viteBundleText } from './build/bundle-text.js';

/** Tests that run what `npm run build` makes; the others import the sources and need no build. */
const BUILT = ['test/cli/**/*.test.ts', 'test/package.test.ts'];

export default defineConfig({
  plugins: [viteBundleText],
  test: {
    projects: [
      { extends: true, test: { name: 'sources', include: ['test/**/*.test.ts'], exclude: BUILT } },
      { extends: true, test: { name: 'built', include: BUILT, globalSetup: 'test/global-setup.ts' } },
    ],
    setupFiles: 'test/setup.ts',
    testTimeout: 20_000,
    // Files share what they import: loading the sources anew for each took a third of the time.
    isolate: false,
    // By itself vitest leaves one core free, which is half of a machine with two.
    maxWorkers: '100%',
  },
});
