/** What the sandbox provider knows: how the end of an account scripts the outcome, and what it offers per service. */

/** One row of the table of SPEC §11. */
export interface Script {
  /** A number is a refusal with that code. */
  readonly check: 'ok' | 'hangs' | number;
  /** `lost`: taken and never resolved. `cut_first`: the first request is cut before anything happens. */
  readonly pay: 'executes' | 'lost' | 'cut_first' | number;
  /** The end comes settleMs after acceptance; until then the answer and the status say pending. */
  readonly later: boolean;
  /** How the answer to an executed payment leaves. */
  readonly answer: 'plain' | 'cut' | 'slow' | 'http_500' | 'malformed';
}

const plain: Script = { check: 'ok', pay: 'executes', later: false, answer: 'plain' };

const scripts: ReadonlyMap<string, Script> = new Map([
  ['0005', { ...plain, check: 5, pay: 5 }],
  ['0007', { ...plain, pay: 7 }],
  ['0241', { ...plain, pay: 241 }],
  ['0242', { ...plain, pay: 242 }],
  ['0300', { ...plain, pay: 300 }],
  ['0001', { ...plain, later: true }],
  ['0002', { ...plain, later: true, pay: 300 }],
  ['0090', { ...plain, answer: 'cut' }],
  ['0091', { ...plain, pay: 'cut_first' }],
  ['0092', { ...plain, answer: 'slow' }],
  ['0093', { ...plain, pay: 'lost' }],
  ['0094', { ...plain, answer: 'http_500' }],
  ['0095', { ...plain, answer: 'malformed' }],
  ['0096', { ...plain, check: 'hangs' }],
]);

export function scriptOf(account: string): Script {
  return scripts.get(account.slice(-4)) ?? plain;
}

/** The agent contract's own example of a utility bill. */
const invoice = {
  invoiceId: '2020020003535444',
  formedDate: '20200201000000',
  expireDate: '20200229000000',
  clientName: 'Иванов Иван Иванович',
  clientAddress: 'микрорайон 2, дом 42, кв.4',
  services: [
    {
      subServiceId: '36',
      subServiceName: 'Электроэнергия',
      paySum: '359.80',
      tariff: '0.00',
      minSum: '0.00',
      maxSum: '0.00',
      debtInfo: '0.00',
      isMeter: true,
      prevCount: '4870.00',
      lastCount: '0.00',
      si: 'тг/м2',
      comment: '',
    },
    {
      subServiceId: '13',
      subServiceName: 'ТО газа ',
      paySum: '80.00',
      tariff: '0.00',
      minSum: '0.00',
      maxSum: '0.00',
      debtInfo: '0.00',
      isMeter: false,
      prevCount: '0.00',
      lastCount: '0.00',
      si: 'тг/плита',
      comment: '',
    },
    {
      subServiceId: '2',
      subServiceName: 'Отопление',
      paySum: '925.20',
      tariff: '500.00',
      minSum: '0.00',
      maxSum: '0.00',
      debtInfo: '0.00',
      isMeter: false,
      prevCount: '0.00',
      lastCount: '0.00',
      si: 'тг/м2',
      comment: '',
    },
  ],
};

const contract = (contractId: string, contractNumber: string, contractSum: string, contractDate: string) => ({
  contractId,
  name: 'Петров',
  contractNumber,
  contractSum,
  contractDate,
});

/** What `check` adds for a service; `mobile`, `game` and codes that are not listed add nothing. */
export const offers: ReadonlyMap<string, object> = new Map<string, object>([
  [
    'herbalife',
    { displays: { fio: 'Test fio', info: 'Сумма к оплате 20000.00 тенге', fixedAmount: '20000.00' } },
  ],
  ['alseco', { invoices: [invoice] }],
  [
    'bank',
    {
      contracts: [
        contract('000000587', '1/00-Ф', '1000.00', '20200215000000'),
        contract('000000588', '2/00-Ф', '2000.00', '20200216000000'),
        contract('000000589', '3/00-Ф', '3000.00', '20200217000000'),
      ],
    },
  ],
]);
