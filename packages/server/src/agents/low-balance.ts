/** Tells agents by e-mail that their balance has fallen to the threshold they set. */
import type { Queryable } from '../audit.js';
import type { Language } from '../core/catalogue.js';
import { formatMinor } from '../core/money.js';
import type { Mail, Mailer } from '../mail.js';

interface Claim {
  readonly agentId: bigint;
  readonly shard: number;
  readonly name: string;
  readonly email: string;
  readonly language: Language;
  readonly currency: string;
  readonly availableMinor: bigint;
  readonly creditLimitMinor: bigint;
  readonly notificationMinor: bigint;
  readonly toldBefore: number;
  readonly told: number;
}

const mailsPerLookMax = 50;
const failuresPerLookMax = 3;
const restAfterFailureMs = 600_000;

/** Agents whose mail failed in this process, and until when (`performance.now()`) they are not tried again. */
const restingAgents = new Map<bigint, number>();

/**
 * Sends one mail to each agent whose balance has crossed its threshold since it was last told, however often it has,
 * and answers how many were sent. Any number of processes may look at once. A crossing is claimed and committed before
 * its mail leaves, so a crash between the two loses the mail and never doubles it; a mail that fails is put back and
 * tried again ten minutes later.
 */
export async function tellLowBalances(
  db: Queryable,
  mailer: Mailer,
  log: { warn(facts: object, message: string): void },
  resting: Map<bigint, number> = restingAgents,
): Promise<number> {
  for (const [agentId, until] of resting) if (until <= performance.now()) resting.delete(agentId);
  let sent = 0;
  let failures = 0;
  while (sent < mailsPerLookMax && failures < failuresPerLookMax) {
    const claim = await claimOne(db, [...resting.keys()]);
    if (!claim) break;
    try {
      await mailer.send(lowBalanceMail(claim));
      sent += 1;
    } catch (error) {
      failures += 1;
      resting.set(claim.agentId, performance.now() + restAfterFailureMs);
      // The server's words may repeat the address; its code does not.
      const { code, responseCode } = error as { code?: string; responseCode?: number };
      log.warn(
        { agentId: String(claim.agentId), code, responseCode },
        'the e-mail about a low balance could not be sent; it will be tried again in 10 minutes. Check TOLEM_SMTP_URL and the address',
      );
      await putBack(db, claim);
    }
  }
  return sent;
}

async function claimOne(db: Queryable, except: readonly bigint[]): Promise<Claim | null> {
  const { rows } = await db.query<Claim>(
    `with due as (
       select b.agent_id, b.shard, b.low_told, a.name, a.notification_email, a.language, a.currency
       from agent_balances b join agents a using (agent_id, shard)
       where b.low_crossings > b.low_told and a.notification_email is not null and b.agent_id <> all ($1::bigint[])
       order by b.agent_id limit 1 for update of b skip locked
     )
     update agent_balances b set low_told = b.low_crossings from due
     where b.agent_id = due.agent_id and b.shard = due.shard
     returning b.agent_id as "agentId", b.shard, due.name, due.notification_email as email, due.language, due.currency,
       b.available_minor as "availableMinor", b.credit_limit_minor as "creditLimitMinor",
       b.notification_minor as "notificationMinor", due.low_told as "toldBefore", b.low_told as told`,
    [except],
  );
  return rows[0] ?? null;
}

async function putBack(db: Queryable, { agentId, shard, toldBefore, told }: Claim): Promise<void> {
  await db.query(
    'update agent_balances set low_told = $3 where agent_id = $1 and shard = $2 and low_told = $4',
    [agentId, shard, toldBefore, told],
  );
}

interface Words {
  readonly subject: string;
  readonly intro: string;
  readonly balance: string;
  readonly threshold: string;
  readonly creditLimit: string;
  readonly advice: string;
}

const words: Readonly<Record<Language, Words>> = {
  ru: {
    subject: 'Баланс снизился до порога уведомления',
    intro: 'Баланс вашей организации в процессинге снизился до порога, о котором вы просили сообщать.',
    balance: 'Баланс сейчас',
    threshold: 'Порог уведомления',
    creditLimit: 'Кредитный лимит',
    advice:
      'Пополните баланс: когда баланса и кредитного лимита не хватает, платежи получают код 220 и ждут пополнения.',
  },
  kk: {
    subject: 'Теңгерім хабарлау шегіне дейін төмендеді',
    intro: 'Ұйымыңыздың процессингтегі теңгерімі сіз хабарлауды сұраған шекке дейін төмендеді.',
    balance: 'Қазіргі теңгерім',
    threshold: 'Хабарлау шегі',
    creditLimit: 'Кредиттік лимит',
    advice:
      'Теңгерімді толықтырыңыз: теңгерім мен кредиттік лимит жетпегенде төлемдер 220 кодын алып, толықтыруды күтеді.',
  },
  en: {
    subject: 'The balance has fallen to the notification threshold',
    intro: 'Your balance at the payment centre has fallen to the threshold at which you asked to be told.',
    balance: 'Balance now',
    threshold: 'Notification threshold',
    creditLimit: 'Credit limit',
    advice:
      'Top it up: when the balance and the credit limit do not cover a payment, it gets code 220 and waits for a top-up.',
  },
};

function lowBalanceMail(claim: Claim): Mail {
  const { subject, intro, balance, threshold, creditLimit, advice } = words[claim.language];
  const money = (minor: bigint) => `${formatMinor(minor)} ${claim.currency}`;
  const text = [
    `${claim.name} (${claim.agentId})`,
    '',
    intro,
    '',
    `${balance}: ${money(claim.availableMinor)}`,
    `${threshold}: ${money(claim.notificationMinor)}`,
    `${creditLimit}: ${money(claim.creditLimitMinor)}`,
    '',
    advice,
    '',
  ].join('\n');
  return { to: claim.email, subject: `${subject}: ${money(claim.availableMinor)}`, text };
}
