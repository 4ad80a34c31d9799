// Small steps on the page's elements.

/** Attributes, properties of text and listeners of an element to make; text is only ever set as text. */
interface ElementOptions {
  readonly class?: string;
  readonly text?: string;
  readonly attributes?: Readonly<Record<string, string>>;
}

/** Makes an element with its children. */
export function makeElement<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  { class: className, text, attributes = {} }: ElementOptions = {},
  children: readonly (Node | string)[] = [],
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  if (className !== undefined) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

type Attributes = Readonly<Record<string, string | number>>;

/** Makes a shape of a drawing, with those in it. */
export function makeShape<Tag extends keyof SVGElementTagNameMap>(
  tag: Tag,
  attributes: Attributes,
  children: readonly (Node | string)[] = [],
): SVGElementTagNameMap[Tag] {
  const shape = document.createElementNS('http://www.w3.org/2000/svg', tag);
  setAttributes(shape, attributes);
  shape.append(...children);
  return shape;
}

/** Changes a shape, where it is there. */
export function setAttributes(shape: Element | null, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) shape?.setAttribute(name, String(value));
}

/** Makes a group of radio buttons that look like one control; tells which was chosen. */
export function makeSegments(
  label: string,
  {
    choices,
    chosen,
    onChoose,
  }: { choices: readonly string[]; chosen: number; onChoose: (index: number) => void },
): HTMLFieldSetElement {
  const group = `segments-${label.toLowerCase().replaceAll(' ', '-')}-${segmentCount++}`;
  const legend = makeElement('legend', { class: 'unseen', text: label });
  const options = choices.map((choice, index) => {
    const input = makeElement('input', { attributes: { type: 'radio', name: group } });
    input.checked = index === chosen;
    input.addEventListener('change', () => onChoose(index));
    return makeElement('label', {}, [input, makeElement('span', { text: choice })]);
  });
  return makeElement('fieldset', { class: 'segments' }, [legend, ...options]);
}

let segmentCount = 0;

/** Makes a box to tick. */
export function makeCheckbox(label: string, onChange: (isChecked: boolean) => void): HTMLLabelElement {
  const input = makeElement('input', { attributes: { type: 'checkbox' } });
  input.addEventListener('change', () => onChange(input.checked));
  return makeElement('label', { class: 'check' }, [input, document.createTextNode(label)]);
}

/** Calls back with an element's width, now and whenever it changes, once a frame at most. */
export function watchWidth(element: Element, onWidth: (width: number) => void): void {
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry?.contentRect.width ?? 0);
    if (width === 0 || width === last) return;
    last = width;
    onWidth(width);
  }).observe(element);
}
