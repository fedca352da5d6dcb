// The side of Node in `make render-bench`; see crates/render/examples/render_bench.rs for the commands it takes.
//
// mjml         Handlebars over HTML, both made once from the MJML: placeholders go through mjml2html as they are
// mjml-each    Handlebars (compiled once) over the MJML, then mjml2html, for each message: what Hapax does
// html         Handlebars over HTML, compiled once
// *-uncached   everything for each message

import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import Handlebars from 'handlebars';
import mjml2html from 'mjml';
import nodemailer from 'nodemailer';

const [directory, payloads] = process.argv.slice(2);
const read = (file) => readFileSync(`${directory}/${file}`, 'utf8');
const texts = { subject: read('subject.txt'), text: read('body.txt') };
const bodies = { html: read('body.html'), mjml: read('body.mjml') };
const orders = readFileSync(payloads, 'utf8').trim().split('\n');
const transport = nodemailer.createTransport({ streamTransport: true, buffer: true, newline: 'windows' });

async function toHtml(mjml) {
  const { html, errors } = await mjml2html(mjml);
  if (errors.length) throw new Error('bad mjml');
  return html;
}

const plain = (text) => Handlebars.compile(text, { noEscape: true });
const compile = (html) => ({ subject: plain(texts.subject), text: plain(texts.text), html: Handlebars.compile(html) });

async function mail(templates, order, then = (html) => html) {
  const payload = JSON.parse(order);
  const { message } = await transport.sendMail({
    from: 'Shop <no-reply@shop.example>',
    to: 'Ada Lovelace <ada@example.org>',
    subject: templates.subject(payload).trim(),
    text: templates.text(payload),
    html: await then(templates.html(payload)),
  });
  return message;
}

const [once, each, html] = [compile(await toHtml(bodies.mjml)), compile(bodies.mjml), compile(bodies.html)];
const cases = {
  mjml: (order) => mail(once, order),
  'mjml-each': (order) => mail(each, order, toHtml),
  html: (order) => mail(html, order),
  'mjml-uncached': (order) => mail(compile(bodies.mjml), order, toHtml),
  'html-uncached': (order) => mail(compile(bodies.html), order),
};

for await (const line of createInterface({ input: process.stdin })) {
  const words = line.split(' ');
  if (words[0] === 'show') {
    writeFileSync(words[2], await cases[words[1]](orders[0]));
    console.log('0');
    continue;
  }
  const [one, count] = [cases[words[0]], Number(words[1])];
  const start = process.hrtime.bigint();
  for (let number = 0; number < count; number += 1) await one(orders[number % orders.length]);
  console.log(String(process.hrtime.bigint() - start));
}
