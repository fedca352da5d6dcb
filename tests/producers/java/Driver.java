import java.io.PrintStream;
import java.net.URI;
import java.sql.*;
import java.util.*;
import javax.mail.internet.MimeMessage;
import javax.sql.DataSource;
import org.postgresql.ds.PGSimpleDataSource;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.jdbc.datasource.SingleConnectionDataSource;
import org.springframework.mail.MailPreparationException;
import org.springframework.mail.javamail.JavaMailSender;
import org.springframework.mail.javamail.JavaMailSenderImpl;
import org.springframework.mail.javamail.MimeMessageHelper;
import org.springframework.transaction.support.TransactionTemplate;
import outbox.Notification;
import outbox.OutboxMailSender;

/** Runs one scenario with one recipe and prints what it saw: see run. */
public final class Driver {
    static final String TAG = System.getenv("TAG");
    private static final String ORDER = "INSERT INTO orders (email, total) VALUES (?, ?)";
    private static final List<String> ids = new ArrayList<>();
    private static final List<String> errors = new ArrayList<>();

    /** An application's own failure, to roll its transaction back. */
    static final class Declined extends RuntimeException {
        Declined() { super("the card was declined"); }
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream out = System.out;
        System.setOut(System.err);
        String recipe = arguments[0], scenario = arguments[1];
        if (scenario.startsWith("send-") && recipe.equals("spring")) {
            out.println("{\"cases\": " + send(scenario) + "}");
            return;
        }
        switch (recipe) {
            case "jdbc": jdbc(scenario); break;
            case "spring": spring(scenario); break;
            case "hibernate": HibernateDriver.run(scenario); break;
            default: throw new IllegalArgumentException("unknown recipe: " + recipe);
        }
        out.println("{\"ids\": " + ids + (scenario.equals("bad") ? ", \"errors\": " + errors : "") + "}");
    }

    static PGSimpleDataSource dataSource() {
        URI url = URI.create(System.getenv("DATABASE_URL"));
        PGSimpleDataSource source = new PGSimpleDataSource();
        source.setServerNames(new String[] {url.getHost()});
        source.setPortNumbers(new int[] {url.getPort() < 0 ? 5432 : url.getPort()});
        source.setDatabaseName(url.getPath().substring(1));
        source.setUser(url.getUserInfo());
        return source;
    }

    static void enqueued(UUID id) { ids.add(quoted(id.toString())); }

    static void refused(Throwable caught) {
        while (!(caught instanceof PSQLException)) caught = caught.getCause();
        ServerErrorMessage server = ((PSQLException) caught).getServerErrorMessage();
        errors.add("{\"sqlstate\": " + quoted(((SQLException) caught).getSQLState()) + ", \"message\": "
            + quoted(server.getMessage()) + ", \"hint\": " + quoted(server.getHint()) + "}");
    }

