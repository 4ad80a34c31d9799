/** A plot whose horizontal axis has `count` positions, of which one at a time is pointed at. */
export interface CursorOptions {
  readonly label: string;
  readonly count: () => number;
  /** The position under a distance from the plot's left edge, in the plot's own units. */
  readonly positionAt: (x: number) => number;
  /** Says a position in words, for screen readers. */
  readonly describe: (position: number) => string;
  readonly onPoint: (position: number | null) => void;
  readonly onChoose?: (position: number) => void;
}

/** Positions that Page Up and Page Down skip. */
const PAGE = 10;

/**
 * Lets the mouse and the keyboard point at a plot's positions. For assistive technology the plot is a slider, whose
 * value is read out: arrows move by one, Page Up and Down by ten, Home and End to the ends, Enter chooses.
 */
export function addCursor(
  plot: HTMLElement,
  options: CursorOptions,
): { readonly moveTo: (position: number) => void } {
  let current = 0;
  plot.tabIndex = 0;
  plot.setAttribute('role', 'slider');
  plot.setAttribute('aria-label', options.label);
  const say = () => {
    plot.setAttribute('aria-valuemin', '1');
    plot.setAttribute('aria-valuemax', String(options.count()));
    plot.setAttribute('aria-valuenow', String(current + 1));
    plot.setAttribute('aria-valuetext', options.describe(current));
  };
  const moveTo = (position: number) => {
    current = Math.max(0, Math.min(options.count() - 1, position));
    say();
  };
  const pointAt = (position: number) => {
    moveTo(position);
    options.onPoint(current);
  };
  const positionOf = (event: MouseEvent) => {
    const { left, width } = plot.getBoundingClientRect();
    const units = plot.querySelector('svg')?.viewBox.baseVal.width ?? width;
    return options.positionAt(((event.clientX - left) / width) * units);
  };
  say();
  plot.addEventListener('pointermove', (event) => pointAt(positionOf(event)));
  plot.addEventListener('pointerleave', () => options.onPoint(null));
  plot.addEventListener('focus', () => {
    if (plot.matches(':focus-visible')) pointAt(current);
  });
  plot.addEventListener('blur', () => options.onPoint(null));
  plot.addEventListener('click', (event) => options.onChoose?.(positionOf(event)));
  plot.addEventListener('keydown', (event) => {
    const target = keyTarget(event.key, current, options.count());
    if (target !== null) pointAt(target);
    else if (event.key === 'Enter') options.onChoose?.(current);
    else return;
    event.preventDefault();
  });
  return { moveTo };
}

function keyTarget(key: string, current: number, count: number): number | null {
  switch (key) {
    case 'ArrowRight':
    case 'ArrowUp':
      return current + 1;
    case 'ArrowLeft':
    case 'ArrowDown':
      return current - 1;
    case 'PageUp':
      return current + PAGE;
    case 'PageDown':
      return current - PAGE;
    case 'Home':
      return 0;
    case 'End':
      return count - 1;
    default:
      return null;
  }
}
