-- outbox.lanes_by_turns: in which of these lanes several tenants wait: there a claim goes by turns.
SELECT /* outbox.lanes_by_turns */ outbox.lanes_by_turns($1) AS lanes
