/** The tolem command: administers the installation, whether the centre runs or not. */
import { fileURLToPath } from 'node:url';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { Refusal } from './audit.js';
import { addAgentCommands } from './cli/agents.js';
import { addCatalogueCommands } from './cli/catalogue.js';
import { Context, type GlobalOptions, type Run, type Stdio } from './cli/context.js';
import { addPaymentCommands } from './cli/payments.js';
import { addProviderCommands } from './cli/providers.js';
import { SetupError } from './config.js';

/** PostgreSQL's insufficient_privilege. */
const notPermitted = '42501';
const root = fileURLToPath(new URL('../../../', import.meta.url));

/**
 * Runs one command. `argv` is what follows the name of the program. Answers the exit code: 0 done, 1 refused or failed,
 * 2 wrong usage. Results go to stdout, everything else to stderr.
 */
export async function run(argv: readonly string[], env: NodeJS.ProcessEnv, stdio: Stdio): Promise<number> {
  const program = new Command('tolem')
    .description('Administers the payment centre.')
    .addOption(new Option('--json', 'print exact JSON for programs'))
    .addOption(new Option('--operator <name>', 'who makes the change (or TOLEM_OPERATOR)'))
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => stdio.stdout.write(text),
      writeErr: (text) => stdio.stderr.write(text),
    })
    .exitOverride();

  const withContext: Run =
    (action) =>
    async (...args) => {
      const context = new Context(program.opts<GlobalOptions>(), env, stdio, root);
      try {
        await action(context, ...args);
      } finally {
        await context.close();
      }
    };
  addAgentCommands(program, withContext);
  addCatalogueCommands(program, withContext);
  addProviderCommands(program, withContext);
  addPaymentCommands(program, withContext);

  try {
    await program.parseAsync(argv, { from: 'user' });
    return 0;
  } catch (error) {
    return exitCode(error, stdio);
  }
}

function exitCode(error: unknown, stdio: Stdio): number {
  if (error instanceof InvalidArgumentError) stdio.stderr.write(`${error.message}\n`);
  // Commander has printed its own message; help that was asked for is no error.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  const { code, message } = error as Error & { code?: string };
  if (error instanceof Refusal || error instanceof SetupError) stdio.stderr.write(`${message}\n`);
  else if (code === notPermitted) {
    stdio.stderr.write(
      `The database refused: ${message}; set TOLEM_DATABASE_ADMIN_URL to connect as its owner.\n`,
    );
  } else
    stdio.stderr.write(
      `Failed: ${message}${code ? ` (${code})` : ''}; what was not confirmed above was not done.\n`,
    );
  return 1;
}
