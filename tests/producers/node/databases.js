// A small shop for each library: a transaction, an order in it, and the recipe's enqueue. One connection each, so that
// what a failed transaction leaves behind is seen by the next one.
import { drizzle } from 'drizzle-orm/node-postgres';
import { bigint, pgTable, text } from 'drizzle-orm/pg-core';
import createKnex from 'knex';
import pg from 'pg';

import { enqueue as enqueueWithDrizzle } from '../../../deploy/producers/node/outbox-drizzle.js';
import { enqueue as enqueueWithKnex } from '../../../deploy/producers/node/outbox-knex.js';
import { enqueue as enqueueWithPg } from '../../../deploy/producers/node/outbox-pg.js';

const TOTAL = '19.90 EUR';

export const databases = {
  pg(url) {
    const pool = new pg.Pool({ connectionString: url, max: 1 });
    return {
      async transaction(work) {
        const client = await pool.connect();
        try {
          await client.query('BEGIN');
          const result = await work(client);
          await client.query('COMMIT');
          return result;
        } catch (error) {
          await client.query('ROLLBACK');
          throw error;
        } finally {
          client.release();
        }
      },
      order: (client, email) => client.query('INSERT INTO orders (email, total) VALUES ($1, $2)', [email, TOTAL]),
      enqueue: enqueueWithPg,
      close: () => pool.end(),
    };
  },

  knex(url) {
    const knex = createKnex({ client: 'pg', connection: url, pool: { min: 0, max: 1 } });
    return {
      transaction: (work) => knex.transaction(work),
      order: (trx, email) => trx('orders').insert({ email, total: TOTAL }),
      enqueue: enqueueWithKnex,
      close: () => knex.destroy(),
    };
  },

  drizzle(url) {
    const pool = new pg.Pool({ connectionString: url, max: 1 });
    const db = drizzle({ client: pool });
    const orders = pgTable('orders', {
      id: bigint({ mode: 'number' }).generatedAlwaysAsIdentity().primaryKey(),
      email: text().notNull(),
      total: text().notNull(),
    });
    return {
      transaction: (work) => db.transaction(work),
      order: (tx, email) => tx.insert(orders).values({ email, total: TOTAL }),
      enqueue: enqueueWithDrizzle,
      close: () => pool.end(),
    };
  },
};
