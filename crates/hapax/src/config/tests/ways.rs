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
    assert_eq!(
        said,
        [
            "routes.b.fallback leads in a circle: b -> c -> b",
            "routes.c.fallback leads in a circle: c -> b -> c",
            "routes.c.fallback is named twice",
        ]
    );
}
