-- Reads the table once; payments go on meanwhile.
alter table payment_events validate constraint payment_events_first_bound;
