//! Environment variables that were meant for the configuration and never reach it: one underscore where there are two, or
//! a value that is no text. A variable that changes nothing is as bad as an unknown key in the file.

use super::{
    layers::Inputs,
    origin::{Origin, Problem},
    reader::Reader,
};

/// Reports them, and names what was meant.
pub(super) fn check(reader: &mut Reader, inputs: &Inputs) {
    let meant = |variable: &str| -> Option<String> {
        let key = reader.keys.iter().find(|key| squeezed(&format!("HAPAX_{}", key.path)) == squeezed(variable))?;
        Some(format!("HAPAX__{}", key.path.replace('.', "__").to_uppercase()))
    };
    let mut strays: Vec<&String> = inputs
        .variables
        .iter()
        .filter(|(name, value)| !value.is_empty() && is_ours(name) && !has_prefix(name))
        .map(|(name, _)| name)
        .collect();
    strays.sort();
    let mut problems: Vec<Problem> = strays
        .into_iter()
        .filter_map(|name| {
            let message = "is no variable of the configuration, it changes nothing";
            Some(Problem::new(name, message).hint(format!("did you mean {}?", meant(name)?)))
        })
        .collect();
    let not_text = inputs.unreadable.iter().filter(|name| has_prefix(name));
    problems.extend(not_text.map(|name| Problem::new(name, "is not UTF-8")));
    // HAPAX__RELAY_LEASE is a section nobody knows: better to name the variable than the nearest section.
    let hints: Vec<Option<String>> = reader
        .problems
        .iter()
        .map(|problem| match &problem.origin {
            Some(Origin::Environment(name)) if problem.message.starts_with("unknown ") => meant(name),
            _ => None,
        })
        .collect();
    for (problem, hint) in reader.problems.iter_mut().zip(hints) {
        if let Some(variable) = hint {
            problem.hint = Some(format!("did you mean {variable}?"));
        }
    }
    reader.problems.extend(problems);
}

/// Other programs' variables are none of our business: `HAPAX_SERVICE_HOST` is Kubernetes'.
fn is_ours(name: &str) -> bool {
    name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("HAPAX_"))
}

fn has_prefix(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("HAPAX__"))
}

/// The same with one underscore between any two words.
fn squeezed(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.split(['_', '.']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::super::{Inputs, load};

    fn told(variables: &[(&str, &str)]) -> Vec<String> {
        let good = [
            ("HAPAX__DATABASE__URL", "postgres://db/x"),
            ("HAPAX__ROUTES__DEFAULT__URL", "capture:"),
            ("HAPAX__ROUTES__DEFAULT__FROM", "a@example.org"),
        ];
        let all = good.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let inputs = Inputs {
            variables: all.collect(),
            unreadable: vec!["HAPAX__LOG__LEVEL".into(), "LANG".into()],
            ..Inputs::default()
        };
        let hint = |hint: &Option<String>| hint.clone().map(|hint| format!(" ({hint})")).unwrap_or_default();
        load(&inputs).problems.iter().map(|problem| format!("{problem}{}", hint(&problem.hint))).collect()
    }

    #[test]
    fn variables_that_miss_the_configuration_are_errors_that_name_what_was_meant() {
        let strays = [
            ("HAPAX_RELAY_LEASE", "1s"),
            ("HAPAX_DATABASE__PASSWORD", "CANARY"),
            ("HAPAX__RELAY_LEASE", "1s"),
            ("HAPAX__RELAY__LEESE", "1s"),
            ("HAPAX_ROUTES_DEFAULT_MAX_CONNECTIONS", "3"),
            ("HAPAX_SERVICE_HOST", "10.0.0.1"),
            ("HAPAX_RELAY_NAME", ""),
        ];
        let expected = [
            "relay.leese = \"1s\": unknown key [environment HAPAX__RELAY__LEESE] (did you mean lease?)",
            "relay_lease = \"1s\": unknown section [environment HAPAX__RELAY_LEASE] (did you mean HAPAX__RELAY__LEASE?)",
            "HAPAX_DATABASE__PASSWORD: is no variable of the configuration, it changes nothing (did you mean \
             HAPAX__DATABASE__PASSWORD?)",
            "HAPAX_RELAY_LEASE: is no variable of the configuration, it changes nothing (did you mean HAPAX__RELAY__LEASE?)",
            "HAPAX_ROUTES_DEFAULT_MAX_CONNECTIONS: is no variable of the configuration, it changes nothing (did you mean \
             HAPAX__ROUTES__DEFAULT__MAX_CONNECTIONS?)",
            "HAPAX__LOG__LEVEL: is not UTF-8",
        ];
        assert_eq!(told(&strays), expected);
        assert_eq!(told(&[]), ["HAPAX__LOG__LEVEL: is not UTF-8"]);
    }
}
