// Package outbox enqueues notifications for Hapax through database/sql, with any driver for Postgres.
//
// Copy it; nothing has to be switched on. Give Enqueue the transaction of your own writes: the notification is sent if
// that commits, and only then. Given a *sql.DB it is enqueued at once. Errors are the driver's own (SQLSTATE 22Hxx:
// refused, 23H01: the dedup key was used for other content); after one the transaction can only be rolled back.
package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"
)

// A Notification has the arguments of outbox.enqueue(). What is empty is not passed: the outbox has the defaults.
// Required are Kind, Recipients, and one content: Payload, or Subject with BodyText or BodyHTML, or RawMessage.
type Notification struct {
	Kind        string            `json:"kind,omitempty"`
	Recipients  []string          `json:"recipients"`        // "ada@example.org" or "Ada <ada@example.org>"
	Payload     any               `json:"payload,omitempty"` // for the kind's templates: a map or a struct
	Subject     string            `json:"subject,omitempty"`
	BodyText    string            `json:"body_text,omitempty"`
	BodyHTML    string            `json:"body_html,omitempty"`
	RawMessage  []byte            `json:"raw_message_base64,omitempty"`
	Sender      string            `json:"sender,omitempty"`
	ReplyTo     string            `json:"reply_to,omitempty"`
	Cc          []string          `json:"cc,omitempty"`
	Bcc         []string          `json:"bcc,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Attachments []Attachment      `json:"attachments,omitempty"`
	NotBefore   *time.Time        `json:"not_before,omitempty"`
	ExpiresAt   *time.Time        `json:"expires_at,omitempty"`
	Priority    string            `json:"priority,omitempty"`
	OrderingKey string            `json:"ordering_key,omitempty"`
	DedupKey    string            `json:"dedup_key,omitempty"`
	DedupTTL    string            `json:"dedup_ttl,omitempty"` // "7 days"
	OnDoubt     string            `json:"on_doubt,omitempty"`
	Route       string            `json:"route,omitempty"`
	Tenant      string            `json:"tenant,omitempty"`
	Locale      string            `json:"locale,omitempty"`
	Traceparent string            `json:"traceparent,omitempty"`
	Tracestate  string            `json:"tracestate,omitempty"`
}

type Attachment struct {
	Filename    string `json:"filename"`
	Content     []byte `json:"content_base64"`
	ContentType string `json:"content_type,omitempty"`
	ContentID   string `json:"content_id,omitempty"`
}

// Tx is what Enqueue writes through: *sql.Tx; *sql.Conn and *sql.DB have it, too.
type Tx interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Enqueue returns the id of the message; for a repeated DedupKey that of the first one.
func Enqueue(ctx context.Context, tx Tx, n Notification) (id string, err error) {
	document, err := json.Marshal([]Notification{n})
	if err != nil {
		return "", err
	}
	err = tx.QueryRowContext(ctx, `SELECT id FROM outbox.enqueue_many($1::text)`, string(document)).Scan(&id)
	return id, err
}
