package main

import (
	"database/sql"
	"errors"
	"os"

	"github.com/lib/pq"
	mail "gopkg.in/mail.v2"

	outbox "recipes/databasesql"
)

type sqlRecipe struct {
	db     *sql.DB
	gomail bool
}

func openSQL(gomail bool) *sqlRecipe {
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL")+"?sslmode=disable")
	if err != nil {
		fail(err)
	}
	db.SetMaxOpenConns(1) // the same connection after a failure
	return &sqlRecipe{db, gomail}
}

func (r *sqlRecipe) order(email string, n notification, failure error) (id string, err error) {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	defer tx.Rollback() // does nothing after Commit

	_, err = tx.ExecContext(ctx, `INSERT INTO orders (email, total) VALUES ($1, $2)`, email, "19.90 EUR")
	if err != nil {
		return "", err
	}
	if r.gomail {
		sender := &outbox.Sender{Ctx: ctx, Tx: tx, Kind: "order_confirmed"}
		if err = mail.Send(sender, message(n)); err != nil {
			return "", err
		}
		id = sender.IDs[0]
	} else {
		id, err = outbox.Enqueue(ctx, tx, outbox.Notification{
			Kind:       "order_confirmed",
			Recipients: []string{n.recipient},
			Subject:    "Your order",
			BodyText:   "Thank you.",
			DedupKey:   n.dedupKey,
		})
		if err != nil {
			return "", err
		}
	}
	if failure != nil {
		return id, failure
	}
	return id, tx.Commit()
}

func (r *sqlRecipe) send(messages ...*mail.Message) error {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := mail.Send(&outbox.Sender{Ctx: ctx, Tx: tx, Kind: "shop_mail"}, messages...); err != nil {
		return err
	}
	return tx.Commit()
}

func (r *sqlRecipe) refused(err error) refusal {
	err = cause(err)
	var e *pq.Error
	if !errors.As(err, &e) {
		fail(err)
	}
	return refusal{string(e.Code), e.Message, e.Hint}
}

// What mail.v2's error holds: it has no Unwrap.
func cause(err error) error {
	var e *mail.SendError
	if errors.As(err, &e) {
		return e.Cause
	}
	return err
}
