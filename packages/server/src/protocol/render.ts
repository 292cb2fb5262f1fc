import type { BalanceAnswer, CheckAnswer, PayAnswer, Shown } from '../core/answers.js';
import type { Language } from '../core/catalogue.js';
import { messageFor } from '../core/codes.js';
import { formatMinor, formatRate } from '../core/money.js';
import type { Contract, Invoice, InvoiceLine } from '../core/requests.js';

/** Answers are written by hand: numbers keep every digit and their scale, keys the order of the contract's examples. */

/** An answer that is only a code, to a request whose id may have been readable. */
export function renderCode(
  code: number,
  why: string | null,
  language: Language,
  id: bigint | null = null,
): string {
  return `{${head(code, why, language)}${id === null ? '' : `,"agentTransactionId":${id}`}}`;
}

export function renderCheck(answer: CheckAnswer, agentTransactionId: bigint, language: Language): string {
  return `{${head(answer.code, answer.reason, language)}${transactionId(answer)},"agentTransactionId":${
    agentTransactionId
  }${renderShown(answer, language)}}`;
}

/** `localTime` prints a moment in the centre's zone with milliseconds. */
export function renderPay(
  answer: PayAnswer,
  agentTransactionId: bigint,
  language: Language,
  localTime: (moment: Date) => string,
): string {
  const dates =
    answer.code === 0 && answer.acceptedAt && answer.finalAt
      ? `,"transactionDate":"${localTime(answer.acceptedAt)}","statusDate":"${localTime(answer.finalAt)}"`
      : '';
  return `{${head(answer.code, answer.reason, language)}${transactionId(answer)}${dates},"agentTransactionId":${
    agentTransactionId
  }${renderShown(answer, language)}}`;
}

export function renderBalance(balance: BalanceAnswer, language: Language): string {
  const agent = members([
    ['agentId', balance.agentId.toString()],
    ['agentName', JSON.stringify(balance.agentName)],
    ['balance', formatMinor(balance.availableMinor, 4)],
    ['overdraft', formatMinor(balance.creditLimitMinor, 4)],
    ['notification', formatMinor(balance.notificationMinor, 4)],
    ['currency', JSON.stringify(balance.currency)],
  ]);
  return `{${head(0, null, language)},"agent":{${agent}}}`;
}

export function renderOperator(
  answer: { readonly code: number; readonly reason: string | null; readonly serviceId: string | null },
  language: Language,
): string {
  const serviceId = answer.serviceId === null ? '' : `,"serviceId":${JSON.stringify(answer.serviceId)}`;
  return `{${head(answer.code, answer.reason, language)}${serviceId}}`;
}

/** The two members that every answer begins with. */
export function head(code: number, why: string | null, language: Language): string {
  return `"result":${code},"resultMessage":${JSON.stringify(messageFor(code, language, why))}`;
}

function transactionId(answer: CheckAnswer): string {
  return answer.transactionId === null ? '' : `,"transactionId":${answer.transactionId}`;
}

function renderShown(answer: CheckAnswer, language: Language): string {
  const shown = answer.shown;
  if (shown === null) return '';
  let text = '';
  if (shown.displays) text += `,"displays":${JSON.stringify(shown.displays)}`;
  if (shown.contracts) text += `,"contracts":[${shown.contracts.map(renderContract).join()}]`;
  if (shown.invoices) text += `,"invoice":{"invoices":[${shown.invoices.map(renderInvoice).join()}]}`;
  // The contract gives the rate only with result 0.
  if (shown.conversion && answer.code === 0) text += `,${renderConversion(shown.conversion, language)}`;
  return text;
}

const rateWords: Readonly<Record<Language, string>> = {
  ru: 'Курс конвертации',
  kk: 'Айырбастау бағамы',
  en: 'Conversion rate',
};

function renderConversion(conversion: NonNullable<Shown['conversion']>, language: Language): string {
  const { from, to, rateE10, finalAmountMinor } = conversion;
  const rateE4 = ((rateE10 + 500_000n) / 1_000_000n).toString().padStart(5, '0');
  const currencyRate = `${rateWords[language]} ${from}/${to} ${rateE4.slice(0, -4)}.${rateE4.slice(-4)}`;
  return members([
    ['currencyRate', JSON.stringify(currencyRate)],
    ['rate', formatRate(rateE10)],
    ['finalAmount', finalAmountMinor === null ? undefined : formatMinor(finalAmountMinor)],
    ['currency', JSON.stringify(to)],
  ]);
}

function renderContract(contract: Contract): string {
  return `{${members([
    ['name', quoted(contract.name)],
    ['contractId', quoted(contract.contractId)],
    ['contractNumber', quoted(contract.contractNumber)],
    ['contractSum', quoted(contract.contractSum)],
    ['contractDate', quoted(contract.contractDate)],
  ])}}`;
}

function renderInvoice(invoice: Invoice): string {
  return `{${members([
    ['invoiceId', quoted(invoice.invoiceId)],
    ['formedDate', quoted(invoice.formedDate)],
    ['expireDate', quoted(invoice.expireDate)],
    ['clientName', quoted(invoice.clientName)],
    ['clientAddress', quoted(invoice.clientAddress)],
    ['services', `[${invoice.lines.map(renderInvoiceLine).join()}]`],
  ])}}`;
}

function renderInvoiceLine(line: InvoiceLine): string {
  const data = members([
    ['paySum', amount(line.paySumMinor)],
    ['tariff', amount(line.tariffMinor)],
    ['minSum', amount(line.minSumMinor)],
    ['maxSum', amount(line.maxSumMinor)],
    ['debtInfo', quoted(line.debtInfo)],
    ['isMeter', line.isMeter?.toString()],
    ['prevCount', quoted(line.prevCount)],
    ['lastCount', quoted(line.lastCount)],
    ['si', quoted(line.si)],
    ['comment', quoted(line.comment)],
  ]);
  return `{${members([
    ['subServiceId', quoted(line.subServiceId)],
    ['subServiceName', quoted(line.subServiceName)],
    ['data', data === '' ? undefined : `{${data}}`],
  ])}}`;
}

/** The members of an object; those without a literal are left out. */
export function members(pairs: readonly (readonly [key: string, literal: string | undefined])[]): string {
  return pairs
    .filter(([, literal]) => literal !== undefined)
    .map(([key, literal]) => `"${key}":${literal}`)
    .join();
}

function quoted(text: string | undefined): string | undefined {
  return text === undefined ? undefined : JSON.stringify(text);
}

function amount(amountMinor: bigint | undefined): string | undefined {
  return amountMinor === undefined ? undefined : formatMinor(amountMinor, 1);
}
