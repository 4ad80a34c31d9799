/** What a model's configuration says of one of its modules. */
export interface ConfiguredModule {
  /** Path from the model's root. */
  readonly path: string;
  /** Its class, without the Python module or the scope before it; null where none is named. */
  readonly type: string | null;
  readonly frozenStages: number | null;
  readonly normEval: boolean | null;
  /** `norm_cfg=dict(requires_grad=…)`. */
  readonly normRequiresGrad: boolean | null;
}

/** Configurations take 20 to 200 kB; beyond this it is something else. */
const MAX_TEXT_LENGTH = 4 * 1024 * 1024;

/** Brackets in each other: real ones nest some ten levels. */
const MAX_NESTING = 100;

/** Modules that say something of a freeze: real models have one or two. */
const MAX_MODULES = 1_000;

/** What is between brackets: an item without a key goes by its number. */
interface Frame {
  readonly key: string;
  readonly values: Map<string, string>;
  items: number;
  normRequiresGrad: string | undefined;
}

const TOKEN =
  /\s+|#.*|(?<long>'''|""")|(?<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(?<word>[\p{L}_][\p{L}\p{N}_]*|-?\d[\w.]*)|(?<sign>[^'"])/uy;

/**
 * Reads the settings of a freeze from the text of a configuration as mmengine and MMCV save it, which is Python:
 *
 *     model = dict(backbone=dict(type='ResNet', frozen_stages=1, norm_eval=True, …), …)
 *
 * The text is taken apart into brackets, keys and literals; nothing of it is ever run.
 *
 * @returns null where it is no such text, or too long or deep to be one.
 */
export function readConfiguredModules(text: string): readonly ConfiguredModule[] | null {
  return text.length > MAX_TEXT_LENGTH ? null : new ConfigReader(text).read();
}

class ConfigReader {
  readonly #text: string;
  readonly #frames: Frame[] = [makeFrame('')];
  readonly #modules: ConfiguredModule[] = [];
  /** The word or string that was read last, and the key that a value is awaited for. */
  #last: string | null = null;
  #key: string | null = null;

  constructor(text: string) {
    this.#text = text;
  }

  read(): readonly ConfiguredModule[] | null {
    const token = new RegExp(TOKEN);
    while (token.lastIndex < this.#text.length) {
      const groups = token.exec(this.#text)?.groups;
      // A string without an end: looking for one from every quote of it would take forever.
      if (groups === undefined) return null;
      const { long, string, word, sign } = groups;
      if (long !== undefined) {
        const end = this.#text.indexOf(long, token.lastIndex);
        if (end < 0) return null;
        token.lastIndex = end + long.length;
        this.#take(null);
      } else if (string !== undefined) this.#take(string.slice(1, -1));
      else if (word !== undefined) this.#take(word);
      else if (sign !== undefined && !this.#readSign(sign)) return null;
    }
    return this.#frames.length === 1 ? this.#modules : null;
  }

  #take(text: string | null): void {
    this.#last = text;
    if (this.#key !== null && text !== null) this.#top.values.set(this.#key, text);
  }

  get #top(): Frame {
    const top = this.#frames.at(-1);
    if (top === undefined) throw new Error('the outermost frame is never closed');
    return top;
  }

  /** @returns false where the text is none that can be read. */
  #readSign(sign: string): boolean {
    if (sign === '=' || sign === ':') this.#key = this.#last;
    else if (sign === ',') {
      this.#top.items++;
      this.#key = null;
    } else if ('([{'.includes(sign)) return this.#open();
    else if (')]}'.includes(sign)) return this.#close();
    // What an operator makes of a value is not known here.
    else if (this.#key !== null) {
      this.#top.values.delete(this.#key);
      this.#key = null;
    }
    return true;
  }

  #open(): boolean {
    if (this.#frames.length === MAX_NESTING) return false;
    this.#frames.push(makeFrame(this.#key ?? String(this.#top.items)));
    this.#key = null;
    this.#last = null;
    return true;
  }

  #close(): boolean {
    if (this.#frames.length === 1) return false;
    const frame = this.#top;
    this.#describe(frame);
    this.#frames.pop();
    if (frame.key === 'norm_cfg') this.#top.normRequiresGrad = frame.values.get('requires_grad');
    this.#key = null;
    this.#last = null;
    return this.#modules.length <= MAX_MODULES;
  }

  #describe({ values, normRequiresGrad }: Frame): void {
    const [model, ...keys] = this.#frames.slice(1).map(({ key }) => key);
    const frozenStages = asInteger(values.get('frozen_stages'));
    const normEval = asBoolean(values.get('norm_eval'));
    const norms = asBoolean(normRequiresGrad);
    if (model !== 'model' || (frozenStages === null && normEval === null && norms === null)) return;
    this.#modules.push({
      path: keys.join('.'),
      type: values.get('type')?.split('.').at(-1) ?? null,
      frozenStages,
      normEval,
      normRequiresGrad: norms,
    });
  }
}

function makeFrame(key: string): Frame {
  return { key, values: new Map(), items: 0, normRequiresGrad: undefined };
}

function asInteger(text: string | undefined): number | null {
  return text !== undefined && /^-?\d{1,6}$/.test(text) ? Number(text) : null;
}

function asBoolean(text: string | undefined): boolean | null {
  return text === 'True' ? true : text === 'False' ? false : null;
}
