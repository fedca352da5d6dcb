-- The sample shop of `hapax demo`: its tables, and login roles with no more than they would have in production.
CREATE ROLE relay LOGIN PASSWORD '$PASSWORD' IN ROLE outbox_relay;
CREATE ROLE shop LOGIN PASSWORD '$PASSWORD' IN ROLE outbox_producer;
CREATE SCHEMA shop AUTHORIZATION shop;
CREATE TABLE shop.orders (
  id bigint PRIMARY KEY,
  customer text NOT NULL,
  total numeric NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE shop.orders OWNER TO shop;
