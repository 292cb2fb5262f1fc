/** The protocol edge over use cases that remember what they were asked and answer what the test says. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { FastifyBaseLogger } from 'fastify';
import { ownRoute } from '../../src/catalogue/routes.js';
import type { BalanceAnswer, CheckAnswer, PayAnswer, UseCases } from '../../src/core/answers.js';
import type { Agent, Field, Reference, Service } from '../../src/core/catalogue.js';
import type { CheckRequest, PayRequest } from '../../src/core/requests.js';
import type { Cidr, Directory } from '../../src/protocol/credentials.js';
import { buildServer, type ProtocolConfig, type ServerParts } from '../../src/protocol/server.js';

export const tokenOf = (agentId: bigint) => `token-of-${agentId}`;
export const bearer = (agentId = 4n) => ({ authorization: `Bearer ${tokenOf(agentId)}` });

/** A file of `fixtures/contract`: the contract's own text of an example. */
export function contractText(name: string): string {
  return readFileSync(new URL(`../fixtures/contract/${name}.json`, import.meta.url), 'utf8');
}

/** The same text without the white space between tokens; no number is touched. */
export function minified(json: string): string {
  return json.replace(/("(?:[^"\\]|\\.)*")|\s+/g, (_, text: string | undefined) => text ?? '');
}

export const anAgent: Agent = {
  agentId: 4n,
  shard: 0,
  name: 'Наименоване Агента',
  currency: 'KZT',
  language: 'ru',
  tariffId: 'standard',
  servicePolicy: 'all',
  knownByAddress: false,
  blocked: false,
};

const aService = {
  group: null,
  country: 'КАЗАХСТАН',
  fixedPayment: false,
  displays: [],
  routes: [ownRoute({ providerId: 'sandbox', providerServiceCode: '1' })],
  currency: 'KZT',
  amountMinMinor: 100n,
  amountMaxMinor: 100_000_000n,
  identityRequired: false,
  inquiryRequired: true,
  state: 'on',
} as const;

function field(name: string, title: string, source: string): Field {
  const pattern = { source, matches: (value: string) => new RegExp(source).test(value) };
  return { name, key: name.replace(/^ev_/, ''), required: true, title, pattern };
}

/** The four services of the contract's example. */
export const contractServices: readonly Service[] = [
  {
    ...aService,
    serviceId: 'P1011',
    type: 0,
    name: 'Билайн Казахстан',
    group: 'Сотовая связь',
    fixedPayment: true,
    inputs: [field('account', 'Номер телефона', '^\\d{10}$')],
  },
  {
    ...aService,
    serviceId: 'P1012',
    type: 0,
    name: 'Herbalife',
    group: 'Товары по каталогам',
    fixedPayment: true,
    inputs: [
      field('account', 'Номер независимого партнера', '^\\d{10}$'),
      field('ev_account1', 'Номер заказа', '^\\d{10}$'),
    ],
    displays: [
      field('fio', 'ФИО', '^.+$'),
      field('info', 'Сумма к оплате', '^.+$'),
      field('fixedAmount', '', '^\\d{1,9}\\.\\d{2}$'),
    ],
  },
  {
    ...aService,
    serviceId: 'P0005',
    type: 1,
    name: 'Алсеко',
    group: 'ЖКХ',
    inputs: [field('account', 'Номер лицевого счета', '^\\d{10}$')],
  },
  {
    ...aService,
    serviceId: 'P0006',
    type: 2,
    name: 'XXX банк',
    group: 'Другие услуги',
    inputs: [field('account', 'Введите ИИН', '^\\d{12}$')],
  },
];

export function aReference(
  changes: Partial<Reference> & { readonly agentList?: readonly Agent[] } = {},
): Reference {
  const agents = changes.agentList ?? [anAgent];
  return {
    version: 1n,
    agents: new Map(agents.map((agent) => [agent.agentId, agent])),
    services: new Map(contractServices.map((service) => [service.serviceId, service])),
    tariffs: new Map(),
    rules: [],
    rates: new Map(),
    providers: new Map(),
    exceptions: new Map(),
    ...changes,
  };
}

/** Every agent of the reference has the token `token-of-<id>`. */
export class TestDirectory implements Directory {
  readonly touches: string[] = [];
  readonly addresses = new Map<bigint, readonly Cidr[]>();
  readonly byAddress = new Map<string, readonly bigint[]>();

  constructor(private readonly reference: () => Reference) {}

