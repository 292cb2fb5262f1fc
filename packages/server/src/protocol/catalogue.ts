import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { type Agent, type Field, mayBeSold, type Reference, type Service } from '../core/catalogue.js';
import { head, members } from './render.js';

/** The contract spells the array with a Cyrillic с (U+0441); known clients read the Latin key. */
export type ArrayKey = 'both' | 'latin' | 'cyrillic';

const keysOf: Readonly<Record<ArrayKey, readonly string[]>> = {
  both: ['servi\u0441es', 'services'],
  latin: ['services'],
  cyrillic: ['servi\u0441es'],
};

export interface PreparedAnswer {
  readonly body: Buffer;
  /** Compressed when first asked for, and kept. */
  gzipped(): Promise<Buffer>;
}

/** How many different catalogues are kept ready; 5 000 services make about 3 MB each. */
const preparedMax = 32;
const compress = promisify(gzip);
const closing = Buffer.from(']');

/**
 * Answers `services` and `service`. The list is written once for all agents who see the same services in the same
 * language, and again only when the reference data change.
 */
export class CatalogueAnswers {
  private readonly keys: readonly string[];
  private reference: Reference | null = null;
  private readonly prepared = new Map<string, PreparedAnswer>();
  private readonly rendered = new WeakMap<Service, Buffer>();

  constructor(arrayKey: ArrayKey) {
    this.keys = keysOf[arrayKey];
  }

  services(reference: Reference, agent: Agent): PreparedAnswer {
    if (reference !== this.reference) {
      this.prepared.clear();
      this.reference = reference;
    }
    const key = `${agent.language} ${agent.servicePolicy} ${exceptionsKey(reference, agent)}`;
    let answer = this.prepared.get(key);
    if (answer) this.prepared.delete(key);
    else {
      if (this.prepared.size >= preparedMax) this.prepared.delete(this.prepared.keys().next().value!);
      answer = this.prepare(reference, agent);
    }
    // Last in the map is last used; the first one goes when room is needed.
    this.prepared.set(key, answer);
    return answer;
  }

  /** Result 0 with the one service; 130 for an unknown id, 155 for one that this agent may not sell. */
  service(
    reference: Reference,
    agent: Agent,
    serviceId: string,
  ): { readonly code: 0; readonly body: Buffer } | { readonly code: 130 | 155 } {
    const service = reference.services.get(serviceId);
    if (!service) return { code: 130 };
    if (!mayBeSold(reference, agent, service)) return { code: 155 };
    return { code: 0, body: this.write([service], agent) };
  }

  private prepare(reference: Reference, agent: Agent): PreparedAnswer {
    const sold = [...reference.services.values()].filter((service) => mayBeSold(reference, agent, service));
    const body = this.write(sold, agent);
    let compressed: Promise<Buffer> | null = null;
    return {
      body,
      gzipped: () => {
        compressed ??= compress(body);
        return compressed;
      },
    };
  }

  /** Joins bytes: encoding the whole list as one string takes ten times as long. */
  private write(services: readonly Service[], agent: Agent): Buffer {
    const list = Buffer.concat(services.map((service) => this.bytes(service))).subarray(1);
    const parts = [Buffer.from(`{${head(0, null, agent.language)}`)];
    for (const key of this.keys) parts.push(Buffer.from(`,"${key}":[`), list, closing);
    return Buffer.concat([...parts, Buffer.from('}')]);
  }

  /** With a comma in front. */
  private bytes(service: Service): Buffer {
    let bytes = this.rendered.get(service);
    if (bytes === undefined) {
      bytes = Buffer.from(`,${renderService(service)}`);
      this.rendered.set(service, bytes);
    }
    return bytes;
  }
}

const exceptionsKeys = new WeakMap<ReadonlyMap<string, boolean>, string>();

function exceptionsKey(reference: Reference, agent: Agent): string {
  const exceptions = reference.exceptions.get(agent.agentId);
  if (!exceptions) return '';
  let key = exceptionsKeys.get(exceptions);
  if (key === undefined) {
    key = JSON.stringify([...exceptions].sort(([a], [b]) => (a < b ? -1 : 1)));
    exceptionsKeys.set(exceptions, key);
  }
  return key;
}

function renderService(service: Service): string {
  return `{${members([
    ['serviceId', JSON.stringify(service.serviceId)],
    ['type', String(service.type)],
    ['name', JSON.stringify(service.name)],
    ['group', service.group === null ? undefined : JSON.stringify(service.group)],
    ['fixedPayment', String(service.fixedPayment)],
    ['country', service.country === null ? undefined : JSON.stringify(service.country)],
    ['inputs', renderFields(service.inputs)],
    ['displays', renderFields(service.displays)],
  ])}}`;
}

function renderFields(fields: readonly Field[]): string | undefined {
  if (fields.length === 0) return undefined;
  return JSON.stringify(
    fields.map(({ name, required, title, pattern }) => ({ name, required, title, regexp: pattern?.source })),
  );
}
