// Runs one scenario with one recipe and prints what it saw: see run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	mail "gopkg.in/mail.v2"
)

type refusal struct {
	SQLState string `json:"sqlstate"`
	Message  string `json:"message"`
	Hint     string `json:"hint"`
}

// What the scenarios need of a recipe.
type recipe interface {
	// order makes one transaction: an order of this address, and the notification, whose id it returns. It rolls back
	// when the outbox refuses, or when the application fails.
	order(email string, n notification, failure error) (id string, err error)
	refused(err error) refusal
}

type notification struct{ name, recipient, dedupKey string }

var (
	ctx         = context.Background()
	tag         = os.Getenv("TAG")
	errDeclined = errors.New("the card was declined")
)

func address(name string) string { return name + "." + tag + "@example.org" }

func main() {
	if len(os.Args) != 3 {
		fail(errors.New("usage: run RECIPE SCENARIO"))
	}
	var r recipe
	switch os.Args[1] {
	case "databasesql":
		r = openSQL(false)
	case "gomail":
		r = openSQL(true)
	case "pgx":
		r = openPgx(false)
	case "gomail-pgx":
		r = openPgx(true)
	default:
		fail(errors.New("unknown recipe: " + os.Args[1]))
	}
	answer := map[string]any{}
	if os.Args[2] == "send-smtp" || os.Args[2] == "send-outbox" {
		answer["cases"] = sendCases(r, os.Args[2])
	} else {
		scenario(r, os.Args[2], answer)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fail(err)
	}
}

func scenario(r recipe, name string, answer map[string]any) {
	var ids []string
	good := func(n notification) {
		id, err := r.order(address(n.name), n, nil)
		if err != nil {
			fail(err)
		}
		ids = append(ids, id)
	}
	switch name {
	case "commit":
		good(notification{"commit", address("commit"), ""})
	case "rollback":
		id, err := r.order(address("rollback"), notification{"rollback", address("rollback"), ""}, errDeclined)
		if err != errDeclined {
			fail(err)
		}
		ids = append(ids, id)
	case "twice":
		for event := 0; event < 2; event++ {
			good(notification{"twice", address("twice"), tag + "-confirmed"})
		}
	case "bad":
		// The underscore is fine for net/mail, which gomail asks; no host has one.
		_, err := r.order(address("bad"), notification{"bad", "bad." + tag + "@no_host.example", ""}, nil)
		answer["errors"] = []refusal{r.refused(err)}
		good(notification{"after", address("after"), ""})
	default:
		fail(errors.New("unknown scenario: " + name))
	}
	answer["ids"] = ids
}

func sendCases(r recipe, mode string) int {
	messages := cases()
	if mode == "send-smtp" {
		port, err := strconv.Atoi(os.Getenv("SMTP_PORT"))
		if err != nil {
			fail(err)
		}
		dialer := mail.NewDialer("127.0.0.1", port, "", "")
		dialer.StartTLSPolicy = mail.NoStartTLS
		if err := dialer.DialAndSend(messages...); err != nil {
			fail(err)
		}
		return len(messages)
	}
	s, ok := r.(interface{ send(...*mail.Message) error })
	if !ok {
		fail(errors.New("this recipe sends no messages of a framework"))
	}
	if err := s.send(messages...); err != nil {
		fail(err)
	}
	return len(messages)
}

// The notification as a message of gomail.
func message(n notification) *mail.Message {
	m := mail.NewMessage()
	m.SetHeader("From", "Shop <no-reply@shop.example>")
	m.SetHeader("To", n.recipient)
	m.SetHeader("Subject", "Your order")
	m.SetBody("text/plain", "Thank you.")
	if n.dedupKey != "" {
		m.SetHeader("X-Hapax-Dedup-Key", n.dedupKey)
	}
	return m
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "tests/producers/go/run: %+v\n", err)
	os.Exit(1)
}
