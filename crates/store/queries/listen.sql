-- outbox.listen: on a connection of its own, which no pool hands on.
LISTEN /* outbox.listen */ hapax
