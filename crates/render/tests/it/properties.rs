//! Any strings in: nothing breaks the wire, everything parses.

use hapax_core::envelope::Content;
use proptest::{collection::vec, option, prelude::*};

use crate::support::*;

/// Text with what breaks mail, far more often than chance would bring it.
fn nasty() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "\\PC{0,12}",
        2 => "[ -~]{0,90}",
        2 => proptest::sample::select(vec![
            "\r\n", "\n", "\r", "\n.\n", "\r\n.\r\n", "=", "=\r\n", " ", "\t", "\0", "\"", "\\", "=?utf-8?Q?", "?=", "<", ">",
            ",", ";", ":", "@", "🎉", "é", "--=_", "\u{2028}", "\u{7f}",
        ]).prop_map(str::to_owned),
        1 => "[a-z]{990,1010}",
        1 => " {70,80}",
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_strings_give_a_sound_message_or_an_error(
        subject in nasty(),
        text in option::of(nasty()),
        html in option::of(nasty()),
        name in nasty(),
        header in nasty(),
        filename in nasty(),
        content in vec(any::<u8>(), 0..300),
        inline in any::<bool>(),
    ) {
        let clean = |text: &str| text.replace(char::is_control, " ");
        for (subject, name, header, filename) in [
            (subject.clone(), name.clone(), header.clone(), filename.clone()),
            (clean(&subject), clean(&name), clean(&header), clean(&filename)),
        ] {
            let mut one = ready(&subject, text.as_deref(), html.as_deref());
            one.recipients = vec![format!("{name} <ada@example.org>"), "b@example.org".to_owned()];
            one.headers = vec![("X-Own".to_owned(), header)];
            one.attachments = vec![attachment(&filename, &content)];
            one.attachments[0].content_id = inline.then(|| "logo".to_owned());
            let Ok(rendered) = try_render(&one) else { continue };
            assert_wire(&rendered.bytes);
            prop_assert_eq!(&rendered, &try_render(&one).expect("as before"));
            let fields = names(&rendered.bytes);
            prop_assert_eq!(fields.iter().filter(|name| *name == "Subject").count(), 1);
            prop_assert_eq!(fields.iter().filter(|name| *name == "Bcc").count(), 0);
            let message = parse(&rendered.bytes);
            prop_assert_eq!(message.attachments().last().map(|part| part.contents()), Some(&content[..]));
            prop_assert_eq!(message.to().map(|to| to.iter().count()), Some(2));
        }
    }

    #[test]
    fn any_text_comes_back(text in nasty()) {
        let bytes = render(&ready("s", Some(&text), Some("<p>")));
        let message = parse(&bytes);
        let wanted = text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n");
        prop_assert_eq!(message.body_text(0).expect("a text"), wanted);
    }

    #[test]
    fn any_subject_comes_back(subject in nasty()) {
        let subject = subject.replace(char::is_control, " ").trim().to_owned();
        let bytes = render(&ready(&subject, Some("t"), None));
        let message = parse(&bytes);
        prop_assert_eq!(message.subject().unwrap_or_default(), subject);
    }

    #[test]
    fn any_raw_bytes_give_a_sound_message_or_an_error(head in nasty(), body in vec(any::<u8>(), 0..200)) {
        let raw = [b"Subject: x\r\n".as_slice(), head.as_bytes(), b"\r\n", &body].concat();
        if let Ok(rendered) = try_render(&notification(Content::Raw(raw))) {
            assert_wire(&rendered.bytes);
            let again = try_render(&notification(Content::Raw(rendered.bytes.clone()))).expect("still a message");
            prop_assert_eq!(again.bytes, rendered.bytes);
        }
    }
}

proptest! {
    // Each is three messages of mjml, rendered twice.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_payload_is_rendered_or_refused_in_words(
        name in nasty(),
        number in "-?[0-9]{1,45}(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        raw in nasty(),
        locale in "[a-zA-Z_-]{0,12}",
    ) {
        let renderer = payload_renderer();
        let quoted = serde_json::to_string(&name).expect("a string");
        for json in [format!("{{\"name\": {quoted}, \"n\": {number}}}"), raw.clone(), format!("{{\"n\": {raw}}}")] {
            let mut one = notification(Content::Payload(json));
            one.locale = Some(locale.clone());
            if let Ok(rendered) = renderer.render(&one, FROM, None) {
                assert_wire(&rendered.bytes);
                prop_assert_eq!(rendered, renderer.render(&one, FROM, None).expect("as before"));
            }
        }
    }
}

/// A kind that does all a kind can do with a name and a number.
fn payload_renderer() -> &'static hapax_render::Renderer {
    static RENDERER: std::sync::LazyLock<hapax_render::Renderer> = std::sync::LazyLock::new(|| {
        crate::kinds::renderer(&[
            ("order_confirmed/subject.txt", "{{ name }}"),
            (
                "order_confirmed/body.mjml",
                "<mjml><mj-body><mj-section><mj-column><mj-text>{{ name }} {{ n }} {{ n | number }} \
                 {{ n | money('EUR') }}</mj-text></mj-column></mj-section></mj-body></mjml>",
            ),
            ("order_confirmed/schema.json", "{\"required\": [\"name\"]}"),
            ("order_confirmed/kind.toml", "thread_key = \"{{ name }}\"\n[headers]\nX-Name = \"{{ name }}\""),
        ])
        .expect("good templates")
    });
    &RENDERER
}
