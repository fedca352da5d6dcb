//! `fallback` of routes: each names routes there are, each once, and no way leads back to where it began.

use std::collections::BTreeSet;

use hapax_mail::Transport;

use super::{
    nearest::nearest,
    origin::Problem,
    reader::{Given, Reader},
    settings::{Route, Way},
};

/// Reports what cannot work.
pub(super) fn check(reader: &mut Reader, routes: &[Route]) {
    let mut circles = BTreeSet::new();
    for route in routes {
        for (at, given) in route.fallback.iter().enumerate() {
            let found = routes.iter().find(|other| other.name == given.text);
            let earlier = route.fallback[..at].iter().any(|earlier| earlier.text == given.text);
            let (message, hint) = match found {
                None => ("there is no such route".to_owned(), no_such(&given.text, routes)),
                Some(other) if other.name == route.name => {
                    ("is the route itself".to_owned(), "name another route, or leave fallback out".to_owned())
                }
                Some(other) if takes_nothing_itself(other) => (
                    "takes nothing itself: others share what is for it".to_owned(),
                    "name one of those that share instead".to_owned(),
                ),
                Some(_) if earlier => ("is named twice".to_owned(), "name each route once".to_owned()),
                Some(other) => match way_back(other, &route.name, routes, &mut vec![route.name.as_str()]) {
                    Some(way) => {
                        // Told of the first of those in it.
                        if !circles.insert(way.iter().copied().collect::<BTreeSet<_>>()) {
                            continue;
                        }
                        let message = format!("leads in a circle: {} -> {}", route.name, way.join(" -> "));
                        (message, "leave one of them out: a route may not stand in for itself".to_owned())
                    }
                    None => {
                        warn(reader, route, other);
                        continue;
                    }
                },
            };
            refuse(reader, &route.name, given, message, hint);
        }
    }
}

/// Whether it has weights, and no part in them.
fn takes_nothing_itself(route: &Route) -> bool {
    !route.weights.is_empty() && !route.weights.iter().any(|(given, part)| given.text == route.name && *part > 0)
}

/// What stands in for a route and is of no use when it has to.
fn warn(reader: &mut Reader, route: &Route, other: &Route) {
    let (own, host) = (host(&route.way), host(&other.way));
    let message = match (&other.way, own, host) {
        (_, None, _) => return,
        (Way::Capture(_), ..) => "captures mail, and does not deliver it: what goes there counts as sent",
        (_, _, None) => "writes mail into a directory, and does not deliver it: what goes there counts as sent",
        (_, Some(own), Some(host)) if own.eq_ignore_ascii_case(host) => {
            "leads to the same host: when that cannot be reached, neither can"
        }
        _ => return,
    };
    let problem = Problem::new(format!("routes.{}.fallback", route.name), format!("{}: {message}", other.name));
    reader.warnings.push(problem.hint("name a route to another server, or leave it out"));
}

fn host(way: &Way) -> Option<&str> {
    match way {
        Way::Transport(transport) => match &**transport {
            Transport::Smtp(server) => Some(&server.host),
            Transport::File { .. } => None,
        },
        Way::Capture(_) => None,
    }
}

pub(super) fn no_such(name: &str, routes: &[Route]) -> String {
    let known: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the routes are: {}", known.join(", ")),
    }
}

/// From `route` to `end`, by name.
fn way_back<'a>(route: &'a Route, end: &str, routes: &'a [Route], seen: &mut Vec<&'a str>) -> Option<Vec<&'a str>> {
    if route.name == end {
        return Some(vec![&route.name]);
    }
    if seen.contains(&route.name.as_str()) {
        return None;
    }
    seen.push(&route.name);
    route.fallback.iter().find_map(|given| {
        let next = routes.iter().find(|other| other.name == given.text)?;
        let mut way = way_back(next, end, routes, seen)?;
        way.insert(0, &route.name);
        Some(way)
    })
}

fn refuse(reader: &mut Reader, route: &str, given: &Given, message: String, hint: String) {
    let problem = Problem::new(format!("routes.{route}.fallback"), message).hint(hint);
    reader.problems.push(problem.of(given.shown(), given.origin.clone()));
}
