-- outbox.address: whether the armed server has been met at this address before, and at which it has.
SELECT /* outbox.address */ outbox.address_is_known() AS known, o.address, o.port, outbox.addresses() AS others FROM outbox.own_address() o
