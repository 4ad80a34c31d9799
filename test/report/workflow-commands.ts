/** A workflow command as GitHub's runner reads it. */
export interface WorkflowCommand {
  readonly name: string;
  readonly properties: Readonly<Record<string, string>>;
  readonly message: string;
}

/**
 * The workflow commands in a log, by the rules of GitHub's runner (ActionCommand.cs): `::name key=value,…::message` at
 * the start of a line, spaces before it ignored; or the older `##[name …]message` anywhere in a line.
 */
export function parseWorkflowCommands(log: string): readonly WorkflowCommand[] {
  return log.split(/\r\n|\r|\n/).flatMap((line) => parseLine(line) ?? []);
}

function parseLine(line: string): WorkflowCommand | null {
  const [, name, properties = '', message = ''] =
    /^\s*::([^\s:]+)(?: ((?:(?!::).)*))?::(.*)$/.exec(line) ??
    /##\[([^\s\]]+)(?: ([^\]]*))?\](.*)$/.exec(line) ??
    [];
  if (name === undefined) return null;
  const pairs = properties.split(',').flatMap((pair) => {
    const [, key, value = ''] = /^\s*([^=]+)=(.*)$/.exec(pair) ?? [];
    return key === undefined ? [] : [[key, unescapeProperty(value)] as const];
  });
  return { name, properties: Object.fromEntries(pairs), message: unescapeData(message) };
}

function unescapeData(text: string): string {
  return text.replaceAll('%0D', '\r').replaceAll('%0A', '\n').replaceAll('%25', '%');
}

function unescapeProperty(text: string): string {
  return unescapeData(text.replaceAll('%3A', ':').replaceAll('%2C', ','));
}

/** An issue as Azure Pipelines reads it from a log. */
export type AzureIssue = Readonly<Record<string, string>>;

/**
 * The issues in a log, by the rules of Azure's agent (Command.cs): `##vso[task.logissue key=value;…]message`, anywhere in
 * a line. Throws on any other command.
 */
export function readAzureIssues(log: string): readonly AzureIssue[] {
  return log.split('\n').flatMap((line) => {
    const [, command, properties = '', message = ''] = /##vso\[(\S+)(?: ([^\]]*))?\](.*)$/i.exec(line) ?? [];
    if (command === undefined) return [];
    if (command !== 'task.logissue' || !line.startsWith('##')) throw new Error(`foreign command: ${line}`);
    const restore = (text: string) =>
      text
        .replaceAll('%3B', ';')
        .replaceAll('%5D', ']')
        .replaceAll('%0D', '\r')
        .replaceAll('%0A', '\n')
        .replaceAll('%AZP25', '%');
    const pairs = properties.split(';').flatMap((pair) => {
      const [, key, value = ''] = /^([^=]+)=(.*)$/.exec(pair) ?? [];
      return key === undefined ? [] : [[key, restore(value)] as const];
    });
    return [{ ...Object.fromEntries(pairs), message: restore(message) }];
  });
}
