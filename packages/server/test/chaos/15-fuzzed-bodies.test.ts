/** Generated bodies against a whole centre: real process, real HTTP, real database and provider. */
import fc from 'fast-check';
import { Client } from 'undici';
import { verify } from '../../src/ledger/verify.js';
import { ask, countsText, payBody, type Reply } from '../support/crowd.js';
import { type FuzzCase, fuzzCase, nasties } from '../support/fuzz.js';
import type { Violation } from '../support/oracle.js';
import { brokenBuild, openScene } from '../support/processes.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const connections = 32;
const plainBody = payBody(77n, 200);

async function fuzz(lab: Lab, bodies: number, build?: string): Promise<Outcome> {
  const scene = await openScene({ agents: 1, fundsMinor: 1_000_000_000_00n });
  const violations: Violation[] = [];
  const violate = (rule: string, object: string, found: string) => {
    if (violations.length < 1000) violations.push({ rule, object, found });
  };
  try {
    const { token } = scene.callers[0]!;
    const server = scene.start({ port: 0, build });
    const baseUrl = await server.ready;
    const codes = new Map<string, number>();
    let asked = 0;
    let echoed = 0;
    const drive = async (cases: Iterable<FuzzCase>) => {
      const client = new Client(baseUrl);
      for (const each of cases) {
        const reply = await ask(client, token, each.body, 30_000, each.method).catch((error: Error) => error);
        const object = `${each.method} ${each.body.subarray(0, 2000)}`;
        if (reply instanceof Error) {
          violate('every body is answered', object, reply.message);
          if (violations.length > 100) break;
          continue;
        }
        asked += 1;
        if (each.echo !== null) echoed += 1;
        const said = String(reply.code ?? reply.httpStatus);
        codes.set(said, (codes.get(said) ?? 0) + 1);
        lab.timeline.answer(reply.httpStatus >= 500 ? 'unavailable' : reply.code === 1 ? 'open' : 'final');
        judge(each, reply, (rule, found) => violate(rule, object, found));
        if (asked % Math.ceil(bodies / 5) === 0) lab.say(`${asked} bodies`);
      }
      await client.close();
    };
    // One source for all connections: each takes the next body when it has its answer.
    const source = generated(bodies);
    await Promise.all(Array.from({ length: connections }, () => drive(source)));
    await drive(nasties);
    if (echoed < bodies / 5) violate('the fault hits', 'ids that can be echoed', String(echoed));

    // The same process answers, and pays.
    const client = new Client(baseUrl);
    const { code } = await ask(client, token, plainBody).catch(() => ({ code: null }));
    if (code !== 0) violate('payments go on', plainBody, `code ${code}: ${server.said().slice(-500)}`);
    await client.destroy();
    for (const { what, object } of (await verify(scene.owner)).problems)
      violate('the books agree with themselves', object, what);
    return { violations, figures: { bodies: asked, 'with an id to echo': echoed, codes: countsText(codes) } };
  } finally {
    await scene.close();
  }
}

function judge({ echo }: FuzzCase, reply: Reply, violate: (rule: string, found: string) => void): void {
  const { httpStatus, code, id } = reply;
  if (httpStatus === 413) {
    if (code !== null) violate('a refusal of HTTP has no result', `413 with result ${code}`);
    return;
  }
  if (httpStatus !== 200) violate('no body brings a 5xx', `HTTP ${httpStatus}`);
  else if (code === null) violate('every answer has a result', 'none');
  else if (echo !== null && id !== echo)
    violate('the id comes back to the digit', `${echo} came back as ${id}`);
}

function* generated(total: number): Generator<FuzzCase> {
  // In portions: a sample is made whole before its first case is given out.
  for (let left = total; left > 0; left -= 500) yield* fc.sample(fuzzCase, Math.min(left, 500));
}

experiment({
  number: 15,
  name: 'bodies from a fuzzer',
  minutesMax: { short: 5, full: 60 },
  run: (lab) => fuzz(lab, lab.size(50_000, 1_000_000)),
  controls: [
    {
      broken: 'a build that reads ids as floating-point numbers',
      rule: 'the id comes back to the digit',
      run: (lab) =>
        fuzz(
          lab,
          1500,
          brokenBuild([
            {
              file: 'protocol/requests.js',
              from: 'const id = BigInt(digits);',
              to: 'const id = BigInt(Number(digits));',
            },
          ]),
        ),
    },
    {
      broken: 'a build that lets a bad body through to an exception',
      rule: 'no body brings a 5xx',
      run: (lab) =>
        fuzz(
          lab,
          1500,
          brokenBuild([
            {
              file: 'protocol/methods.js',
              from: 'if (!parsed.ok)',
              to: 'if (!parsed.ok) throw new Error(parsed.why); if (!parsed.ok)',
            },
          ]),
        ),
    },
  ],
});
