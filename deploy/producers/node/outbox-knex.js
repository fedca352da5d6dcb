/**
 * Enqueues an email with Knex, in the transaction that you pass:
 *
 *   await knex.transaction(async (trx) => {
 *     await trx('orders').insert({ email, total });
 *     await enqueue(trx, { kind: 'order_confirmed', recipients: [email], payload: { total } });
 *   });
 *
 * It is sent if that transaction commits, and only then. With `knex` in place of `trx` the statement takes a connection
 * of its own: the email is enqueued at once, whatever becomes of the order.
 *
 * What the outbox refuses is the DatabaseError of pg: `code` (22Hxx, 23H01), `message`, `hint`, `column`. Leave the
 * callback with it, so that Knex rolls back: Postgres takes nothing else in this transaction.
 */

// pg would write an array as an array of Postgres, and `attachments` is one of JSON.
const JSON_COLUMNS = ['payload', 'headers', 'attachments'];

/**
 * @param {import('knex').Knex} trx
 * @param {{ kind: string, recipients: string[], [column: string]: unknown }} notification the columns of
 *   outbox.notification: subject, body_text, dedup_key, ...; `\d+ outbox.notification` in psql explains each
 * @returns {Promise<string>} the id of the message, the first one's if the dedup_key is known already
 */
export async function enqueue(trx, notification) {
  const row = { ...notification };
  for (const name of JSON_COLUMNS) {
    if (row[name] !== undefined) row[name] = JSON.stringify(row[name]);
  }
  try {
    const [{ id }] = await trx('outbox.notification').insert(row).returning('id');
    return id;
  } catch (/** @type {any} */ error) {
    // Knex puts "<statement with all values> - " before the message: addresses and bodies that belong in no log.
    error.message = error.message.split(' - ').pop();
    throw error;
  }
}