    private static String quoted(String text) {
        if (text == null) return "null";
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            json.append(c == '"' || c == '\\' ? "\\" + c : c < ' ' ? String.format("\\u%04x", (int) c) : "" + c);
        }
        return json.append('"').toString();
    }

    static Notification confirmation(String name) {
        return new Notification("order_confirmed", name + "." + TAG + "@example.org")
            .subject("Your order").bodyText("Thank you.");
    }

    private static void jdbc(String scenario) throws SQLException {
        try (Connection connection = dataSource().getConnection()) {
            connection.setAutoCommit(false);
            switch (scenario) {
                case "commit":
                    order(connection, "commit", confirmation("commit"));
                    break;
                case "rollback":
                    try {
                        order(connection, "rollback", confirmation("rollback"), new Declined());
                    } catch (Declined expected) { }
                    break;
                case "twice":
                    order(connection, "twice", confirmation("twice").dedupKey(TAG + "-confirmed"));
                    order(connection, "twice", confirmation("twice").dedupKey(TAG + "-confirmed"));
                    break;
                case "bad":
                    try {
                        order(connection, "bad", new Notification("order_confirmed", "bad." + TAG)
                            .subject("Your order").bodyText("Thank you."));
                    } catch (SQLException e) {
                        refused(e);
                    }
                    order(connection, "after", confirmation("after"));
                    break;
                default: throw new IllegalArgumentException("unknown scenario: " + scenario);
            }
        }
    }

    /** The application's transaction; it fails with the exceptions given. */
    private static void order(Connection connection, String name, Notification notification,
            RuntimeException... failures) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement(ORDER)) {
            insert.setString(1, name + "." + TAG + "@example.org");
            insert.setString(2, "19.90 EUR");
            insert.executeUpdate();
            enqueued(notification.enqueue(connection));
            for (RuntimeException failure : failures) throw failure;
            connection.commit();
        } catch (SQLException | RuntimeException e) {
            connection.rollback();
            throw e;
        }
    }

    private static void spring(String scenario) throws Exception {
        // One connection, used again after a failure, as a pool would.
        try (Connection connection = dataSource().getConnection()) {
            DataSource source = new SingleConnectionDataSource(connection, true);
            JdbcTemplate jdbc = new JdbcTemplate(source);
            OutboxMailSender mailer = new OutboxMailSender(source, "order_confirmed");
            TransactionTemplate transaction = new TransactionTemplate(new DataSourceTransactionManager(source));
            switch (scenario) {
                case "commit":
                    transaction.execute(status -> order(jdbc, mailer, "commit", null));
                    break;
                case "rollback":
                    try {
                        transaction.execute(status -> {
                            order(jdbc, mailer, "rollback", null);
                            throw new Declined();
                        });
                    } catch (Declined expected) { }
                    break;
                case "twice":
                    transaction.execute(status -> order(jdbc, mailer, "twice", TAG + "-confirmed"));
                    transaction.execute(status -> order(jdbc, mailer, "twice", TAG + "-confirmed"));
                    break;
                case "bad":
                    try {
                        transaction.execute(status -> {
                            jdbc.update(ORDER, "bad." + TAG + "@example.org", "19.90 EUR");
                            mailer.send(message -> {
                                message.setRecipients(MimeMessage.RecipientType.TO, "bad." + TAG);
                                message.setText("Thank you.");
                            });
                            return null;
                        });
                    } catch (MailPreparationException e) {
                        refused(e);
                    }
                    transaction.execute(status -> order(jdbc, mailer, "after", null));
                    break;
                default: throw new IllegalArgumentException("unknown scenario: " + scenario);
            }
        }
    }

    private static Void order(JdbcTemplate jdbc, OutboxMailSender mailer, String name, String key) {
        String email = name + "." + TAG + "@example.org";
        jdbc.update(ORDER, email, "19.90 EUR");
        MimeMessage message = mailer.createMimeMessage();
        try {
            MimeMessageHelper helper = new MimeMessageHelper(message, "UTF-8");
            helper.setFrom("no-reply@shop.example", "Shop");
            helper.setTo(email);
            helper.setSubject("Your order");
            helper.setText("Thank you.");
            if (key != null) message.setHeader("X-Hapax-Dedup-Key", key);
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
        enqueued(mailer.enqueue(message));
        return null;
    }

    private static int send(String scenario) throws Exception {
        if (scenario.equals("send-smtp")) {
            JavaMailSenderImpl mailer = new JavaMailSenderImpl();
            mailer.setHost("127.0.0.1");
            mailer.setPort(Integer.parseInt(System.getenv("SMTP_PORT")));
            return MailCases.send(mailer);
        }
        DataSource source = dataSource();
        JavaMailSender mailer = new OutboxMailSender(source, "shop_mail");
        TransactionTemplate transaction = new TransactionTemplate(new DataSourceTransactionManager(source));
        return transaction.execute(status -> MailCases.send(mailer));
    }
}
