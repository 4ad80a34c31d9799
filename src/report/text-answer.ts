import { describeAnswer, type Outcome } from './answer.js';
import type { AnyReport } from './any-report.js';
import { showName, type TextLayout, type Tone, wrapText } from './text-layout.js';

/** The sign and the colour of an outcome. */
export const OUTCOME_SIGNS: Readonly<Record<Outcome, readonly [sign: string, tone: Tone]>> = {
  failed: ['✖', 'error'],
  drifted: ['✖', 'error'],
  unhealthy: ['✖', 'error'],
  warned: ['!', 'warning'],
  clean: ['✔', 'good'],
};

/** Names in the answer's sentences are cut to this many characters. */
const NAME_WIDTH = 50;

/** The answer of a report: a headline, and a few lines that a human can act on. */
export function renderAnswer(report: AnyReport, { paint, width }: TextLayout): readonly string[] {
  const { outcome, word, headline, explanation } = describeAnswer(report, (name) =>
    showName(name, NAME_WIDTH),
  );
  const [sign, tone] = OUTCOME_SIGNS[outcome];
  const label = `${sign} ${word.toUpperCase()}`;
  const [first = '', ...rest] = wrapText(headline, { width, indent: ' '.repeat(label.length + 2) });
  return [
    `${paint(tone, label)}  ${paint('strong', first.trimStart())}`,
    ...rest.map((line) => paint('strong', line)),
    ...wrapText(explanation, { width, indent: '  ' }),
  ];
}