  byTokenHash(hashHex: string) {
    for (const agentId of this.reference().agents.keys()) {
      const hash = createHash('sha256').update(tokenOf(agentId)).digest('hex');
      if (hash === hashHex) return { agentId, tokenId: agentId * 10n };
    }
    return undefined;
  }

  addressesOf(agentId: bigint) {
    return this.addresses.get(agentId) ?? [];
  }

  agentsKnownByAddress(address: string) {
    return this.byAddress.get(address) ?? [];
  }

  touched(tokenId: bigint, address: string) {
    this.touches.push(`${tokenId} ${address}`);
  }
}

export const accepted: CheckAnswer = { code: 0, reason: null, transactionId: 100000781233355n, shown: null };

export class TestUseCases implements UseCases {
  readonly asked: { readonly method: string; readonly agentId: bigint | null; readonly request: unknown }[] =
    [];
  checkAnswer: CheckAnswer | (() => Promise<CheckAnswer>) = accepted;
  payAnswer: PayAnswer | (() => Promise<PayAnswer>) = { ...accepted, acceptedAt: null, finalAt: null };
  balanceAnswer: BalanceAnswer = {
    agentId: 4n,
    agentName: 'Наименоване Агента',
    availableMinor: 50_945_590n,
    creditLimitMinor: 0n,
    notificationMinor: 0n,
    currency: 'KZT',
  };

  async check(agentId: bigint, request: CheckRequest) {
    this.asked.push({ method: 'check', agentId, request });
    return typeof this.checkAnswer === 'function' ? this.checkAnswer() : this.checkAnswer;
  }

  async pay(agentId: bigint, request: PayRequest) {
    this.asked.push({ method: 'pay', agentId, request });
    return typeof this.payAnswer === 'function' ? this.payAnswer() : this.payAnswer;
  }

  async balance(agentId: bigint) {
    this.asked.push({ method: 'balance', agentId, request: null });
    return this.balanceAnswer;
  }

  async operatorByPhone(phoneNumber: string) {
    this.asked.push({ method: 'operatorByPhone', agentId: null, request: phoneNumber });
    return { code: 0, reason: null, serviceId: 'P1011' };
  }
}

export class TestLogger {
  readonly lines: string[] = [];
  level = 'info';

  private readonly note = (...parts: unknown[]) => {
    this.lines.push(JSON.stringify(parts));
  };
  info = this.note;
  warn = this.note;
  error = this.note;
  fatal = this.note;
  debug = this.note;
  trace = () => {};
  silent = () => {};
  child = () => this as unknown as FastifyBaseLogger;
}

export const testConfig: ProtocolConfig = {
  prefixes: ['/AirPayService'],
  zone: 'Asia/Almaty',
  catalogueKey: 'both',
  trustedProxies: [],
  connectionsMax: 1000,
  drainMsMax: 5000,
};

export interface TestEdge {
  readonly app: ReturnType<typeof buildServer>;
  readonly useCases: TestUseCases;
  readonly directory: TestDirectory;
  readonly logger: TestLogger;
  /** Replaces the reference data. */
  use(reference: Reference): void;
  /** Sends a POST of JSON as agent 4; a header of null is left out. */
  post(method: string, body?: string | Buffer, headers?: Record<string, string | null>): Promise<Reply>;
}

export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly text: string;
  readonly raw: Buffer;
}

export function buildEdge(
  changes: Partial<ProtocolConfig> = {},
  parts: Partial<Pick<ServerParts, 'tls'>> & { readonly reference?: Reference } = {},
): TestEdge {
  let reference = parts.reference ?? aReference();
  const useCases = new TestUseCases();
  const directory = new TestDirectory(() => reference);
  const logger = new TestLogger();
  const app = buildServer({
    config: { ...testConfig, ...changes },
    useCases,
    reference: () => reference,
    directory,
    logger: logger as unknown as FastifyBaseLogger,
    ...(parts.tls ? { tls: parts.tls } : {}),
  });
  return {
    app,
    useCases,
    directory,
    logger,
    use: (next) => {
      reference = next;
    },
    post: async (method, body, headers) => {
      const all = { ...bearer(), 'content-type': 'application/json', ...headers };
      const reply = await app.inject({
        method: 'POST',
        url: method.startsWith('/') ? method : `/api/v20/${method}`,
        headers: Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null)),
        ...(body === undefined ? {} : { payload: body }),
      });
      return { status: reply.statusCode, headers: reply.headers, text: reply.payload, raw: reply.rawPayload };
    },
  };
}
