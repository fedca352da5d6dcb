/**
 * A Nodemailer transport that puts messages into the outbox, in the transaction of your application. `enqueue` is that of
 * outbox-pg.js, outbox-knex.js or outbox-drizzle.js, whichever your transactions are of:
 *
 *   const transporter = nodemailer.createTransport(outboxTransport({ enqueue, kind: 'mail' }), { from: 'Shop <...>' });
 *   const { id } = await transporter.sendMail({ transaction: client, to, subject, text });
 *
 * The message is sent as Nodemailer has built it, if that transaction commits, and only then. `transaction` is what
 * `enqueue` takes: a client that said BEGIN, trx, tx. With a pool, knex or db the message is enqueued at once. Without
 * any, sendMail fails: this transport has no connection of its own.
 *
 * Headers named X-Hapax- are arguments of the outbox (X-Hapax-Kind, else `kind` from above; X-Hapax-Dedup-Key, ...): they
 * are taken out of the message. What the outbox refuses arrives as `enqueue` throws it.
 */
import { callbackify } from 'node:util';

const ARGUMENTS = ['kind', 'dedup_key', 'dedup_ttl', 'priority', 'not_before', 'expires_at', 'ordering_key', 'on_doubt',
  'route', 'tenant'];

// Nodemailer writes no header whose value is blank.
const omit = (message, name) => message.setHeader(name, name === 'Date' ? ' ' : { value: ' ' });

function takeArguments(message, names) {
  const taken = {};
  for (const name of names.filter((header) => /^x-hapax-/i.test(header))) {
    const argument = name.slice('x-hapax-'.length).toLowerCase().replaceAll('-', '_');
    if (!ARGUMENTS.includes(argument)) throw new TypeError(`sendMail: ${name} is no argument of the outbox`);
    if (argument in taken) continue; // a header of the transporter's defaults, written otherwise
    taken[argument] = message.getHeader(name);
    omit(message, name);
  }
  return taken;
}

/** @param {{ enqueue: (transaction: any, notification: any) => Promise<string>, kind?: string }} options */
export function outboxTransport({ enqueue, kind }) {
  const send = async ({ data, message }) => {
    if (!data.transaction) throw new TypeError('sendMail: transaction is missing: the one to enqueue the message in');
    const names = [data.headers].flat().flatMap((header) => header.key ?? Object.keys(header));
    const taken = takeArguments(message, names);
    // Nodemailer makes both anew for every message; Hapax makes a Message-ID that names the message in its own tables.
    const own = data.messageId || names.some((name) => /^message-id$/i.test(name));
    const messageId = own ? message.messageId() : undefined;
    if (!own) omit(message, 'Message-ID');
    if (!message.getHeader('Date')) omit(message, 'Date');

    const envelope = message.getEnvelope();
    const id = await enqueue(data.transaction, {
      ...taken,
      kind: taken.kind ?? kind,
      recipients: envelope.to,
      sender: envelope.from || undefined,
      raw_message: await message.build(),
    });
    return { id, envelope, messageId };
  };
  // There is no server to ask: whether the outbox can be reached, your transaction shows.
  const verify = (callback) => (callback ? callback(null, true) : Promise.resolve(true));
  return { name: 'outbox', version: '1.0.0', send: callbackify(send), verify };
}
