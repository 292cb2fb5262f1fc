/**
 * The result codes of the agent protocol and everything the centre says about them. One registry: `docs/errors.md` is
 * held against it by a test, and no other file spells a message to an agent.
 */
import type { Language } from './catalogue.js';

export interface CodeFacts {
  readonly code: number;
  readonly name: string;
  readonly final: boolean;
  readonly text: Readonly<Record<Language, string>>;
}

const code = (
  value: number,
  name: string,
  final: boolean,
  ru: string,
  kk: string,
  en: string,
): CodeFacts => ({
  code: value,
  name,
  final,
  text: { ru, kk, en },
});

export const codes: readonly CodeFacts[] = [
  code(0, 'ok', true, 'Успешно', 'Сәтті', 'OK'),
  code(
    1,
    'in_progress',
    false,
    'Запрос в обработке, повторите его позже без изменений',
    'Сұрау өңделуде, оны кейінірек өзгертусіз қайталаңыз',
    'The request is being processed; repeat it later unchanged',
  ),
  code(
    4,
    'account_format',
    true,
    'Неверный формат идентификатора абонента: проверьте номер и создайте новый платёж',
    'Абонент идентификаторының пішімі қате: нөмірді тексеріп, жаңа төлем жасаңыз',
    'The account is malformed: check the number and make a new payment',
  ),
  code(
    5,
    'account_unknown',
    true,
    'Абонент не найден: проверьте номер и создайте новый платёж',
    'Абонент табылмады: нөмірді тексеріп, жаңа төлем жасаңыз',
    'The account was not found: check the number and make a new payment',
  ),
  code(
    7,
    'provider_refused',
    true,
    'Провайдер не принимает этот платёж: верните деньги плательщику или обратитесь к провайдеру',
    'Провайдер бұл төлемді қабылдамайды: ақшаны төлеушіге қайтарыңыз немесе провайдерге хабарласыңыз',
    'The provider does not accept this payment: return the money to the payer or ask the provider',
  ),
  code(
    8,
    'maintenance',
    true,
    'Приём платежей по услуге временно закрыт по техническим причинам: создайте новый платёж позже',
    'Қызмет бойынша төлем қабылдау техникалық себептермен уақытша жабық: кейінірек жаңа төлем жасаңыз',
    'The service is closed for maintenance: make a new payment later',
  ),
  code(
    130,
    'service_unknown',
    true,
    'Такой услуги нет: обновите список услуг запросом services',
    'Мұндай қызмет жоқ: қызметтер тізімін services сұрауымен жаңартыңыз',
    'There is no such service: refresh the list with services',
  ),
  code(
    153,
    'in_review',
    false,
    'Платёж на проверке службы безопасности: повторяйте запрос без изменений до окончательного кода',
    'Төлем қауіпсіздік қызметінің тексеруінде: түпкілікті код келгенше сұрауды өзгертусіз қайталаңыз',
    'The payment is under security review: repeat the request unchanged until a final code',
  ),
  code(
    155,
    'service_forbidden',
    true,
    'Приём платежей по этой услуге вам не разрешён: обратитесь к менеджеру процессинга',
    'Бұл қызмет бойынша төлем қабылдау сізге рұқсат етілмеген: процессинг менеджеріне хабарласыңыз',
    'You are not allowed to sell this service: ask the manager of the centre',
  ),
  code(
    202,
    'bad_request',
    true,
    'Ошибка в данных запроса',
    'Сұрау деректерінде қате бар',
    'The request data are wrong',
  ),
  code(
    215,
    'id_taken',
    true,
    'Транзакция с таким agentTransactionId уже есть с другими данными: используйте новый номер',
    'Осындай agentTransactionId басқа деректермен бар: жаңа нөмір пайдаланыңыз',
    'A payment with this agentTransactionId exists with other details: use a new id',
  ),
  code(
    220,
    'awaiting_funds',
    false,
    'Недостаточно средств на балансе: пополните баланс, платёж продолжится сам',
    'Теңгерімде қаражат жеткіліксіз: теңгерімді толықтырыңыз, төлем өзі жалғасады',
    'Not enough funds: top up the balance, the payment goes on by itself',
  ),
  code(241, 'amount_below', true, 'Сумма слишком мала', 'Сома тым аз', 'The amount is too small'),
  code(242, 'amount_above', true, 'Сумма слишком велика', 'Сома тым үлкен', 'The amount is too large'),
  code(
    250,
    'not_funded',
    true,
    'Баланс не был пополнен вовремя, платёж отменён: пополните баланс и создайте новый платёж',
    'Теңгерім уақытында толықтырылмады, төлем тоқтатылды: теңгерімді толықтырып, жаңа төлем жасаңыз',
    'The balance was not topped up in time, the payment is cancelled: top up and make a new payment',
  ),
  code(
    255,
    'added_fee',
    false,
    'Недопустимая дополнительная комиссия: amountFrom больше разрешённого тарифом',
    'Қосымша комиссия рұқсат етілмейді: amountFrom тарифте рұқсат етілгеннен көп',
    'The added fee is not allowed: amountFrom is above what the tariff permits',
  ),
  code(
    300,
    'other',
    true,
    'Платёж отклонён: верните деньги плательщику, за подробностями обратитесь в процессинг',
    'Төлем қабылданбады: ақшаны төлеушіге қайтарыңыз, толығырақ процессингтен біліңіз',
    'The payment was rejected: return the money to the payer; ask the centre for details',
  ),
];

