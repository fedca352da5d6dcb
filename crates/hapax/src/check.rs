//! `hapax check`: the configuration, without starting anything.

use hapax_render::Renderer;
use serde_json::json;

use crate::{
    cli::Check,
    config::{Loaded, Problem, Shown, Way, advice, duration},
    failure::{Exit, Refusal, report, tell},
    output::{self, Table},
    run,
};

/// # Errors
/// None of its own; problems are printed and make it end with 78.
pub(crate) fn run(loaded: &Loaded, options: Check) -> anyhow::Result<Exit> {
    run::install_crypto();
    // Templates last: they are only of interest when their directory is there.
    let (renderer, templates) = match loaded.problems.iter().any(|problem| problem.path.starts_with("templates")) {
        true => (None, None),
        false => match run::renderer(&loaded.settings) {
            Ok(renderer) => (Some(renderer), None),
            Err(refusal) => (None, Some(refusal)),
        },
    };
    let strays = renderer.as_ref().map(Renderer::warnings).unwrap_or_default();
    let strays = strays.iter().map(|stray| Problem::new("templates", stray.to_string()));
    let warnings: Vec<Problem> = loaded.warnings.iter().cloned().chain(strays).collect();
    let (longest, mut problems) = (advice::stop_timeout(&loaded.settings), loaded.problems.clone());
    if let Some(given) = options.stop_timeout.filter(|given| *given < longest) {
        let message = format!("{} s is too short: a relay may take {} s to end", given.as_secs(), longest.as_secs());
        let hint = "set TimeoutStopSec or terminationGracePeriodSeconds to that, or shorten relay.shutdown_grace";
        problems.push(Problem::new("--stop-timeout", message).hint(hint));
    }
    problems.extend(renderer.iter().flat_map(|renderer| digests(loaded, renderer)));
    let fine = problems.is_empty() && templates.is_none();
    // What does not go together is only of interest when each value is fine.
    let advice = if fine { advice::advice(&loaded.settings) } else { Vec::new() };
    if options.json.json {
        let shown =
            |shown: &Shown| json!({ "path": shown.path, "value": shown.value, "origin": shown.origin.to_string() });
        let mut problems: Vec<_> = problems.iter().map(Problem::to_json).collect();
        problems.extend(templates.map(|refusal| json!({ "path": "templates", "message": refusal.to_string() })));
        output::json(&json!({
            "ok": fine,
            "file": loaded.file,
            "problems": problems,
            "warnings": warnings.iter().map(Problem::to_json).collect::<Vec<_>>(),
            "advice": advice.iter().map(Problem::to_json).collect::<Vec<_>>(),
            "stop_timeout_s": longest.as_secs(),
            "values": if options.print { loaded.shown.iter().map(shown).collect() } else { Vec::new() },
        }))?;
        return Ok(if fine { Exit::Done } else { Exit::Configuration });
    }
    if options.print {
        print(loaded);
    }
    for warning in &warnings {
        tell!("warning: {warning}");
    }
    for advice in &advice {
        tell!("advice: {advice}");
        advice.hint.iter().for_each(|hint| tell!("hint: {hint}"));
    }
    if !problems.is_empty() {
        report(&Refusal::configuration(&problems).into());
    }
    if let Some(refusal) = templates {
        report(&refusal.into());
    }
    if !fine {
        return Ok(Exit::Configuration);
    }
    let kinds = renderer.as_ref().map_or(0, |renderer| renderer.kinds().len());
    output::line(&summary(loaded, kinds));
    output::line(&format!(
        "to end it may take {}: TimeoutStopSec={} (systemd; with Type=notify it asks for that itself), \
         terminationGracePeriodSeconds: {} (Kubernetes)",
        duration::format(longest),
        longest.as_secs(),
        longest.as_secs()
    ));
    Ok(Exit::Done)
}

/// What digests could not be made, as far as samples tell: each would fail when its window closes.
fn digests(loaded: &Loaded, renderer: &Renderer) -> Vec<Problem> {
    let collecting = loaded.settings.kinds.iter().filter_map(|(kind, policy)| Some((kind, policy.collect.as_ref()?)));
    let told = collecting.flat_map(|(kind, collect)| {
        let digest = collect.as_kind.as_ref().unwrap_or(kind);
        let hint = format!(
            "write {digest}'s templates of items (the payloads) and count, or name a kind so written: collect_as"
        );
        let told = move |wrong: hapax_render::Problem| {
            Problem::new(format!("kinds.{kind}.collect"), format!("its digest cannot be made: {wrong}")).hint(&hint)
        };
        renderer.check_digest(digest, kind).into_iter().map(told)
    });
    told.collect()
}

fn print(loaded: &Loaded) {
    let mut table = Table::new(&[]);
    let mut shown: Vec<&Shown> = loaded.shown.iter().collect();
    shown.sort_by(|a, b| a.path.cmp(&b.path));
    for shown in shown {
        let value = shown.value.as_deref().unwrap_or("(not set)");
        table.row([shown.path.clone(), format!("= {value}"), format!("# {}", shown.origin)]);
    }
    table.print();
}

fn summary(loaded: &Loaded, kinds: usize) -> String {
    let settings = &loaded.settings;
    let templates = match (&settings.templates, kinds) {
        (None, _) => "no templates (payloads cannot be rendered)".to_owned(),
        (Some(_), 0) => "no kind in templates.directory".to_owned(),
        (Some(_), 1) => "templates of 1 kind".to_owned(),
        (Some(_), _) => format!("templates of {kinds} kinds"),
    };
    let routes: Vec<String> = settings
        .routes
        .iter()
        .map(|route| match &route.way {
            Way::Capture(_) => format!("{} (captured, not delivered)", route.name),
            Way::Transport(_) => route.name.clone(),
        })
        .collect();
    let file = loaded.file.as_ref().map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
    format!(
        "ok: {file}, database {}, routes: {}, {templates}, {} in flight at most",
        crate::config::mask(&settings.database.url),
        routes.join(", "),
        settings.relay.limits.max_in_flight
    )
}
