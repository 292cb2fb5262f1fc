-- A minute of what went to providers is looked at every half minute. By blocks it cannot be found while they are new: those
-- that no vacuum has summarized are read whole, which are all of a busy hour. One entry a payment, always at the right edge.
drop index transfers_created;
create index transfers_of_providers on transfers (created_at)
  where credit_account like 'provider:%' or debit_account like 'provider:%';
