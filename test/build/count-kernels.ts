import { vi } from 'vitest';

/** Has modules that are loaded from now on count their calls of WebAssembly by name, until globals are unstubbed. */
export function countKernelCalls(): Readonly<Record<string, number>> {
  const calls: Record<string, number> = {};
  const { Module, Memory, Instance } = WebAssembly;
  class CountingInstance {
    readonly exports: Readonly<Record<string, unknown>>;

    constructor(...args: ConstructorParameters<typeof Instance>) {
      const exported = Object.entries(new Instance(...args).exports).map(([name, kernel]) => {
        if (typeof kernel !== 'function') throw new Error(`expected ${name} to be a function`);
        const counted = (...numbers: readonly number[]) => {
          calls[name] = (calls[name] ?? 0) + 1;
          return kernel(...numbers);
        };
        return [name, counted];
      });
      this.exports = Object.fromEntries(exported);
    }
  }
  vi.resetModules();
  vi.stubGlobal('WebAssembly', { Module, Memory, Instance: CountingInstance });
  return calls;
}
