import type { TextOptions } from './text-layout.js';

/** The forms that a probe can be printed in. */
export const PROBE_FORMATS = ['text', 'json', 'markdown', 'html'] as const;

/** A form that a probe can be printed in. */
export type ProbeFormat = (typeof PROBE_FORMATS)[number];

/** How to render a probe. */
export interface ProbeRenderOptions extends TextOptions {
  /** `text` unless given. */
  readonly format?: ProbeFormat | undefined;
}
