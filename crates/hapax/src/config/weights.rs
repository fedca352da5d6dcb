//! `weights` of routes: which routes share what is for one, each with its part.

use super::{
    fallback::no_such,
    origin::{Origin, Problem},
    reader::{Given, Reader, Section},
    schema::Shape,
    settings::Route,
};

/// More than any share needs.
pub(super) const MOST: u32 = 1_000_000;

const HINT: &str = "a part for each route that takes one: weights = { main = 9, new = 1 }";

/// The routes and their parts.
pub(super) fn read(section: &mut Section<'_>) -> Vec<(Given, u32)> {
    let mut parts = Vec::new();
    for (name, given) in section.parts("weights", Shape::Parts) {
        match given.text.parse::<u32>() {
            Ok(part) if part <= MOST => parts.push((Given { text: name, quoted: true, ..given }, part)),
            _ => section.refuse_with(
                "weights",
                &Given { text: format!("{name} = {}", given.text), ..given },
                format!("is not a whole number between 0 and {MOST}"),
                HINT,
            ),
        }
    }
    parts
}

/// Reports what cannot be shared.
pub(super) fn check(reader: &mut Reader, routes: &[Route]) {
    for route in routes.iter().filter(|route| !route.weights.is_empty()) {
        let path = format!("routes.{}.weights", route.name);
        for (given, _) in &route.weights {
            let other = routes.iter().find(|other| other.name == given.text);
            let (message, hint) = match other {
                None => ("there is no such route", no_such(&given.text, routes)),
                Some(other) if other.name != route.name && !other.weights.is_empty() => {
                    let hint = format!("write its parts into {path}, each route that takes one once");
                    ("has weights itself", hint)
                }
                Some(_) => continue,
            };
            let problem = Problem::new(&path, message).hint(hint);
            reader.problems.push(problem.of(given.shown(), given.origin.clone()));
        }
        if route.weights.iter().all(|(_, part)| *part == 0) && !reader.problems.iter().any(|known| known.path == path) {
            let problem = Problem::new(&path, "has no part above 0: nothing would go anywhere").hint(HINT);
            let origin = route.weights.first().map_or(Origin::Default, |(given, _)| given.origin.clone());
            let all = route.weights.iter().map(|(given, part)| format!("{} = {part}", given.text));
            let shown = format!("{{ {} }}", all.collect::<Vec<_>>().join(", "));
            reader.problems.push(problem.of(shown, origin));
        }
    }
}
