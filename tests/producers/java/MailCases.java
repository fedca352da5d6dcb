import java.util.*;
import javax.mail.Message.RecipientType;
import javax.mail.internet.*;
import org.springframework.core.io.ByteArrayResource;
import org.springframework.mail.SimpleMailMessage;
import org.springframework.mail.javamail.*;

/** The same messages through any JavaMailSender, by each of its ways to send. */
final class MailCases {
    interface Content {
        void fill(MimeMessageHelper message) throws Exception;
    }

    private static final byte[] PNG = Base64.getDecoder().decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlE"
        + "QVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==");

    private final JavaMailSender sender;
    private final List<MimeMessage> messages = new ArrayList<>();

    private MailCases(JavaMailSender sender) { this.sender = sender; }

    static int send(JavaMailSender sender) {
        MailCases cases = new MailCases(sender);
        try {
            cases.texts();
            cases.addresses();
            cases.parts();
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
        sender.send(cases.messages.toArray(new MimeMessage[0]));

        // What a SimpleMailMessage cannot say, X-Case, a MimeMailMessage's message can.
        sender.send(message -> {
            MimeMailMessage simple = new MimeMailMessage(new MimeMessageHelper(message));
            SimpleMailMessage template = new SimpleMailMessage();
            template.setFrom("Shop <no-reply@shop.example>");
            template.setTo("ada@example.org");
            template.setBcc("peggy@example.net");
            template.setSubject("From a template");
            template.setText("Hello Ada.\n");
            template.copyTo(simple);
            label(message, "simple-message");
        });
        return cases.messages.size() + 1;
    }

    private static void label(MimeMessage message, String name) throws Exception {
        message.setHeader("X-Case", name);
        String keyed = System.getenv("KEYED");
        if (keyed != null) message.setHeader("X-Hapax-Dedup-Key", keyed + "-" + name);
    }

    private void add(String name, boolean multipart, Content content) throws Exception {
        MimeMessage message = sender.createMimeMessage();
        MimeMessageHelper helper = new MimeMessageHelper(message, multipart, "UTF-8");
        helper.setFrom("no-reply@shop.example", "Shop");
        helper.setTo("ada@example.org");
        helper.setSubject("Case " + name);
        content.fill(helper);
        label(message, name);
        messages.add(message);
    }

    private void texts() throws Exception {
        add("plain", false, m -> m.setText("Thank you.\nTotal: 19.90 EUR.\n"));
        add("plain-non-ascii", false, m -> m.setText("Gr\u00fc\u00dfe aus K\u00f6ln, 19,90 \u20ac. \ud83d\udce6\n"));
        add("html", false, m -> m.setText("<p>Thank <b>you</b>.</p>", true));
        add("alternative", true, m -> m.setText("Thank you, Zo\u00eb.", "<p>Thank you, <b>Zo\u00eb</b>.</p>"));
        add("line-ends-and-dots", false, m -> m.setText(".\n..two dots\r\n.\r\nbare LF\nCR LF\r\n\r\n\n.last"));
        add("long-lines", false, m -> m.setText("x".repeat(5000) + "\n" + "word ".repeat(300) + "\nend\n"));
        add("trailing-spaces", false, m -> m.setText("a  \nb\t\n \n-- \nShop\n\n\n"));
        add("empty", false, m -> m.setText(""));
        add("line-break-only", false, m -> m.setText("\r\n"));
        add("eight-bit", false, m -> {
            m.setText("Gr\u00fc\u00dfe\r\n");
            m.getMimeMessage().setHeader("Content-Transfer-Encoding", "8bit");
        });
        add("latin-1", false, m -> m.getMimeMessage().setText("Gr\u00fc\u00dfe\n", "ISO-8859-1"));
    }

    private void addresses() throws Exception {
        add("many-recipients", false, m -> {
            m.setTo(new InternetAddress[] {new InternetAddress("ada@example.org", "Ada Lovelace"),
                new InternetAddress("bob@example.org", "Bob \"Bobby\" O'Neil, Jr."),
                new InternetAddress("ivan@sub.example.org", "Iv\u00e1n P\u00e9rez", "UTF-8")});
            m.setCc(new InternetAddress[] {new InternetAddress("grace@example.org", "Grace"),
                new InternetAddress("judy@sub.example.org", "\u674e\u5a1c", "UTF-8"),
                new InternetAddress("ada@example.org")});
            m.setBcc(new String[] {"heidi@example.org", "Olivia <olivia@example.net>"});
            m.setReplyTo("help@shop.example", "Hilfe f\u00fcr Kunden");
            m.setText("To all of you.\n");
        });
        add("blind-copies-only", false, m -> {
            m.getMimeMessage().removeHeader("To");
            m.setBcc(new String[] {"heidi@example.org", "peggy@example.net"});
            m.setText("To some of you.\n");
        });
        add("group", false, m -> {
            m.getMimeMessage().setRecipients(RecipientType.TO, "friends: bob@example.org, grace@example.org;");
            m.getMimeMessage().setRecipients(RecipientType.CC, "undisclosed-recipients:;");
            m.setText("To my friends.\n");
        });
        add("headers", false, m -> {
            MimeMessage message = m.getMimeMessage();
            message.setHeader("List-Unsubscribe", "<https://shop.example/u?t=a.b~c>,\r\n <mailto:u@shop.example>");
            message.setHeader("List-Unsubscribe-Post", "List-Unsubscribe=One-Click");
            message.setHeader("In-Reply-To", "<one@shop.example>");
            message.setHeader("References", "<" + "a".repeat(60) + "@shop.example>\r\n <one@shop.example>");
            message.setHeader("X-Campaign", MimeUtility.encodeText("Fr\u00fchling 2026", "UTF-8", "Q"));
            message.addHeader("X-Repeated", "first");
            message.addHeader("X-Repeated", "second");
            message.setHeader("X-Empty", "");
            m.setPriority(1);
            m.setText("Headers.\n");
        });
        add("long-subject", false, m -> {
            m.setSubject("Your order of " + "many things and ".repeat(15) + "the rest");
            m.setText("Long.\n");
        });
        add("long-subject-non-ascii", false, m -> {
            m.setSubject("\u00dcber " + "sch\u00f6ne Gr\u00fc\u00dfe \ud83d\udce6 und ".repeat(12) + "mehr");
            m.setText("Lang.\n");
        });
        add("own-id-and-date", false, m -> {
            m.getMimeMessage().setHeader("Message-ID", "<own." + Driver.TAG + "@shop.example>");
            m.setSentDate(new Date(1767225600000L));
            m.setText("My own.\n");
        });
    }

    private void parts() throws Exception {
        byte[] all = new byte[1024];
        for (int i = 0; i < all.length; i++) all[i] = (byte) i;
        Content attached = m -> {
            String csv = "a;b\r\n1;\u00fc\n";
            m.addAttachment("report 2026 \"final\".pdf", new ByteArrayResource(all), "application/pdf");
            m.addAttachment("Rechnung f\u00fcr K\u00f6ln.csv", new ByteArrayResource(csv.getBytes("UTF-8")),
                "text/csv; charset=UTF-8");
            m.addAttachment("\u62a5\u544a " + "x".repeat(90) + ".bin", new ByteArrayResource(all));
            m.addAttachment("empty.txt", new ByteArrayResource(new byte[0]), "text/plain");
        };
        add("attachments", true, m -> {
            m.setText("See attached.\n");
            attached.fill(m);
        });
        add("inline-image", true, m -> {
            m.setText("<p>Logo: <img src=\"cid:logo\"></p>", true);
            m.addInline("logo", new ByteArrayResource(PNG), "image/png");
        });
        add("everything", true, m -> {
            m.setText("Logo, and attached.\n", "<p>Logo: <img src=\"cid:logo@shop\"></p>");
            m.addInline("logo@shop", new ByteArrayResource(PNG), "image/png");
            attached.fill(m);
        });
        add("attached-message", true, m -> {
            MimeMessage inner = sender.createMimeMessage();
            inner.setFrom("heidi@example.org");
            inner.setSubject("Innen: \u00fc", "UTF-8");
            inner.setText("Inner text: \u00fc\n", "UTF-8");
            inner.saveChanges();
            inner.setHeader("Message-ID", "<inner@example.org>");
            inner.setHeader("Date", "Thu, 1 Jan 2026 00:00:00 +0000");
            MimeBodyPart part = new MimeBodyPart();
            part.setContent(inner, "message/rfc822");
            part.setDisposition("attachment");
            m.setText("Forwarded.\n");
            m.getRootMimeMultipart().addBodyPart(part);
        });
    }
}