const byCode: ReadonlyMap<number, CodeFacts> = new Map(codes.map((each) => [each.code, each]));

export function codeFacts(value: number): CodeFacts {
  const facts = byCode.get(value);
  if (!facts) throw new Error(`result code ${value} is not in the registry`);
  return facts;
}

/**
 * Why exactly: a key of this table with its values, stored with the payment as `key|value|value` so that repeats answer
 * the same words. `{0}` and `{1}` are the values.
 */
export const reasons: Readonly<
  Record<string, { readonly code: number; readonly text: Readonly<Record<Language, string>> }>
> = {
  field_missing: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: нет поля {0}; добавьте его',
      kk: 'Сұрау деректерінде қате: {0} өрісі жоқ; оны қосыңыз',
      en: 'The request data are wrong: field {0} is missing; add it',
    },
  },
  field_malformed: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: поле {0} имеет неверный вид; исправьте его',
      kk: 'Сұрау деректерінде қате: {0} өрісінің пішімі қате; оны түзетіңіз',
      en: 'The request data are wrong: field {0} is malformed; correct it',
    },
  },
  field_contradicts: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: поле {0} противоречит {1}; исправьте запрос',
      kk: 'Сұрау деректерінде қате: {0} өрісі {1} мәніне қайшы; сұрауды түзетіңіз',
      en: 'The request data are wrong: field {0} contradicts {1}; correct the request',
    },
  },
  body_malformed: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: тело не является правильным JSON-объектом ({0})',
      kk: 'Сұрау деректерінде қате: дене дұрыс JSON нысаны емес ({0})',
      en: 'The request data are wrong: the body is not a valid JSON object ({0})',
    },
  },
  body_syntax: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: тело не читается как JSON около символа {0}; проверьте кавычки, запятые и скобки',
      kk: 'Сұрау деректерінде қате: дене {0}-таңба маңында JSON ретінде оқылмайды; тырнақша, үтір және жақшаларды тексеріңіз',
      en: 'The request data are wrong: the body is not JSON near character {0}; check quotes, commas and brackets',
    },
  },
  body_encoding: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: тело не в кодировке UTF-8; отправляйте UTF-8',
      kk: 'Сұрау деректерінде қате: дене UTF-8 кодтауында емес; UTF-8 жіберіңіз',
      en: 'The request data are wrong: the body is not in UTF-8; send UTF-8',
    },
  },
  body_depth: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: вложенность глубже {0}; уменьшите её',
      kk: 'Сұрау деректерінде қате: кірістіру деңгейі {0} санынан артық; оны азайтыңыз',
      en: 'The request data are wrong: nesting is deeper than {0}; reduce it',
    },
  },
  key_repeated: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: поле {0} указано дважды; оставьте одно',
      kk: 'Сұрау деректерінде қате: {0} өрісі екі рет берілген; біреуін қалдырыңыз',
      en: 'The request data are wrong: field {0} is given twice; keep one',
    },
  },
  text_forbidden: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: в строке есть \\u0000 или половина суррогатной пары; уберите их',
      kk: 'Сұрау деректерінде қате: жолда \\u0000 немесе суррогат жұптың жартысы бар; оларды алып тастаңыз',
      en: 'The request data are wrong: a string holds \\u0000 or half of a surrogate pair; remove it',
    },
  },
  content_type: {
    code: 202,
    text: {
      ru: 'Ошибка в данных запроса: отправляйте Content-Type: application/json',
      kk: 'Сұрау деректерінде қате: Content-Type: application/json жіберіңіз',
      en: 'The request data are wrong: send Content-Type: application/json',
    },
  },
  amount_below: {
    code: 241,
    text: {
      ru: 'Сумма слишком мала: не меньше {0}',
      kk: 'Сома тым аз: кемінде {0}',
      en: 'The amount is too small: at least {0}',
    },
  },
  amount_above: {
    code: 242,
    text: {
      ru: 'Сумма слишком велика: не больше {0}',
      kk: 'Сома тым үлкен: ең көбі {0}',
      en: 'The amount is too large: at most {0}',
    },
  },
  added_fee: {
    code: 255,
    text: {
      ru: 'Недопустимая дополнительная комиссия: сверх суммы можно взять не больше {0}',
      kk: 'Қосымша комиссия рұқсат етілмейді: сомадан тыс ең көбі {0} алуға болады',
      en: 'The added fee is not allowed: at most {0} may be taken on top of the amount',
    },
  },
  no_rate: {
    code: 300,
    text: {
      ru: 'Нет курса {0}: обратитесь в процессинг',
      kk: '{0} бағамы жоқ: процессингке хабарласыңыз',
      en: 'There is no rate for {0}: ask the centre',
    },
  },
  rate_too_old: {
    code: 300,
    text: {
      ru: 'Курс {0} устарел, продажа остановлена: верните деньги плательщику и создайте новый платёж позже',
      kk: '{0} бағамы ескірген, сату тоқтатылды: ақшаны төлеушіге қайтарып, кейінірек жаңа төлем жасаңыз',
      en: 'The rate {0} is too old, sales are stopped: return the money to the payer and make a new payment later',
    },
  },
  review_rejected: {
    code: 300,
    text: {
      ru: 'Платёж отклонён службой безопасности: верните деньги плательщику',
      kk: 'Төлемді қауіпсіздік қызметі қабылдамады: ақшаны төлеушіге қайтарыңыз',
      en: 'The payment was rejected by the security service: return the money to the payer',
    },
  },
  operator_closed: {
    code: 300,
    text: {
      ru: 'Платёж не был исполнен провайдером и закрыт оператором: верните деньги плательщику',
      kk: 'Төлемді провайдер орындамады, оператор жапты: ақшаны төлеушіге қайтарыңыз',
      en: 'The provider did not execute the payment and an operator closed it: return the money to the payer',
    },
  },
  terms_not_met: {
    code: 300,
    text: {
      ru: 'Дополнительная комиссия так и не была разрешена, платёж отменён: верните деньги плательщику',
      kk: 'Қосымша комиссияға рұқсат берілмеді, төлем тоқтатылды: ақшаны төлеушіге қайтарыңыз',
      en: 'The added fee was never allowed, the payment is cancelled: return the money to the payer',
    },
  },
};

