// drive.js RECIPE SCENARIO: runs one recipe as an application would, prints one JSON object. RECIPE is a library of
// databases.js, or nodemailer, or nodemailer-LIBRARY: the transport in a transaction of that library (of pg).
import nodemailer from 'nodemailer';

import { outboxTransport } from '../../../deploy/producers/node/outbox-transport.js';
import { databases } from './databases.js';
import { messages } from './messages.js';

const [recipe, scenario] = process.argv.slice(2);
const { DATABASE_URL, SMTP_PORT, TAG } = process.env;
const [, mailer, library] = /^(nodemailer)?-?(.*)$/.exec(recipe ?? '');
const open = databases[library || 'pg'];
if (!open) throw new Error(`no recipe ${recipe}`);

class Rollback extends Error {}

const shop = open(DATABASE_URL);
const transporter = nodemailer.createTransport(
  outboxTransport({ enqueue: shop.enqueue, kind: 'order_confirmed' }), { from: 'Shop <no-reply@shop.example>' });

/** The notification of one event, built anew. `to` need not be an address. */
async function notify(transaction, to, dedupKey) {
  if (!mailer) {
    return shop.enqueue(transaction, {
      kind: 'order_confirmed', recipients: [to], subject: 'Your order', body_text: 'Thank you.', dedup_key: dedupKey });
  }
  const message = { transaction, to, subject: 'Your order', text: 'Thank you.' };
  if (dedupKey) message.headers = { 'X-Hapax-Dedup-Key': dedupKey };
  // Nodemailer drops what is no address, unless the application says itself who the recipients are.
  if (!to.includes('@')) message.envelope = { from: 'no-reply@shop.example', to };
  return (await transporter.sendMail(message)).id;
}

function order(to, dedupKey) {
  return shop.transaction(async (transaction) => {
    await shop.order(transaction, to);
    return notify(transaction, to, dedupKey);
  });
}

const scenarios = {
  commit: async () => ({ ids: [await order(`commit.${TAG}@example.org`)] }),

  async rollback() {
    const ids = [];
    const to = `rollback.${TAG}@example.org`;
    await shop.transaction(async (transaction) => {
      await shop.order(transaction, to);
      ids.push(await notify(transaction, to));
      throw new Rollback();
    }).catch((error) => {
      if (!(error instanceof Rollback)) throw error;
    });
    return { ids };
  },

  async twice() {
    const to = `twice.${TAG}@example.org`;
    return { ids: [await order(to, `${TAG}-confirmed`), await order(to, `${TAG}-confirmed`)] };
  },

  async bad() {
    const errors = [];
    await shop.transaction(async (transaction) => {
      await shop.order(transaction, `bad.${TAG}@example.org`);
      await notify(transaction, `bad.${TAG}`);
    }).catch(({ code, message, hint }) => errors.push({ sqlstate: code, message, hint }));
    return { ids: [await order(`after.${TAG}@example.org`)], errors };
  },
};

if (mailer) {
  scenarios['send-outbox'] = () => shop.transaction(async (transaction) => {
    for (const message of messages()) await transporter.sendMail({ ...message, transaction });
    return { cases: messages().length };
  });
  scenarios['send-smtp'] = async () => {
    const smtp = nodemailer.createTransport({ host: '127.0.0.1', port: Number(SMTP_PORT), ignoreTLS: true });
    for (const message of messages()) await smtp.sendMail(message);
    smtp.close();
    return { cases: messages().length };
  };
}

if (!scenarios[scenario]) throw new Error(`no scenario ${scenario} of ${recipe}`);
const result = await scenarios[scenario]();
await shop.close();
console.log(JSON.stringify(result));
