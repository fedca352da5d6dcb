<?php

declare(strict_types=1);

namespace App\Mailer;

use Doctrine\DBAL\Connection;
use Psr\EventDispatcher\EventDispatcherInterface;
use Symfony\Component\Mailer\Transport\{AbstractTransportFactory, Dsn, TransportInterface};

/**
 * MAILER_DSN=outbox://default?kind=mail in Symfony: OutboxTransport over the connection by which Doctrine writes your
 * entities (pdo_pgsql). `kind` is that of mails that name none. README.md has the lines of services.yaml.
 */
final class OutboxTransportFactory extends AbstractTransportFactory
{
    public function __construct(private readonly Connection $connection, ?EventDispatcherInterface $dispatcher = null)
    {
        parent::__construct($dispatcher);
    }

    public function create(Dsn $dsn): TransportInterface
    {
        $pdo = fn (): \PDO => $this->connection->getNativeConnection();

        return new OutboxTransport($pdo, $dsn->getOption('kind', 'mail'), $this->dispatcher);
    }

    protected function getSupportedSchemes(): array
    {
        return ['outbox'];
    }
}