export function reason(key: string, ...values: string[]): string {
  return [key, ...values.map((value) => value.replaceAll('|', '/'))].join('|');
}

/** The words for a code in a language, more exact where the reason is known. */
export function messageFor(resultCode: number, language: Language, why: string | null = null): string {
  if (why !== null) {
    const [key, ...values] = why.split('|');
    const template = reasons[key!];
    if (template && template.code === resultCode) {
      return template.text[language].replace(/\{(\d)\}/g, (_, index: string) => values[Number(index)] ?? '');
    }
  }
  return codeFacts(resultCode).text[language];
}

/**
 * Answers without a `result` field: nothing was decided about the payment, so the agent repeats the request unchanged.
 * The key is the `error` field of the body.
 */
export const httpErrors = {
  malformed_http: {
    status: 400,
    text: {
      ru: 'Запрос нарушает правила HTTP: проверьте заголовки и длину тела',
      kk: 'Сұрау HTTP ережелеріне сай емес: тақырыптар мен дене ұзындығын тексеріңіз',
      en: 'The request breaks the rules of HTTP: check its headers and the length of its body',
    },
  },
  unauthorized: {
    status: 401,
    text: {
      ru: 'Нет действующего токена: отправьте Authorization: Bearer с подтверждённым токеном из личного кабинета',
      kk: 'Жарамды токен жоқ: жеке кабинеттегі расталған токенмен Authorization: Bearer жіберіңіз',
      en: 'There is no valid token: send Authorization: Bearer with a confirmed token from your cabinet',
    },
  },
  address_not_allowed: {
    status: 403,
    text: {
      ru: 'Адрес не разрешён: добавьте его в личном кабинете, раздел «Настройки протокола»',
      kk: 'Мекенжайға рұқсат жоқ: оны жеке кабинетте, «Хаттама баптаулары» бөлімінде қосыңыз',
      en: 'The address is not allowed: add it in your cabinet, section “Protocol settings”',
    },
  },
  agent_blocked: {
    status: 403,
    text: {
      ru: 'Агент заблокирован: обратитесь к менеджеру процессинга',
      kk: 'Агент бұғатталған: процессинг менеджеріне хабарласыңыз',
      en: 'The agent is blocked: ask the manager of the centre',
    },
  },
  not_found: {
    status: 404,
    text: {
      ru: 'Такого адреса нет: проверьте путь запроса, например /api/v20/pay',
      kk: 'Мұндай мекенжай жоқ: сұрау жолын тексеріңіз, мысалы /api/v20/pay',
      en: 'There is no such path: check it, for example /api/v20/pay',
    },
  },
  method_not_allowed: {
    status: 405,
    text: {
      ru: 'Этот метод HTTP не поддерживается: отправьте POST',
      kk: 'Бұл HTTP әдісіне қолдау жоқ: POST жіберіңіз',
      en: 'This HTTP method is not supported: send POST',
    },
  },
  request_timeout: {
    status: 408,
    text: {
      ru: 'Запрос не был передан вовремя: повторите его',
      kk: 'Сұрау уақытында берілмеді: оны қайталаңыз',
      en: 'The request did not arrive in time: repeat it',
    },
  },
  body_too_large: {
    status: 413,
    text: {
      ru: 'Тело запроса больше 64 КиБ: уменьшите его',
      kk: 'Сұрау денесі 64 КиБ-тан үлкен: оны кішірейтіңіз',
      en: 'The body is over 64 KiB: make it smaller',
    },
  },
  headers_too_large: {
    status: 431,
    text: {
      ru: 'Заголовки запроса слишком велики: уменьшите их',
      kk: 'Сұрау тақырыптары тым үлкен: оларды кішірейтіңіз',
      en: 'The headers are too large: make them smaller',
    },
  },
} as const satisfies Readonly<
  Record<string, { readonly status: number; readonly text: Readonly<Record<Language, string>> }>
>;
export type HttpError = keyof typeof httpErrors;
