// `bn-audit inspect`.

import type { Command } from 'commander';
import { inspect } from '../inspect.js';
import { pickOptions } from '../options.js';
import { type CommonOptions, createCommand, EXIT_CODE_HELP } from './options.js';
import type { Terminal } from './terminal.js';
import { announceReport, getExitCode, needsChannels, planReports, writeReports } from './write-reports.js';

/** `bn-audit inspect CHECKPOINT`. */
export function createInspect(terminal: Terminal): Command {
  return createCommand('inspect')
    .description('List every norm layer of one checkpoint, and what is wrong with its statistics.')
    .argument('<checkpoint>', 'a checkpoint of any format that is read')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit inspect model.onnx
  bn-audit inspect model.safetensors --format json --channels
  bn-audit inspect model.pt --report html=health.html
${EXIT_CODE_HELP}`,
    )
    .action(async (path: string, options: CommonOptions) => {
      const plan = planReports(options, options.report ?? [], [path]);
      const { onOpenFile } = plan.guard;
      const channels = needsChannels(plan);
      const report = await inspect(path, { ...pickOptions('inspect', options), channels, onOpenFile });
      await writeReports(report, plan, terminal);
      await announceReport(report, options, terminal);
      process.exitCode = getExitCode(report.findings, options.failOn ?? 'error');
    });
}
