/**
 * Enqueues an email with Drizzle ORM, in the transaction that you pass:
 *
 *   await db.transaction(async (tx) => {
 *     await tx.insert(orders).values({ email, total });
 *     await enqueue(tx, { kind: 'order_confirmed', recipients: [email], payload: { total } });
 *   });
 *
 * It is sent if that transaction commits, and only then. With `db` in place of `tx` the statement takes a connection of
 * its own: the email is enqueued at once, whatever becomes of the order.
 *
 * What the outbox refuses is the error of the driver, for pg a DatabaseError: `code` (22Hxx, 23H01), `message`, `hint`,
 * `column`. Leave the callback with it, so that Drizzle rolls back: Postgres takes nothing else in this transaction.
 */
import { customType, json, jsonb, pgSchema, text, timestamp, uuid } from 'drizzle-orm/pg-core';

const bytea = customType({ dataType: () => 'bytea' });
const interval = customType({ dataType: () => 'interval' });
const timestamptz = () => timestamp({ withTimezone: true, mode: 'string' });

// A view of the outbox, explained by `\d+ outbox.notification` in psql. Not exported: drizzle-kit would make it a table.
const notifications = pgSchema('outbox').table('notification', {
  id: uuid().notNull().defaultRandom(), // made by the outbox
  kind: text().notNull(),
  recipients: text().array().notNull(),
  cc: text().array(),
  bcc: text().array(),
  sender: text(),
  reply_to: text(),
  payload: json(), // this, or a subject with a body, or raw_message
  subject: text(),
  body_text: text(),
  body_html: text(),
  raw_message: bytea(),
  headers: jsonb(),
  attachments: jsonb(),
  not_before: timestamptz(),
  expires_at: timestamptz(),
  priority: text({ enum: ['urgent', 'normal', 'bulk'] }),
  ordering_key: text(),
  dedup_key: text(),
  dedup_ttl: interval(),
  on_doubt: text({ enum: ['hold', 'resend', 'assume_sent'] }),
  route: text(),
  tenant: text(),
  locale: text(),
  traceparent: text(),
  tracestate: text(),
});

/**
 * @param {Pick<import('drizzle-orm/pg-core').PgDatabase<any, any, any>, 'insert'>} tx
 * @param {Omit<typeof notifications.$inferInsert, 'id'>} notification
 * @returns {Promise<string>} the id of the message, the first one's if the dedup_key is known already
 */
export async function enqueue(tx, notification) {
  // TypeScript sees it; Drizzle itself would leave it out without a word.
  const unknown = Object.keys(notification).find((name) => !(name in notifications));
  if (unknown) throw new TypeError(`${unknown} is no argument of the outbox`);
  try {
    const [{ id }] = await tx.insert(notifications).values(notification).returning({ id: notifications.id });
    return id;
  } catch (/** @type {any} */ error) {
    // Drizzle's own error has all values in its message: addresses and bodies that belong in no log.
    throw error.cause ?? error;
  }
}
