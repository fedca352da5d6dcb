# frozen_string_literal: true

# The rich messages that are sent once by Rails' own SMTP delivery and once through the outbox. X-Case names each.
# Attachments have content ids of their own: Mail would make new ones each time. No line is a lone dot: Mail 2.7 stuffs
# it, and Net::SMTP does so again.
class CaseMailer < ActionMailer::Base
  BYTES = ((0..255).to_a * 5).pack("C*")
  PIXEL = ["89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f000105" \
           "01012718e3660000000049454e44ae426082"].pack("H*")

  default from: "Shop <no-reply@shop.example>", to: "ada@example.org"

  CASES = %i[plain alternative html_only odd_files text_files inline_alone inline_beside people named_headers
             long_subject hard_lines eight_bit empty nothing forwarded own_id].freeze

  def self.all
    CASES.map { |name| public_send(name) }
  end

  def plain
    letter "Plain", text: "Thank you.\n"
  end

  def alternative
    letter "Two forms", text: "Thank you, Ada.\n", html: "<p>Thank you, <b>Ada</b>.</p>\n"
  end

  def html_only
    letter "Only HTML", html: "<p>Größe: 5 &lt; 6</p>\n"
  end

  def odd_files
    file "with some spaces.pdf", "%PDF-1.4\n".b + BYTES
    file 'a "quoted" name; with=signs.bin', BYTES
    file "Überraschung für Zoë – 花.pdf", BYTES, mime_type: "application/pdf"
    file "#{'long-' * 30}name.bin", "\x00\xFF".b * 100, mime_type: "application/octet-stream"
    letter "Odd files", text: "Four files.\n", html: "<p>Four files.</p>\n"
  end

  def text_files
    file "naïve list.csv", "name;price\r\nBänder;1,50 €\r\n"
    file "plain.txt", "a\n..\n.b\n", mime_type: "text/plain; charset=UTF-8"
    file "invite.ics", "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", mime_type: "text/calendar; method=REQUEST"
    letter "Text files", text: "See the lists.\n"
  end

  def inline_alone
    file "pixel.png", PIXEL, into: attachments.inline
    letter "Inline", html: "<img src=\"#{attachments['pixel.png'].url}\" alt=\"pixel\">\n"
  end

  def inline_beside
    file "pixel.png", PIXEL, into: attachments.inline
    file "rechnung nr 1.pdf", BYTES
    letter "Inline and beside", text: "An image.\n",
                                html: "<img src=\"#{attachments['pixel.png'].url}\" alt=\"pixel\">\n"
  end

  def people
    letter "Größe für Zoë 花", text: "To many.\n",
                              from: "Shop <no-reply@shop.example>",
                              to: ['"Lovelace, Ada" <ada@example.org>', "Böb <bob@example.org>"],
                              cc: ["Grace Hopper <grace@example.org>", "ivan@sub.example.org"],
                              bcc: ["Heidi <heidi@example.org>", "olivia@example.net", "bob@example.org"],
                              reply_to: "Hilfe für alle <peggy@example.net>"
  end

  def named_headers
    headers "List-Unsubscribe" => "<https://shop.example/u?id=1&x=%20>, <mailto:no-reply@shop.example?subject=off>",
            "List-Unsubscribe-Post" => "List-Unsubscribe=One-Click",
            "References" => "<one@shop.example> <two@shop.example>", "In-Reply-To" => "<two@shop.example>",
            "X-Campaign" => "frühling; id=42", "X-Long" => "word " * 60
    letter "Headers", text: "Headers.\n"
  end

  def long_subject
    letter "#{'A subject that goes on and on, ' * 6}mit Größe am Ende", text: "Long.\n"
  end

  def hard_lines
    letter "Hard lines", text: "..\n...\n.leading dot\r\nCR LF before, bare LF after\n#{'x' * 1500}\n" \
                              "#{'word ' * 400}\nFrom here on\n\ttab and trailing space \n=3D equals=\n.end\n"
  end

  def eight_bit
    letter "Eight bit", text: "Grüße aus Köln, 花火 🎆\n#{'ä' * 700}\n", html: "<p>#{'Größe ' * 300}</p>"
  end

  def empty
    letter "Empty-ish", text: "\n"
  end

  def nothing
    letter "", text: ""
  end

  def forwarded
    file "forwarded.eml", "From: Bob <bob@example.org>\r\nTo: ada@example.org\r\nSubject: Inner\r\n" \
                          "Message-ID: <inner@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n" \
                          "Inner text.\r\n", mime_type: "message/rfc822", encoding: "7bit"
    file "beside.bin", BYTES # Mail does not count a message among the attachments: alone, the type would be text/plain
    letter "Forwarded", text: "See below.\n"
  end

  def own_id
    letter "Own id", text: "Mine.\n", message_id: "<order-1@shop.example>", date: Time.utc(2026, 1, 2, 3, 4, 5)
  end

  private

  def file(name, content, into: attachments, **options)
    @files = @files.to_i + 1
    # With dedup keys Mail makes them anew: that must not matter.
    id = ENV["KEYED"] ? {} : { content_id: "<#{action_name}.#{@files}@shop.example>" }
    into[name] = { content: content, **id, **options }
  end

  def letter(subject, text: nil, html: nil, **fields)
    headers["X-Case"] = action_name
    headers["X-Hapax-Dedup-Key"] = "#{ENV["KEYED"]}-#{action_name}" if ENV["KEYED"]
    mail(subject: subject, **fields) do |format|
      format.text { render plain: text } if text
      format.html { render html: html.html_safe } if html # rubocop:disable Rails/OutputSafety
    end
  end
end
