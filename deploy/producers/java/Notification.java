package outbox;

import java.sql.*;
import java.time.*;
import java.util.*;
import java.util.stream.Collectors;

/**
 * One notification for Hapax, written through plain JDBC into the outbox. Copy it and change the package.
 * <p>
 * Call {@link #enqueue} with the connection on which your transaction runs: the notification is sent if that commits,
 * and only then. With auto-commit on it is enqueued at once. What was not set is not passed: the outbox has the
 * defaults. Its SQLException comes through as it is (SQLSTATE 22Hxx: refused, 23H01: the dedup key was used for other
 * content); after one the transaction can only be rolled back.
 */
public final class Notification {
    private static final Map<String, String> CASTS = Map.of("headers", "::jsonb", "attachments", "::jsonb",
        "not_before", "::timestamptz", "expires_at", "::timestamptz", "dedup_ttl", "::interval");
    private final Map<String, Object> arguments = new LinkedHashMap<>();

    public Notification(String kind, String... recipients) { with("kind", kind).with("recipients", recipients); }

    /** A JSON object for the templates of the kind; it goes instead of a subject and bodies. */
    public Notification payload(String json) { return with("payload", json); }
    public Notification subject(String subject) { return with("subject", subject); }
    public Notification bodyText(String text) { return with("body_text", text); }
    public Notification bodyHtml(String html) { return with("body_html", html); }
    public Notification rawMessage(byte[] message) { return with("raw_message", message); }
    public Notification sender(String sender) { return with("sender", sender); }
    public Notification replyTo(String replyTo) { return with("reply_to", replyTo); }
    public Notification cc(String... cc) { return with("cc", cc); }
    public Notification bcc(String... bcc) { return with("bcc", bcc); }
    public Notification headers(String json) { return with("headers", json); }
    public Notification attachments(String json) { return with("attachments", json); }
    public Notification notBefore(Instant time) { return with("not_before", time.toString()); }
    public Notification expiresAt(Instant time) { return with("expires_at", time.toString()); }
    public Notification priority(String priority) { return with("priority", priority); }
    public Notification orderingKey(String key) { return with("ordering_key", key); }
    public Notification dedupKey(String key) { return with("dedup_key", key); }
    public Notification dedupTtl(Duration ttl) { return with("dedup_ttl", ttl.toString()); }
    public Notification onDoubt(String policy) { return with("on_doubt", policy); }
    public Notification route(String route) { return with("route", route); }
    public Notification tenant(String tenant) { return with("tenant", tenant); }
    public Notification locale(String locale) { return with("locale", locale); }
    public Notification traceparent(String value) { return with("traceparent", value); }
    public Notification tracestate(String value) { return with("tracestate", value); }

    /** The name becomes part of the statement: it must never come from outside. */
    Notification with(String argument, Object value) {
        arguments.put(argument, value);
        return this;
    }

    /** Enqueues it and returns the id of the message; for a repeated dedup key that of the first one. */
    public UUID enqueue(Connection connection) throws SQLException {
        String sql = arguments.keySet().stream().map(name -> name + " => ?" + CASTS.getOrDefault(name, ""))
            .collect(Collectors.joining(", ", "SELECT outbox.enqueue(", ")"));
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            int position = 0;
            for (Object value : arguments.values()) {
                boolean list = value instanceof String[];
                statement.setObject(++position, list ? connection.createArrayOf("text", (String[]) value) : value);
            }
            try (ResultSet row = statement.executeQuery()) {
                row.next();
                return row.getObject(1, UUID.class);
            }
        }
    }
}
