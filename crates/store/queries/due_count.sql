-- outbox.due_count: how many deliveries are due and in nobody's hands, counted up to 20,000 per lane, for people.
SELECT /* outbox.due_count */ outbox.backlog() AS due
