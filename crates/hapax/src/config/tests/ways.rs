//! Routes: their rates, and what stands in for them.

use super::*;

#[test]
fn a_rate_is_read_and_there_is_none_unless_set() {
    let (loaded, _directory) = load_text(&with("routes.default", "rate = \"200/min\""), &[]);
    assert_eq!((loaded.problems, loaded.warnings), (vec![], vec![]));
    let rate = hapax_relay::Rate { count: 200, per: std::time::Duration::from_secs(60) };
    assert_eq!(loaded.settings.routes[0].rate, Some(rate));
    let (loaded, _directory) = load_text(&with("routes.default", "max_connections = 3"), &[]);
    assert_eq!(loaded.settings.routes[0].rate, None);
}

#[test]
fn fallbacks_are_routes_each_once_and_never_lead_in_a_circle() {
    let route = |name: &str, fallback: &str| {
        format!("[routes.{name}]\nurl = \"capture:\"\nfrom = \"a@example.org\"\nfallback = {fallback}\n")
    };
    let of = |routes: &[String]| {
        let text = format!("[database]\nurl = \"postgres://db/x\"\n{}", routes.concat());
        let (loaded, _directory) = load_text(&text, &[]);
        let said: Vec<String> =
            loaded.problems.iter().map(|problem| format!("{} {}", problem.path, problem.message)).collect();
        (said, loaded.settings.routes)
    };
    let (said, routes) = of(&[route("default", "[\"b\", \"c\"]"), route("b", "\"c\""), route("c", "[]")]);
    assert_eq!(said, Vec::<String>::new());
    let names: Vec<&str> = routes
        .iter()
        .find(|route| route.name == "default")
        .expect("it is there")
        .fallback
        .iter()
        .map(|given| given.text.as_str())
        .collect();
    assert_eq!(names, ["b", "c"]);
    let (said, _) = of(&[route("default", "[\"b\"]"), route("b", "[\"c\"]"), route("c", "[\"b\", \"b\"]")]);
    assert_eq!(said, ["routes.b.fallback leads in a circle: b -> c -> b", "routes.c.fallback is named twice",]);
    let (said, _) = of(&[route("default", "[\"b\"]"), route("b", "[\"c\"]"), route("c", "[\"default\"]")]);
    assert_eq!(said, ["routes.b.fallback leads in a circle: b -> c -> default -> b"], "each circle once");
}

fn three(of_default: &str, of_b: &str) -> Loaded {
    let text = format!(
        "[database]\nurl = \"postgres://db/x\"\n\
         [routes.default]\nurl = \"smtp://mail.example.com\"\nfrom = \"a@example.org\"\n{of_default}\n\
         [routes.b]\nurl = \"smtps://MAIL.example.com\"\nfrom = \"a@example.org\"\n{of_b}\n\
         [routes.c]\nurl = \"capture:\"\nfrom = \"a@example.org\"\n"
    );
    load_text(&text, &[]).0
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| format!("{} {}", problem.path, problem.message)).collect()
}

#[test]
fn a_fallback_that_is_of_no_use_is_warned_about() {
    let loaded = three("fallback = [\"b\", \"c\"]", "");
    assert_eq!(loaded.problems, []);
    assert_eq!(
        texts(&loaded.warnings),
        [
            "routes.default.fallback b: leads to the same host: when that cannot be reached, neither can",
            "routes.default.fallback c: captures mail, and does not deliver it: what goes there counts as sent",
        ]
    );
    let plain = three("", "");
    assert_eq!((plain.problems, plain.warnings), (vec![], vec![]));
}

