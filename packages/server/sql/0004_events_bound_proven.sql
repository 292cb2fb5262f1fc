-- Reads the table once; payments go on meanwhile.
alter table payment_events validate constraint payment_events_until_2027;
