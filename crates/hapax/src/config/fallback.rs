//! `fallback` of routes: each names routes there are, each once, and no way leads back to where it began.

use super::{
    nearest::nearest,
    origin::Problem,
    reader::{Given, Reader},
    settings::Route,
};

/// Reports what cannot work.
pub(super) fn check(reader: &mut Reader, routes: &[Route]) {
    for route in routes {
        for (at, given) in route.fallback.iter().enumerate() {
            let found = routes.iter().find(|other| other.name == given.text);
            let earlier = route.fallback[..at].iter().any(|earlier| earlier.text == given.text);
            let (message, hint) = match found {
                None => ("there is no such route".to_owned(), no_such(&given.text, routes)),
                Some(other) if other.name == route.name => {
                    ("is the route itself".to_owned(), "name another route, or leave fallback out".to_owned())
                }
                Some(_) if earlier => ("is named twice".to_owned(), "name each route once".to_owned()),
                Some(other) => match way_back(other, &route.name, routes, &mut vec![route.name.as_str()]) {
                    Some(way) => {
                        let message = format!("leads in a circle: {} -> {}", route.name, way.join(" -> "));
                        (message, "leave one of them out: a route may not stand in for itself".to_owned())
                    }
                    None => continue,
                },
            };
            refuse(reader, &route.name, given, message, hint);
        }
    }
}

fn no_such(name: &str, routes: &[Route]) -> String {
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
