/** The sandbox provider as a process: `node dist/providers/sandbox/main.js --port 8021 --data-dir data/sandbox`. */
import { parseArgs } from 'node:util';
import { startSandbox } from './server.js';

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '8021' },
    host: { type: 'string', default: '127.0.0.1' },
    'data-dir': { type: 'string' },
    'delay-ms': { type: 'string', default: '0' },
    'settle-ms': { type: 'string', default: '3000' },
    'slow-ms': { type: 'string', default: '30000' },
    'callback-url': { type: 'string' },
    'callback-secret': { type: 'string' },
    'callback-delay-ms': { type: 'string', default: '0' },
    'callback-times': { type: 'string', default: '1' },
    'callback-contradicting': { type: 'boolean', default: false },
    'with-parent': { type: 'boolean', default: false },
  },
});

type Whole = 'port' | 'delay-ms' | 'settle-ms' | 'slow-ms' | 'callback-delay-ms' | 'callback-times';

function whole(name: Whole, max: number): number {
  const text = values[name];
  if (!/^\d{1,7}$/.test(text) || Number(text) > max)
    fail(`--${name} must be a whole number from 0 to ${max}`);
  return Number(text);
}

function fail(sentence: string): never {
  console.error(`sandbox provider: ${sentence}`);
  process.exit(1);
}

if (values['with-parent']) {
  // Whoever started this process holds the other end; when it is gone, so is the reason to run.
  if (process.send) process.on('disconnect', () => process.exit(0));
  else
    process.stdin
      .on('error', () => process.exit(0))
      .on('close', () => process.exit(0))
      .resume();
}
// What was executed is in the file before it is answered, so there is nothing to wait for.
process.on('SIGTERM', () => process.exit(0));
process.on('SIGINT', () => process.exit(0));

const callbackUrl = values['callback-url'];
const callbacks =
  callbackUrl === undefined
    ? undefined
    : {
        url: URL.canParse(callbackUrl) ? callbackUrl : fail('--callback-url must be a URL'),
        secret:
          values['callback-secret'] ?? fail('--callback-secret is missing; callbacks are signed with it'),
        delayMs: whole('callback-delay-ms', 600_000),
        times: whole('callback-times', 100),
        contradicting: values['callback-contradicting'],
      };

const sandbox = await startSandbox({
  port: whole('port', 65_535),
  host: values.host,
  dataDir: values['data-dir'] ?? fail('--data-dir is missing; name a directory for the registry'),
  delayMs: whole('delay-ms', 600_000),
  settleMs: whole('settle-ms', 600_000),
  slowMs: whole('slow-ms', 600_000),
  callbacks,
}).catch((error: Error) => fail(`could not start: ${error.message}`));
console.log(`sandbox provider listening on ${sandbox.url}`);
