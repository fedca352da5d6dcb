<?php

declare(strict_types=1);

namespace App;

/**
 * Notifications through PDO, in your own transaction: sent if it commits, and only then. Without a transaction each is
 * enqueued at once.
 *
 *     $pdo->beginTransaction();
 *     $pdo->prepare('INSERT INTO orders (email, total) VALUES (?, ?)')->execute([$email, $total]);
 *     $id = (new Outbox($pdo))->enqueue(
 *         kind: 'order_confirmed', recipients: [$email], subject: 'Your order', body_text: 'Thank you.',
 *         dedup_key: "order-$number-confirmed",
 *     );
 *     $pdo->commit();
 *
 * The names are the arguments of outbox.enqueue(): \d+ outbox.notification explains each. They travel as JSON, never as
 * SQL; a finished message is raw_message_base64. What the outbox refuses is a PDOException: its code is the SQLSTATE,
 * errorInfo[2] has message and HINT. Postgres has aborted the transaction then: roll back.
 */
final class Outbox
{
    public function __construct(private readonly \PDO $pdo)
    {
    }

    /** The message's id; for a repeated dedup_key the first one's. */
    public function enqueue(mixed ...$notification): string
    {
        return $this->enqueueMany([$notification])[0];
    }

    /**
     * Up to 10,000 in one statement, all or none.
     *
     * @param list<array<string, mixed>> $notifications
     *
     * @return list<string> their ids, in order
     */
    public function enqueueMany(array $notifications): array
    {
        array_walk_recursive($notifications, static function (mixed &$value): void {
            $value = $value instanceof \DateTimeInterface ? $value->format('Y-m-d\TH:i:s.uP') : $value;
        });
        $statement = $this->pdo->prepare('SELECT id FROM outbox.enqueue_many(:notifications) ORDER BY ordinal');
        $statement->execute(['notifications' => json_encode($notifications, \JSON_THROW_ON_ERROR)]);

        return $statement->fetchAll(\PDO::FETCH_COLUMN);
    }
}
