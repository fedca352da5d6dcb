// The messages that go both ways, by SMTP and through the outbox: each is an object as an application would give it to
// sendMail, made anew by every call.
import { Readable } from 'node:stream';

const FROM = 'Shop <no-reply@shop.example>';
const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64');
const EVERY_BYTE = Buffer.from(Array.from({ length: 1024 }, (_, index) => (index * 7) % 256));
const FORWARDED = [
  'From: Olivia <olivia@example.net>', 'To: shop@shop.example', 'Subject: Where is it?',
  'Date: Thu, 01 Jan 2026 10:00:00 +0000', 'Message-ID: <question@example.net>', 'MIME-Version: 1.0',
  'Content-Type: text/plain; charset=utf-8', 'Content-Transfer-Encoding: 8bit', '', 'Wo ist das Päckchen?', '',
].join('\r\n');

const cases = () => ({
  plain: { to: 'ada@example.org', subject: 'Your order 42', text: 'Thank you.\nTotal: 19.90 EUR\n' },
  'text-not-ascii': {
    to: 'bob@example.org', subject: 'Bestellung bestätigt', text: 'Danke schön, 19,90 € — bis bald.\n',
  },
  'text-mostly-not-ascii': {
    to: 'bob@example.org', subject: '注文の確認', text: 'ご注文ありがとうございます。合計：１９９０円\n',
  },
  'html-only': { to: 'ada@example.org', subject: 'Only HTML', html: '<p>Thank you, <b>Ada</b>.</p>' },
  'html-and-text': {
    to: 'Ada Lovelace <ada@example.org>', subject: 'Two forms',
    text: 'Thank you, naïve reader.', html: '<p>Thank you, <i>naïve</i> reader.</p>',
  },
  'three-alternatives': {
    to: 'grace@example.org', subject: 'An invitation', text: 'Monday at ten', html: '<p>Monday at <b>ten</b></p>',
    alternatives: [{ contentType: 'text/x-web-markdown', content: '**Monday** at ten' }],
    icalEvent: {
      filename: 'monday.ics', method: 'REQUEST',
      content: 'BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//shop//EN\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\n'
        + 'UID:1@shop.example\r\nDTSTAMP:20260101T100000Z\r\nDTSTART:20260105T100000Z\r\nSUMMARY:Monday\r\n'
        + 'END:VEVENT\r\nEND:VCALENDAR\r\n',
    },
  },
  'attachments-with-odd-names': {
    to: 'grace@example.org', subject: 'Files', text: 'See the files.',
    attachments: [
      { filename: 'terms.txt', content: 'Terms\nand conditions\n' },
      { filename: 'invoice 42 (copy).pdf', content: EVERY_BYTE },
      { filename: 'say "hello", please; now.bin', content: Buffer.from([0, 1, 2, 253, 254, 255]) },
      { filename: 'Rechnung für Zoë ✓.pdf', contentType: 'application/pdf', content: Buffer.from('%PDF-1.4\n') },
      { filename: `${'a-very-long-name-'.repeat(8)}.csv`, content: 'a;b\r\n1;2\r\n' },
      { filename: "it's 100% back\\slash.tar.gz", content: Buffer.alloc(0) },
      { filename: 'latin1.txt', contentType: 'text/plain; charset=latin1', content: Buffer.from('Grüße', 'latin1') },
      { filename: 'streamed.bin', content: Readable.from([EVERY_BYTE, PNG]) },
      { filename: 'quoted.html', content: '<p>ä = ü</p>', contentTransferEncoding: 'quoted-printable' },
      { filename: false, content: Buffer.from('no name') },
    ],
  },
  'only-an-attachment': {
    to: 'bob@example.org', subject: 'Just a file', attachments: [{ filename: 'pixel.png', content: PNG }],
  },
  'inline-image': {
    to: 'heidi@example.org', subject: 'A picture', html: '<p><img src="cid:logo@shop.example"></p>',
    attachments: [{ filename: 'logo.png', content: PNG, cid: 'logo@shop.example' }],
  },
  'inline-image-text-and-file': {
    to: 'heidi@example.org', subject: 'A picture and a file', text: 'A picture.',
    html: '<p>A <img src="cid:logo@shop.example"> picture.</p>',
    attachments: [
      { filename: 'logo.png', content: PNG, cid: 'logo@shop.example', contentDisposition: 'inline' },
      { filename: 'price list.csv', content: 'item;price\nbook;19.90\n' },
    ],
  },
  'many-readers': {
    to: ['Ada Lovelace <ada@example.org>', { name: 'Bób Müller', address: 'bob@example.org' }],
    cc: '"Hopper, Grace" <grace@example.org>, ivan@sub.example.org',
    bcc: ['heidi@example.org', 'Judy <judy@sub.example.org>', 'ada@example.org'],
    replyTo: 'Zoë from the shop <help@shop.example>',
    subject: 'For all of you', text: 'Hello everybody.',
  },
  'only-bcc': { bcc: 'olivia@example.net, peggy@example.net', subject: 'Nobody in sight', text: 'Hello.' },
  'a-group': {
    to: 'Friends: ada@example.org, "Peggy O\'Neil" <peggy@example.net>;', subject: 'A group', text: 'Hello.',
  },
  'custom-headers': {
    to: 'ivan@sub.example.org', subject: 'Headers', text: 'Mind the headers.', priority: 'high',
    inReplyTo: '<first@shop.example>', references: ['<zeroth@shop.example>', '<first@shop.example>'],
    list: { unsubscribe: { url: 'https://shop.example/unsubscribe?u=42', comment: 'Stop' }, help: 'help@shop.example' },
    headers: {
      'X-Campaign': 'spring sale', 'x-lower-case': 'lower', 'X-Not-Ascii': 'Frühling', 'X-Repeated': ['one', 'two'],
      'List-Unsubscribe-Post': 'List-Unsubscribe=One-Click',
      'X-Long': 'word '.repeat(60).trim(),
      'X-Prepared': { prepared: true, value: 'a =?UTF-8?Q?pr=C3=A9pared?= value' },
    },
  },
  'own-message-id-and-date': {
    to: 'peggy@example.net', subject: 'My own', text: 'Kept.', messageId: '<order-42@shop.example>',
    date: new Date('2026-01-02T03:04:05Z'), sender: 'Robot <robot@shop.example>',
  },
  'long-subject': {
    to: 'judy@sub.example.org', text: 'Folded.',
    subject: `Your order ${'of many interesting things '.repeat(12)}is on its way`,
  },
  'long-subject-not-ascii': {
    to: 'judy@sub.example.org', text: 'Folded.',
    subject: `Größe, Maße und Gewährleistung ${'für schöne Süßwaren '.repeat(10)}✓`,
  },
  'odd-lines': {
    to: 'olivia@example.net', subject: 'Dots and lines',
    text: '.\n..\n.leading dot\r\nCR LF and LF\n\n\n. \nFrom here\n>From there\ntrailing space \ntab\t\n-- \nShop',
  },
  'long-lines': {
    to: 'olivia@example.net', subject: 'Long lines', text: `${'x'.repeat(2500)}\n${'long words '.repeat(200)}\n`,
  },
  'eight-bit-lines': {
    to: 'olivia@example.net', subject: 'Long lines, not ASCII', html: `<p>${'schöne Wörter '.repeat(300)}</p>`,
    text: `.\n${'ü'.repeat(1200)}\n`,
  },
  'empty-body': { to: 'peggy@example.net', subject: 'Nothing', text: '' },
  'blank-body': { to: 'peggy@example.net', subject: 'Almost nothing', text: ' \n\n' },
  'empty-subject': { to: 'peggy@example.net', text: 'No subject.' },
  'attached-message': {
    to: 'ada@example.org', subject: 'Forwarded', text: 'See below.',
    attachments: [{ filename: 'question.eml', contentType: 'message/rfc822', content: FORWARDED }],
  },
  'base64-text': {
    to: 'bob@example.org', subject: 'In base64', text: 'Thank you.\n', html: '<p>Thank you.</p>', encoding: 'base64',
  },
  'text-encoding': { to: 'bob@example.org', subject: 'Schön', text: 'Schöne Grüße\n', textEncoding: 'base64' },
});

const key = (name) => (process.env.KEYED ? { 'X-Hapax-Dedup-Key': `${process.env.KEYED}-${name}` } : {});

export const messages = () => Object.entries(cases()).map(([name, message]) => (
  { from: FROM, ...message, headers: { ...message.headers, 'X-Case': name, ...key(name) } }));
