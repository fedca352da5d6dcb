package main

import (
	"errors"
	"os"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
	mail "gopkg.in/mail.v2"

	outbox "recipes/pgx"
)

type pgxRecipe struct {
	pool   *pgxpool.Pool
	gomail bool
}

func openPgx(gomail bool) *pgxRecipe {
	// One connection: the same after a failure.
	pool, err := pgxpool.Connect(ctx, os.Getenv("DATABASE_URL")+"?sslmode=disable&pool_max_conns=1")
	if err != nil {
		fail(err)
	}
	return &pgxRecipe{pool, gomail}
}

func (r *pgxRecipe) order(email string, n notification, failure error) (id string, err error) {
	err = r.pool.BeginFunc(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO orders (email, total) VALUES ($1, $2)`, email, "19.90 EUR")
		if err != nil {
			return err
		}
		if r.gomail {
			sender := &outbox.Sender{Ctx: ctx, Tx: tx, Kind: "order_confirmed"}
			if err = mail.Send(sender, message(n)); err != nil {
				return err
			}
			id = sender.IDs[0]
			return failure
		}
		id, err = outbox.Enqueue(ctx, tx, outbox.Notification{
			Kind:       "order_confirmed",
			Recipients: []string{n.recipient},
			Subject:    "Your order",
			BodyText:   "Thank you.",
			DedupKey:   n.dedupKey,
		})
		if err != nil {
			return err
		}
		return failure
	})
	return id, err
}

func (r *pgxRecipe) send(messages ...*mail.Message) error {
	return r.pool.BeginFunc(ctx, func(tx pgx.Tx) error {
		return mail.Send(&outbox.Sender{Ctx: ctx, Tx: tx, Kind: "shop_mail"}, messages...)
	})
}

func (r *pgxRecipe) refused(err error) refusal {
	err = cause(err)
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		fail(err)
	}
	return refusal{e.Code, e.Message, e.Hint}
}
