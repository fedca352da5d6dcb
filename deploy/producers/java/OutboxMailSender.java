package outbox;

import java.io.*;
import java.util.*;
import javax.mail.*; // Spring 6: jakarta.mail
import javax.mail.internet.*; // Spring 6: jakarta.mail.internet
import javax.sql.DataSource;
import org.springframework.jdbc.core.*;
import org.springframework.mail.*;
import org.springframework.mail.javamail.JavaMailSenderImpl;

/**
 * A JavaMailSender that writes into the outbox of Hapax instead of speaking SMTP. Declare it as the bean in place of
 * JavaMailSenderImpl; code that sends stays as it is. It needs Notification.java. For Spring 6 with Jakarta Mail only
 * the two imports marked above change.
 * <p>
 * It writes through the connection that the current transaction (@Transactional, TransactionTemplate) has bound to the
 * DataSource: mail is sent if that commits, and only then. Without a transaction it is enqueued at once. Mail that the
 * outbox refuses is a DataAccessException (from send(MimeMessagePreparator) inside Spring's MailPreparationException);
 * getMostSpecificCause() is the driver's own, with SQLSTATE, message and hint; the transaction can only be rolled back.
 * Headers such as X-Hapax-Dedup-Key are arguments of the outbox and are not sent.
 */
public class OutboxMailSender extends JavaMailSenderImpl {
    private static final Set<String> OPTIONS = Set.of("kind", "dedup_key", "dedup_ttl", "priority", "not_before",
        "expires_at", "ordering_key", "on_doubt", "route", "tenant");
    private final JdbcTemplate jdbc;
    private final String defaultKind;

    public OutboxMailSender(DataSource dataSource, String defaultKind) {
        this.jdbc = new JdbcTemplate(dataSource);
        this.defaultKind = defaultKind;
    }

    /** Every send() ends here. */
    @Override
    protected void doSend(MimeMessage[] messages, Object[] originals) {
        for (MimeMessage message : messages) enqueue(message);
    }

    /** Asks the outbox, not a mail server: Spring Boot's health check calls this. */
    @Override
    public void testConnection() {
        jdbc.queryForObject("SELECT count(*) FROM outbox.notification", Long.class);
    }

    /** As send(), for callers who want the id of the message in the outbox. */
    public UUID enqueue(MimeMessage message) {
        ByteArrayOutputStream raw = new ByteArrayOutputStream();
        Set<String> recipients = new LinkedHashSet<>(), left = new HashSet<>(Set.of("Bcc"));
        Notification notification = new Notification(defaultKind);
        try {
            for (Header header : Collections.list(message.getAllHeaders())) {
                if (!header.getName().regionMatches(true, 0, "X-Hapax-", 0, 8)) continue;
                String option = header.getName().substring(8).toLowerCase(Locale.ROOT).replace('-', '_');
                if (!OPTIONS.contains(option)) throw new MailParseException("unknown header " + header.getName());
                notification.with(option, MimeUtility.decodeText(MimeUtility.unfold(header.getValue())));
                left.add(header.getName());
            }
            if (message.getAllRecipients() != null) for (Address address : message.getAllRecipients()) {
                InternetAddress[] group = ((InternetAddress) address).getGroup(false);
                if (group == null) recipients.add(((InternetAddress) address).getAddress());
                else for (InternetAddress member : group) recipients.add(member.getAddress());
            }
            if (message.getFrom() != null) notification.sender(((InternetAddress) message.getFrom()[0]).getAddress());
            // saveChanges() makes these two anew; only what the application has set goes along.
            String id = message.getHeader("Message-ID", null), date = message.getHeader("Date", null);
            message.saveChanges();
            if (id == null) message.removeHeader("Message-ID"); else message.setHeader("Message-ID", id);
            if (date == null) message.removeHeader("Date"); else message.setHeader("Date", date);
            message.writeTo(raw, left.toArray(String[]::new));
        } catch (MessagingException | IOException e) {
            throw new MailParseException(e);
        }
        notification.with("recipients", recipients.toArray(String[]::new)).rawMessage(raw.toByteArray());
        return jdbc.execute((ConnectionCallback<UUID>) notification::enqueue);
    }
}
