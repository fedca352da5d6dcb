<?php

// The rich messages that are sent once by Symfony's own SMTP transport and once through the outbox. X-Case names each.
// No body that is the whole message ends with a line end: Symfony's SMTP adds an empty line there, the outbox does not.

declare(strict_types=1);

use Symfony\Component\Mime\Address;
use Symfony\Component\Mime\Email;
use Symfony\Component\Mime\Part\DataPart;
use Symfony\Component\Mime\Part\MessagePart;

$bytes = str_repeat(implode('', array_map(chr(...), range(0, 255))), 5);
$pixel = hex2bin('89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f000105'
    .'01012718e3660000000049454e44ae426082');
$letter = static function (string $case, string $subject): Email {
    $mail = (new Email())->from('Shop <no-reply@shop.example>')->to('ada@example.org')->subject($subject);
    $mail->getHeaders()->addTextHeader('X-Case', $case);
    if (false !== $keyed = getenv('KEYED')) {
        $mail->getHeaders()->addTextHeader('X-Hapax-Dedup-Key', "$keyed-$case");
    }

    return $mail;
};
// Symfony 5.4 makes a new content id each time and has no way to set one; with dedup keys that must not matter.
$embed = static function (Email $mail, string $content, string $name, string $id): Email {
    if (false !== getenv('KEYED')) {
        return $mail->embed($content, $name, 'image/png');
    }
    $part = (new DataPart($content, $name, 'image/png'))->asInline();
    (new ReflectionProperty(DataPart::class, 'cid'))->setValue($part, $id);

    return $mail->attachPart($part);
};
$inner = (new Email())->from('bob@example.org')->to('ada@example.org')->subject('Inner')
    ->date(new DateTimeImmutable('2026-01-02T03:04:05Z'))->text("Inner text.\n");
$inner->getHeaders()->addIdHeader('Message-ID', 'inner@example.org');

$mails = [
    $letter('plain', 'Plain')->text('Thank you.'),
    $letter('alternative', 'Two forms')->text("Thank you, Ada.\n")->html("<p>Thank you, <b>Ada</b>.</p>\n"),
    $letter('html-only', 'Only HTML')->html('<p>Größe: 5 &lt; 6</p>'),
    $letter('odd-files', 'Odd files')->text("Four files.\n")->html("<p>Four files.</p>\n")
        ->attach("%PDF-1.4\n$bytes", 'with some spaces.pdf', 'application/pdf')
        ->attach($bytes, 'a "quoted" name; with=signs.bin')
        ->attach($bytes, 'Überraschung für Zoë – 花.pdf', 'application/pdf')
        ->attach(str_repeat("\x00\xFF", 100), str_repeat('long-', 30).'name.dat'),
    $letter('text-files', 'Text files')->text("See the lists.\n")
        ->attach("name;price\r\nBänder;1,50 €\r\n", 'naïve list.csv', 'text/csv')
        ->attach("a\n.\n..b\n", 'plain.txt', 'text/plain')
        ->attach("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", 'invite.ics', 'text/calendar'),
    $embed($letter('inline', 'Inline')->html('<img src="cid:pixel" alt="pixel">'), $pixel, 'pixel', 'a@shop.example'),
    $embed($letter('inline-beside', 'Inline and beside')->text("An image.\n")->html('<p><img src="cid:pixel"></p>')
        ->attach($bytes, 'rechnung nr 1.pdf', 'application/pdf'), $pixel, 'pixel', 'b@shop.example'),
    $letter('people', 'Größe für Zoë 花')->text('To many.')
        ->to(new Address('ada@example.org', 'Lovelace, "Ada"'), new Address('bob@example.org', 'Böb'))
        ->cc('Grace Hopper <grace@example.org>', 'ivan@sub.example.org')
        ->bcc('Heidi <heidi@example.org>', 'olivia@example.net', 'bob@example.org')
        ->replyTo(new Address('peggy@example.net', 'Hilfe für alle')),
    $letter('long-subject', str_repeat('A subject that goes on and on, ', 6).'mit Größe am Ende')->text('Long.'),
    $letter('hard-lines', 'Hard lines')->text(".\n..\n.leading dot\r\nCR LF before, bare LF after\n"
        .str_repeat('x', 1500)."\n".str_repeat('word ', 400)."\nFrom here on\n\ttab, trailing space \n=3D equals=\n."),
    $letter('eight-bit', 'Eight bit')->text("Grüße aus Köln, 花火 🎆\n".str_repeat('ä', 700)."\n")
        ->html('<p>'.str_repeat('Größe ', 300).'</p>'),
    $letter('empty', 'Empty-ish')->text(' '),
    $letter('no-subject', '')->text('No subject.'),
    $letter('forwarded', 'Forwarded')->text("See below.\n")->attachPart(new MessagePart($inner)),
    $letter('own-id', 'Own id')->text('Mine.')->date(new DateTimeImmutable('2026-01-02T03:04:05Z'))
        ->returnPath('bounce@shop.example')->priority(Email::PRIORITY_HIGH),
];
$mails[] = $headers = $letter('headers', 'Headers')->text('Headers.');
$headers->getHeaders()
    ->addTextHeader('List-Unsubscribe', '<https://shop.example/u?i=1&x=%2>, <mailto:no-reply@shop.example?subject=off>')
    ->addTextHeader('List-Unsubscribe-Post', 'List-Unsubscribe=One-Click')
    ->addTextHeader('References', '<one@shop.example> <two@shop.example>')
    ->addTextHeader('In-Reply-To', '<two@shop.example>')
    ->addTextHeader('X-Campaign', 'frühling; id=42')
    ->addTextHeader('X-Long', str_repeat('word ', 60));
$mails[14]->getHeaders()->addIdHeader('Message-ID', 'order-1@shop.example');

return $mails;