#[test]
fn weights_are_read_from_file_and_environment_and_a_route_with_parts_has_none_itself() {
    let loaded = three("weights = { default = 9, b = 1, c = 0 }", "");
    assert_eq!((loaded.problems, loaded.warnings), (vec![], vec![]));
    let parts =
        |route: &Route| route.weights.iter().map(|(given, part)| format!("{} {part}", given.text)).collect::<Vec<_>>();
    let default = loaded.settings.routes.iter().find(|route| route.name == "default").expect("it is there");
    assert_eq!(parts(default), ["b 1", "c 0", "default 9"]);
    let shown = loaded.shown.iter().find(|shown| shown.path == "routes.default.weights").expect("it is shown");
    assert_eq!(shown.value.as_deref(), Some("{ b = 1, c = 0, default = 9 }"));
    let variables = [("HAPAX__ROUTES__DEFAULT__WEIGHTS__DEFAULT", "3")];
    let (loaded, _directory) = load_text(GOOD, &variables);
    assert_eq!(loaded.problems, []);
    assert_eq!(parts(&loaded.settings.routes[0]), ["default 3"]);
    let loaded = three("weights = { default = 9, b = 1 }", "weights = { c = 1 }");
    assert_eq!(texts(&loaded.problems), ["routes.default.weights has weights itself"]);
}

#[test]
fn tenants_senders_envelopes_and_local_addresses_reach_the_relay() {
    let text = format!(
        "{GOOD}envelope_sender = \"b+{{message_id}}@example.org\"\nlocal_address = \"[2001:db8::5]\"\n\
         [tenants.acme]\nroute = \"default\"\ntime_zone = \"America/New_York\"\n[tenants.\"a.b\"]\n\
         [senders.\"mail.example.org\"]\nroute = \"default\"\n"
    );
    let (loaded, _directory) = load_text(&text, &[]);
    assert_eq!((&loaded.problems, &loaded.warnings), (&vec![], &vec![]));
    let directions = &loaded.settings.directions;
    let tenant =
        hapax_relay::Tenant { route: Some("default".to_owned()), zone: hapax_relay::Zone::named("America/New_York") };
    assert_eq!(directions.tenants["acme"], tenant);
    assert_eq!(directions.tenants["a.b"], hapax_relay::Tenant::default());
    assert_eq!(directions.senders["mail.example.org"], "default");
    let route = &loaded.settings.routes[0];
    assert_eq!(route.envelope_sender, hapax_relay::EnvelopeSender::parse("b+{message_id}@example.org").ok());
    let Way::Transport(transport) = &route.way else { panic!("a server") };
    let hapax_mail::Transport::Smtp(server) = &**transport else { panic!("a server") };
    assert_eq!(server.local_address, "2001:db8::5".parse().ok());
}

#[test]
fn quiet_hours_are_one_window_or_several_and_what_expires_in_them_is_warned_about() {
    let of = |lines: &str| load_text(&with("kinds.newsletter", lines), &[]).0;
    let loaded = of("quiet_hours = \"22:00-07:00, 12:00-13:30\"\ntime_zone = \"Europe/Berlin\"\n\
                     time_zone_from = \"payload.to.zone\"\nexpires_after = \"10h\"");
    assert_eq!((&loaded.problems, &loaded.warnings), (&vec![], &vec![]));
    let hours = loaded.settings.kinds["newsletter"].quiet.clone().expect("quiet hours");
    let windows = [hapax_relay::Window::new(22 * 60, 7 * 60), hapax_relay::Window::new(12 * 60, 13 * 60 + 30)];
    assert_eq!(hours.windows, windows.into_iter().flatten().collect::<Vec<_>>());
    assert_eq!(Some(&hours.zone), hapax_relay::Zone::named("Europe/Berlin").as_ref());
    assert_eq!(hours.zone_from, Some(vec!["to".to_owned(), "zone".to_owned()]));
    let loaded = of("quiet_hours = [\"22:00-07:00\"]\nexpires_after = \"9h\"");
    assert_eq!(loaded.problems, []);
    assert_eq!(
        texts(&loaded.warnings),
        ["kinds.newsletter.expires_after is 9h, no longer than quiet hours of 9h: what is enqueued when they begin \
          expires unsent"]
    );
    let loaded = of("time_zone = \"UTC\"\ntime_zone_from = \"payload.zone\"");
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings.iter().all(|warning| warning.message.contains("there are no quiet_hours")));
    assert_eq!(of("priority = \"bulk\"").settings.kinds["newsletter"].quiet, None);
}
