/** Security rules: which payments an operator looks at before they go on. */
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import type { SecurityRule } from '../core/catalogue.js';
import { formatMinor } from '../core/money.js';

const rulesMax = 1000;

/** Creates a rule or replaces the one with its id. Refuses a service or an agent that does not exist. */
export async function setRule(db: Database, rule: SecurityRule, operator: string): Promise<SecurityRule> {
  const { ruleId, amountAboveMinor, serviceId, agentId } = rule;
  if (!/^[\w.-]{1,64}$/.test(ruleId)) {
    throw new Refusal(`"${ruleId}" cannot name a rule; write 1 to 64 Latin letters, digits, dots, - and _.`);
  }
  if (amountAboveMinor < 0n)
    throw new Refusal(`The amount of rule ${ruleId} is below zero; give zero or more.`);
  return changing(db, operator, async (tx, audit) => {
    const { rows } = await tx.query<{ noService: boolean; noAgent: boolean; count: bigint }>(
      `select $1::text is not null and not exists (select 1 from services where service_id = $1) as "noService",
         $2::bigint is not null and not exists (select 1 from agents where agent_id = $2) as "noAgent",
         (select count(*) from security_rules where rule_id <> $3) as count`,
      [serviceId, agentId, ruleId],
    );
    const found = rows[0]!;
    if (found.noService) throw new Refusal(`Rule ${ruleId} was not set: there is no service "${serviceId}".`);
    if (found.noAgent) throw new Refusal(`Rule ${ruleId} was not set: there is no agent ${agentId}.`);
    if (found.count >= rulesMax) throw new Refusal(`There are ${rulesMax} rules already; remove one first.`);
    const before = (await readRules(tx)).find((each) => each.ruleId === ruleId);
    await tx.query(
      `insert into security_rules (rule_id, amount_above_minor, service_id, agent_id) values ($1, $2, $3, $4)
       on conflict (rule_id) do update set amount_above_minor = excluded.amount_above_minor,
         service_id = excluded.service_id, agent_id = excluded.agent_id`,
      [ruleId, amountAboveMinor, serviceId, agentId],
    );
    await audit('rule.set', `rule:${ruleId}`, { from: before ? inWords(before) : null, to: inWords(rule) });
    return rule;
  });
}

/** Refuses an unknown id. */
export async function removeRule(db: Database, ruleId: string, operator: string): Promise<void> {
  await changing(db, operator, async (tx, audit) => {
    const before = (await readRules(tx)).find((each) => each.ruleId === ruleId);
    if (!before) throw new Refusal(`There is no rule "${ruleId}"; look at the list of rules.`);
    await tx.query('delete from security_rules where rule_id = $1', [ruleId]);
    await audit('rule.remove', `rule:${ruleId}`, { from: inWords(before) });
  });
}

export async function readRules(db: Queryable): Promise<SecurityRule[]> {
  const { rows } = await db.query<SecurityRule>(
    `select rule_id as "ruleId", amount_above_minor as "amountAboveMinor", service_id as "serviceId",
       agent_id as "agentId"
     from security_rules order by rule_id`,
  );
  return rows;
}

function inWords(rule: SecurityRule) {
  return {
    amountAbove: formatMinor(rule.amountAboveMinor),
    serviceId: rule.serviceId,
    agentId: rule.agentId,
  };
}
