import type { ModuleFacts } from '../checkpoint.js';

/**
 * Completes a norm layer's facts from the source of its TorchScript class, which is searched as text
 * (torch/csrc/jit/serialization/python_print.cpp). Scripting keeps constants there that the pickled object lacks;
 * tracing leaves them in the call of its one method:
 *
 *     class BatchNorm2d(Module):
 *       eps : Final[float] = 1.0000000000000001e-05
 *       momentum : Final[float] = 0.10000000000000001
 *       track_running_stats : Final[bool] = True
 *       …
 *         _0 = torch.batch_norm(input, weight, bias, running_mean, running_var, False, 0.1, 1e-05, True)
 */
export function completeFacts(facts: ModuleFacts, source: string): ModuleFacts {
  const body = findClassBody(source, facts.className ?? '');
  if (body === null) return facts;
  const traced = TRACED_CALL.exec(body);
  const momentum = readConstant(body, 'momentum') ?? traced?.[1] ?? null;
  const tracks = readConstant(body, 'track_running_stats');
  return {
    ...facts,
    epsilon: facts.epsilon ?? toNumber(readConstant(body, 'eps') ?? traced?.[2] ?? null),
    momentum: facts.momentum ?? (momentum === 'None' ? 'cumulative' : toNumber(momentum)),
    trackRunningStats: facts.trackRunningStats ?? (tracks === null ? null : tracks === 'True'),
  };
}

/** The last arguments of torch.batch_norm: training, momentum, eps, cudnn_enabled. */
const TRACED_CALL = /torch\.batch_norm\([^()]*, (?:True|False), ([\d.e+-]+), ([\d.e+-]+), (?:True|False)\)/;

/** The lines of the class: those up to the next one that is not indented. */
function findClassBody(source: string, className: string): string | null {
  const lines = source.split('\n');
  const start = lines.findIndex(
    (line) => line.startsWith(`class ${className}(`) || line === `class ${className}:`,
  );
  if (start < 0) return null;
  const rest = lines.slice(start + 1);
  const end = rest.findIndex((line) => /^\S/.test(line));
  return rest.slice(0, end < 0 ? rest.length : end).join('\n');
}

/** A constant of the class itself, which is indented by two; locals of methods are indented deeper. */
function readConstant(body: string, name: string): string | null {
  const match = new RegExp(`^  ${name} : (?:Final\\[)?[^=\\n]+ = (\\S+)\\s*$`, 'm').exec(body);
  return match?.[1] ?? null;
}

function toNumber(text: string | null): number | null {
  const value = text === null ? Number.NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}
