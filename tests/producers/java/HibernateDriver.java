import java.util.UUID;
import javax.persistence.*;
import org.hibernate.*;
import org.hibernate.cfg.Configuration;
import org.postgresql.ds.PGSimpleDataSource;
import outbox.Notification;

/** Notification.java on the connection of a Hibernate session. */
final class HibernateDriver {
    @Entity(name = "orders")
    public static class Order {
        @Id @GeneratedValue(strategy = GenerationType.IDENTITY) Long id;
        String email;
        String total;
    }

    static void run(String scenario) {
        PGSimpleDataSource source = Driver.dataSource();
        // A pool of one connection, used again after a failure.
        SessionFactory factory = new Configuration().addAnnotatedClass(Order.class)
            .setProperty("hibernate.dialect", "org.hibernate.dialect.PostgreSQLDialect")
            .setProperty("hibernate.connection.url", source.getURL())
            .setProperty("hibernate.connection.username", source.getUser())
            .setProperty("hibernate.connection.pool_size", "1")
            .buildSessionFactory();
        switch (scenario) {
            case "commit":
                order(factory, "commit", Driver.confirmation("commit"));
                break;
            case "rollback":
                try {
                    order(factory, "rollback", Driver.confirmation("rollback"), new Driver.Declined());
                } catch (Driver.Declined expected) { }
                break;
            case "twice":
                for (int event = 0; event < 2; event++) {
                    order(factory, "twice", Driver.confirmation("twice").dedupKey(Driver.TAG + "-confirmed"));
                }
                break;
            case "bad":
                try {
                    order(factory, "bad", new Notification("order_confirmed", "bad." + Driver.TAG)
                        .subject("Your order").bodyText("Thank you."));
                } catch (JDBCException e) {
                    Driver.refused(e);
                }
                order(factory, "after", Driver.confirmation("after"));
                break;
            default: throw new IllegalArgumentException("unknown scenario: " + scenario);
        }
        factory.close();
    }

    private static void order(SessionFactory factory, String name, Notification notification,
            RuntimeException... failures) {
        Session session = factory.openSession();
        Transaction transaction = session.beginTransaction();
        try {
            Order order = new Order();
            order.email = name + "." + Driver.TAG + "@example.org";
            order.total = "19.90 EUR";
            session.persist(order);
            UUID[] id = new UUID[1];
            session.doWork(connection -> id[0] = notification.enqueue(connection));
            Driver.enqueued(id[0]);
            for (RuntimeException failure : failures) throw failure;
            transaction.commit();
        } catch (RuntimeException e) {
            transaction.rollback();
            throw e;
        } finally {
            session.close();
        }
    }
}
