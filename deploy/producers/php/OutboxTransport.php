<?php

declare(strict_types=1);

namespace App\Mailer;

use Psr\EventDispatcher\EventDispatcherInterface;
use Symfony\Component\Mailer\SentMessage;
use Symfony\Component\Mailer\Transport\AbstractTransport;
use Symfony\Component\Mime\{Message, RawMessage};
use Symfony\Component\Mime\Part\TextPart;

/**
 * Symfony Mailer into the outbox, by the connection that holds your open transaction: the mail is sent if that commits,
 * and only then; without one it is enqueued at once. README.md: how Symfony and Laravel switch it on.
 *
 * Arguments of the outbox are headers: $email->getHeaders()->addTextHeader('X-Hapax-Dedup-Key', "order-$id-confirmed").
 * SentMessage::getMessageId() is the message's id. What the outbox refuses is a PDOException: its code is the SQLSTATE,
 * errorInfo[2] has message and HINT. Postgres has aborted the transaction then: roll back.
 */
final class OutboxTransport extends AbstractTransport
{
    private const ARGUMENTS = '/^X-Hapax-(Kind|Dedup-Key|Dedup-Ttl|Priority|Not-Before|Expires-At|Ordering-Key|On-Doubt'
        .'|Route|Tenant)$/i';

    /** @param \Closure(): \PDO $pdo asked for each mail, because a worker that lives long reconnects */
    public function __construct(private readonly \Closure $pdo, private readonly string $kind = 'mail',
        ?EventDispatcherInterface $dispatcher = null)
    {
        parent::__construct($dispatcher);
    }

    protected function doSend(SentMessage $message): void
    {
        $envelope = $message->getEnvelope();
        $quoted = static fn ($address) => '"'.addcslashes($address->getEncodedAddress(), '"\\').'"';
        $values = ['kind' => $this->kind, 'sender' => $envelope->getSender()->getEncodedAddress(),
            'recipients' => '{'.implode(',', array_unique(array_map($quoted, $envelope->getRecipients()))).'}'];
        $values['raw_message'] = $this->serialize($message->getOriginalMessage(), $values);

        $named = implode(', ', array_map(static fn ($name) => "$name => :$name", array_keys($values)));
        $statement = ($this->pdo)()->prepare("SELECT outbox.enqueue($named)");
        foreach ($values as $name => $value) {
            $statement->bindValue($name, $value, 'raw_message' === $name ? \PDO::PARAM_LOB : \PDO::PARAM_STR);
        }
        $statement->execute();
        $message->setMessageId($statement->fetchColumn());
    }

    /** The message as Symfony would send it, without the arguments, and Message-ID and Date only if you set them. */
    private function serialize(RawMessage $message, array &$values): string
    {
        if (!$message instanceof Message) {
            return $message->toString();
        }
        $headers = $message->getPreparedHeaders(); // a copy, without Bcc
        foreach (array_diff(['message-id', 'date'], $message->getHeaders()->getNames()) as $generated) {
            $headers->remove($generated);
        }
        foreach ($message->getHeaders()->all() as $header) {
            if (preg_match(self::ARGUMENTS, $header->getName(), $match)) {
                $value = $header->getBody();
                $name = strtr(strtolower($match[1]), '-', '_');
                $values[$name] = $value instanceof \DateTimeInterface ? $value->format(\DATE_ATOM) : $value;
                $headers->remove($header->getName());
            } elseif (0 === stripos($header->getName(), 'X-Hapax-')) {
                throw new \InvalidArgumentException($header->getName().' is not an argument of the outbox.');
            }
        }

        return $headers->toString().($message->getBody() ?? new TextPart(''))->toString();
    }

    public function __toString(): string
    {
        return 'outbox://default';
    }
}
