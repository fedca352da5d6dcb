-- outbox.look: in which of these lanes a claim would find something, and when the next delivery is due: one plain read for
-- an idle relay instead of a claim per lane. A hint: the claim decides, with all its guards. Each lane is walked in the
-- order of its index, from where $2 says up to the first hit. Who is registered as sleeping asks for a mark
-- ($4): a transaction number of its own, which only those lack that were assigned one before, and so may not have seen the
-- registration; they have all ended when the oldest open one is above the mark. $3: how many producers wait for each other
-- to notify.
SELECT /* outbox.look */ due, next_in_s, oldest, mark, waiting, reached FROM outbox.look_onward($1, $2, $3, $4)
