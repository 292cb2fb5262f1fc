/** The body that the load sends, with the digits of an id in their place. */
export function bodyOf(serviceId, id, date) {
  return (
    `{"serviceId":"${serviceId}","account":"7770111118","agentTransactionId":${id},` +
    `"agentTransactionDate":"${date}","amountTo":200.00,"amountFrom":200.00}`
  );
}
