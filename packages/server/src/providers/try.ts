/** One inquiry outside of any payment, told field by field: what an operator wants to see of a new provider. */
import { isLosslessNumber, parse } from 'lossless-json';
import type { ProviderFacts } from '../core/catalogue.js';
import { formatMinor } from '../core/money.js';
import type {
  CheckOutcome,
  ConnectorFactory,
  HttpRequest,
  HttpResponse,
  Inquiry,
  NotSent,
} from './contract.js';
import { createSender } from './send.js';
import { type Element, readXml } from './xml.js';

export interface Tried {
  /** Method and path; headers may hold secrets. */
  readonly sent: string;
  readonly httpStatus: number | null;
  readonly durationMs: number;
  /** Of the answer, as it came: `/services/0/name` or `response/fields/field1`. */
  readonly fields: readonly { readonly name: string; readonly value: string; readonly plain: boolean }[];
  /** What the centre makes of it, and what the protocol offers. */
  readonly means: readonly (readonly [what: string, text: string])[];
}

const fieldsMax = 200;

export async function tryCheck(
  provider: ProviderFacts,
  connectors: ReadonlyMap<string, ConnectorFactory>,
  inquiry: Omit<Inquiry, 'externalId'>,
): Promise<Tried> {
  let request: HttpRequest | null = null;
  let response: HttpResponse | null = null;
  let plain: ReadonlySet<string> = new Set();
  // The connector itself, overheard.
  const overheard = new Map(
    [...connectors].map(([name, factory]): [string, ConnectorFactory] => [
      name,
      (settings) => {
        const connector = factory(settings);
        plain = connector.plain ?? plain;
        return {
          ...connector,
          buildCheck(asked) {
            request = connector.buildCheck(asked);
            return request;
          },
          parseCheck(came, asked) {
            response = came;
            return connector.parseCheck(came, asked);
          },
        };
      },
    ]),
  );
  const sender = createSender({
    providers: () => new Map([[provider.providerId, provider]]),
    connectors: overheard,
    log: { error() {} },
  });
  try {
    const { outcome, record } = await sender.check(provider.providerId, {
      ...inquiry,
      externalId: `test-${Date.now()}`,
    });
    const offers = sender.offers(provider.providerId);
    const sent = request as HttpRequest | null;
    const came = response as HttpResponse | null;
    return {
      sent: sent ? `${sent.method} ${sent.path}${sent.body === null ? '' : ` ${sent.body}`}` : 'nothing',
      httpStatus: record.httpStatus,
      durationMs: record.durationMs,
      fields: came
        ? fieldsOf(came.body).map(({ path, leaf, value }) => ({ name: path, value, plain: plain.has(leaf) }))
        : [],
      means: [
        ...wordsOf(outcome),
        ['a repeat is safe', offers.deduplicates ? 'yes, it deduplicates by our id' : 'no'],
        ['can be asked for the end', offers.status ? 'yes' : 'no'],
        [
          '"not found" proves',
          offers.notFoundTrustedAfterMs === null
            ? 'never'
            : `${offers.notFoundTrustedAfterMs} ms after the last try`,
        ],
      ],
    };
  } finally {
    await sender.close(0);
  }
}

function wordsOf(outcome: CheckOutcome | NotSent): [string, string][] {
  switch (outcome.kind) {
    case 'refused':
      return [['means', `refused: agents are answered ${outcome.code} (${outcome.detail})`]];
    case 'unknown':
      return [['means', `nothing is proven: ${outcome.detail}. Agents are answered 1`]];
    case 'not_sent':
      return [['means', `it was not sent: ${outcome.detail}`]];
    case 'ok': {
      const { displays = {}, contracts = [], invoices = [], amountMinMinor, amountMaxMinor } = outcome;
      return [
        ['means', 'the account may be paid for'],
        ...Object.entries(displays).map(([key, value]): [string, string] => [`shown as ${key}`, value]),
        ...contracts.map(({ contractId, name }): [string, string] => [`contract ${contractId}`, name ?? '']),
        ...invoices.map(({ invoiceId, lines }): [string, string] => [
          `invoice ${invoiceId ?? ''}`.trim(),
          lines.map(({ subServiceId, subServiceName }) => `${subServiceId} ${subServiceName}`).join(', '),
        ]),
        ...(amountMinMinor ? [['at least', formatMinor(amountMinMinor)] as [string, string]] : []),
        ...(amountMaxMinor ? [['at most', formatMinor(amountMaxMinor)] as [string, string]] : []),
      ];
    }
  }
}

interface Leaf {
  readonly path: string;
  readonly leaf: string;
  readonly value: string;
}

/** Every value of a JSON or XML text; what is neither is one field. */
function fieldsOf(text: string): Leaf[] {
  const found: Leaf[] = [];
  const root = text.trimStart().startsWith('<') ? readXml(text.trimStart()) : null;
  if (root) addElement(root, root.name, found);
  else {
    try {
      addValue(parse(text), '', '', found);
    } catch {
      found.push({ path: '(text)', leaf: '', value: text.slice(0, 500) });
    }
  }
  return found.slice(0, fieldsMax);
}

function addElement({ name, attributes, children, text }: Element, path: string, found: Leaf[]): void {
  for (const [key, value] of Object.entries(attributes))
    found.push({ path: `${path}/@${key}`, leaf: key, value });
  if (text !== '' || children.length === 0) found.push({ path, leaf: name, value: text });
  for (const child of children) addElement(child, `${path}/${child.name}`, found);
}

function addValue(value: unknown, path: string, leaf: string, found: Leaf[]): void {
  if (typeof value === 'object' && value !== null && !isLosslessNumber(value)) {
    const isList = Array.isArray(value);
    for (const [key, each] of Object.entries(value))
      addValue(each, `${path}/${key}`, isList ? leaf : key, found);
  } else found.push({ path: path || '/', leaf, value: String(value) });
}
