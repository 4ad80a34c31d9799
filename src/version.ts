/** The tool's version, as package.json has it; a test keeps the two together. */
export const VERSION = '0.1.0';

/** The tool's name, as reports give it. */
export const TOOL_NAME = 'bn-audit';
