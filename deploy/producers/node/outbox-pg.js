/**
 * Enqueues an email with node-postgres (pg), in the transaction of the client that you pass:
 *
 *   await client.query('BEGIN');
 *   await client.query('INSERT INTO orders (email, total) VALUES ($1, $2)', [email, total]);
 *   const id = await enqueue(client, { kind: 'order_confirmed', recipients: [email], payload: { total } });
 *   await client.query('COMMIT');
 *
 * It is sent if that transaction commits, and only then. Pass the client that said BEGIN: a Pool takes any connection
 * that is free, so with `pool`, as without BEGIN, the email is enqueued at once, whatever becomes of the order.
 *
 * What the outbox refuses is pg's DatabaseError: `code` (22Hxx, 23H01), `message`, `hint`, `column`. After it Postgres
 * takes nothing but ROLLBACK on this client.
 */

/**
 * The columns of outbox.notification; `\d+ outbox.notification` in psql explains each.
 *
 * @typedef {object} Notification
 * @property {string} kind
 * @property {string[]} recipients
 * @property {string[]} [cc]
 * @property {string[]} [bcc]
 * @property {string} [sender]
 * @property {string} [reply_to]
 * @property {object} [payload] this, or a subject with a body, or raw_message
 * @property {string} [subject]
 * @property {string} [body_text]
 * @property {string} [body_html]
 * @property {Buffer} [raw_message]
 * @property {Record<string, string>} [headers]
 * @property {{ filename: string, content_base64: string, content_type?: string, content_id?: string }[]} [attachments]
 * @property {Date | string} [not_before]
 * @property {Date | string} [expires_at]
 * @property {'urgent' | 'normal' | 'bulk'} [priority]
 * @property {string} [ordering_key]
 * @property {string} [dedup_key]
 * @property {string} [dedup_ttl]
 * @property {'hold' | 'resend' | 'assume_sent'} [on_doubt]
 * @property {string} [route]
 * @property {string} [tenant]
 * @property {string} [locale]
 * @property {string} [traceparent]
 * @property {string} [tracestate]
 */

// pg would write an array as an array of Postgres, and `attachments` is one of JSON.
const JSON_COLUMNS = ['payload', 'headers', 'attachments'];

/**
 * @param {import('pg').ClientBase | import('pg').Pool} client
 * @param {Notification} notification
 * @returns {Promise<string>} the id of the message, the first one's if the dedup_key is known already
 */
export async function enqueue(client, notification) {
  const given = Object.entries(notification).filter(([, value]) => value !== undefined);
  const columns = given.map(([name]) => `"${name.replaceAll('"', '""')}"`);
  const values = given.map(([name, value]) => (JSON_COLUMNS.includes(name) ? JSON.stringify(value) : value));
  const places = given.map((_, index) => `$${index + 1}`);
  const { rows } = await client.query(
    `INSERT INTO outbox.notification (${columns}) VALUES (${places}) RETURNING id`, values);
  return rows[0].id;
}
