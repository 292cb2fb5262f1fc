-- The bound under which all that is told of payments so far becomes the first partition of 0005. Not proven yet: that reads
-- the table, and is done by itself (0004), so that nobody waits for it.
alter table payment_events add constraint payment_events_until_2027 check (at < '2027-01-01 00:00+00') not valid;
