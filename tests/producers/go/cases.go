package main

import (
	"io"
	"mime"
	"os"
	"strings"
	"time"

	mail "gopkg.in/mail.v2"
)

// The same messages for SMTP and for the outbox.
func cases() (all []*mail.Message) {
	add := func(name string, fill func(*mail.Message), settings ...mail.MessageSetting) {
		m := mail.NewMessage(settings...)
		m.SetHeader("From", "Shop <no-reply@shop.example>")
		m.SetHeader("To", "ada@example.org")
		m.SetHeader("Subject", "Case "+name)
		m.SetHeader("X-Case", name)
		if keyed := os.Getenv("KEYED"); keyed != "" {
			m.SetHeader("X-Hapax-Dedup-Key", keyed+"-"+name)
		}
		fill(m)
		all = append(all, m)
	}
	text := func(body string) func(*mail.Message) {
		return func(m *mail.Message) { m.SetBody("text/plain", body) }
	}

	add("plain", text("Thank you.\nTotal: 19.90 EUR.\n"))
	add("plain-non-ascii", text("Grüße aus Köln, 19,90 €. 📦\n"))
	add("plain-base64", text("Grüße aus Köln, 19,90 €. 📦\n"), mail.SetEncoding(mail.Base64))
	add("plain-8bit", text("Grüße aus Köln\r\n.\r\n..\r\n"), mail.SetEncoding(mail.Unencoded))
	add("line-ends-and-dots", text(".\n..two dots\r\n.\r\nbare LF\nCR LF\r\n\r\n\n.last"))
	add("line-ends-8bit", text(".\n..two dots\r\n.\r\nbare LF\nCR LF\r\n\r\n\n.last"), mail.SetEncoding(mail.Unencoded))
	add("long-lines", text(strings.Repeat("x", 5000)+"\n"+strings.Repeat("word ", 300)+"\nend\n"))
	add("trailing-spaces", text("a  \nb\t\n \n-- \nShop\n\n\n"))
	add("empty", text(""))
	add("html", func(m *mail.Message) { m.SetBody("text/html", "<p>Thank <b>you</b>.</p>") })
	add("alternative", func(m *mail.Message) {
		m.SetBody("text/plain", "Thank you, Zoë.")
		m.AddAlternative("text/html", "<p>Thank you, <b>Zoë</b>.</p>")
	})
	add("many-recipients", func(m *mail.Message) {
		m.SetHeader("To", m.FormatAddress("ada@example.org", "Ada Lovelace"),
			m.FormatAddress("bob@example.org", `Bob "Bobby" O'Neil, Jr.`),
			m.FormatAddress("ivan@sub.example.org", "Iván Pérez"))
		m.SetHeader("Cc", m.FormatAddress("grace@example.org", "Grace"),
			m.FormatAddress("judy@sub.example.org", "李娜"), "ada@example.org")
		m.SetHeader("Bcc", "heidi@example.org", m.FormatAddress("olivia@example.net", "Olivia"))
		m.SetAddressHeader("Reply-To", "help@shop.example", "Hilfe für Kunden")
		m.SetBody("text/plain", "To all of you.\n")
	})
	add("blind-copies", func(m *mail.Message) {
		m.SetHeader("Bcc", "heidi@example.org", "peggy@example.net")
		m.SetBody("text/plain", "To some of you.\n")
	})
	add("headers", func(m *mail.Message) {
		m.SetHeader("List-Unsubscribe", "<https://shop.example/u?t=a.b~c>", "<mailto:u@shop.example?subject=u>")
		m.SetHeader("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
		m.SetHeader("In-Reply-To", "<one@shop.example>")
		m.SetHeader("References", "<"+strings.Repeat("a", 60)+"@shop.example> <one@shop.example>")
		m.SetHeader("X-Campaign", "Frühling 2026")
		m.SetHeader("X-Empty", "")
		m.SetBody("text/plain", "Headers.\n")
	})
	add("long-subject", func(m *mail.Message) {
		m.SetHeader("Subject", "Your order of "+strings.Repeat("many things and ", 15)+"the rest")
		m.SetBody("text/plain", "Long.\n")
	})
	add("long-subject-non-ascii", func(m *mail.Message) {
		m.SetHeader("Subject", "Über "+strings.Repeat("schöne Grüße 📦 und ", 12)+"mehr")
		m.SetBody("text/plain", "Lang.\n")
	})
	add("own-id-and-date", func(m *mail.Message) {
		m.SetHeader("Message-ID", "<own."+tag+"@shop.example>")
		m.SetDateHeader("Date", time.Unix(1767225600, 0).UTC())
		m.SetBody("text/plain", "My own.\n")
	})

	binary := make([]byte, 1024)
	for i := range binary {
		binary[i] = byte(i)
	}
	// gomail puts a name between quotes as it is. What needs more, an application writes into the header itself.
	named := func(name, contentType string) mail.FileSetting {
		return mail.SetHeader(map[string][]string{
			"Content-Type":        {contentType},
			"Content-Disposition": {mime.FormatMediaType("attachment", map[string]string{"filename": name})},
		})
	}
	const bytes = "application/octet-stream"
	long := "報告 " + strings.Repeat("x", 90) + ".bin"
	attach := func(m *mail.Message) {
		m.AttachReader("report 2026 (final).pdf", strings.NewReader(string(binary)))
		m.AttachReader("a", strings.NewReader("a;b\r\n1;ü\n"), named(`Rechnung "Köln".csv`, "text/csv; charset=UTF-8"))
		m.AttachReader("b", strings.NewReader(string(binary)), named(long, bytes))
		m.AttachReader("empty.txt", strings.NewReader(""))
		m.AttachReader("Grüße.txt", strings.NewReader("Raw UTF-8 in the name.\n"))
	}
	embed := func(m *mail.Message) {
		m.EmbedReader("logo.png", strings.NewReader(png))
	}
	add("attachments", func(m *mail.Message) { text("See attached.\n")(m); attach(m) })
	add("only-an-attachment", func(m *mail.Message) { m.AttachReader("a.bin", strings.NewReader(string(binary))) })
	add("inline-image", func(m *mail.Message) {
		m.SetBody("text/html", `<p>Logo: <img src="cid:logo.png"></p>`)
		embed(m)
	})
	add("everything", func(m *mail.Message) {
		m.SetBody("text/plain", "Logo, and attached.\n")
		m.AddAlternative("text/html", `<p>Logo: <img src="cid:logo.png"></p>`)
		embed(m)
		attach(m)
	})
	add("attached-message", func(m *mail.Message) {
		// gomail encodes every file with base64, which message/rfc822 may not be: so it travels as a file.
		inner := "From: heidi@example.org\r\nSubject: inner\r\nMessage-ID: <inner@example.org>\r\n\r\nInner text.\r\n"
		m.SetBody("text/plain", "Forwarded.\n")
		m.Attach("forwarded.eml", named("forwarded.eml", bytes),
			mail.SetCopyFunc(func(w io.Writer) error { _, err := io.WriteString(w, inner); return err }))
	})
	return all
}

const png = "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89" +
	"\x00\x00\x00\rIDATx\xdacd\xf8\xcfP\x0f\x00\x03\x86\x01\x80Z4}k\x00\x00\x00\x00IEND\xaeB`\x82"
