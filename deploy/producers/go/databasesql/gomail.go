package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"regexp"
	"sort"
	"strings"
)

// Sender writes the messages of gomail (gopkg.in/mail.v2, gopkg.in/gomail.v2) into the outbox instead of speaking SMTP:
//
//	err := mail.Send(&outbox.Sender{Ctx: ctx, Tx: tx, Kind: "shop_mail"}, message)
//
// in place of Dialer.DialAndSend(message), with the transaction of your own writes: the message is sent if that
// commits, and only then; with a *sql.DB it is enqueued at once. Headers such as X-Hapax-Dedup-Key are arguments of the
// outbox and are not sent. This file goes beside either outbox.go, that for database/sql or that for pgx. The driver's
// error is in the Cause of mail.v2's *SendError.
type Sender struct {
	Ctx  context.Context
	Tx   Tx
	Kind string   // of messages without X-Hapax-Kind
	IDs  []string // of what was enqueued, in order
}

var options = map[string]bool{"kind": true, "dedup_key": true, "dedup_ttl": true, "priority": true,
	"not_before": true, "expires_at": true, "ordering_key": true, "on_doubt": true, "route": true, "tenant": true}

var headerField = regexp.MustCompile(`(?m)^\S.*\n([ \t].*\n)*`) // with the lines it is folded into

// Send is what mail.Send calls for each message: to has everybody, Bcc included, and msg writes no Bcc.
func (s *Sender) Send(from string, to []string, msg io.WriterTo) error {
	var raw bytes.Buffer
	if _, err := msg.WriteTo(&raw); err != nil {
		return err
	}
	n := Notification{Kind: s.Kind, Sender: from, Recipients: to}
	head, body, _ := strings.Cut(raw.String(), "\r\n\r\n")
	var fields []string
	for _, field := range headerField.FindAllString(strings.TrimSuffix(head, "\r\n")+"\r\n", -1) {
		name, value, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(field), "\r\n", ""), ": ")
		option := strings.ReplaceAll(strings.ToLower(name), "-", "_")
		if m, ok := msg.(interface{ GetHeader(string) []string }); ok && name == "Date" && m.GetHeader("Date") == nil {
			continue // gomail's own; Hapax dates what has no date
		}
		if !strings.HasPrefix(option, "x_hapax_") {
			fields = append(fields, field)
			continue
		}
		if option = option[len("x_hapax_"):]; !options[option] {
			return fmt.Errorf("unknown header %s", name)
		}
		value, err := new(mime.WordDecoder).DecodeHeader(value)
		if argument, _ := json.Marshal(map[string]string{option: value}); err == nil {
			err = json.Unmarshal(argument, &n)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	// gomail writes its headers in a random order, but one message, built twice, must be the same to a dedup key.
	sort.Strings(fields)
	n.RawMessage = []byte(strings.Join(fields, "") + "\r\n" + body)
	id, err := Enqueue(s.Ctx, s.Tx, n)
	if err == nil {
		s.IDs = append(s.IDs, id)
	}
	return err
}
