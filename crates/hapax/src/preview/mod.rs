//! `hapax template preview`: a local page that shows every template and follows every edit.

use crate::{
    cli::template::TemplatePreview,
    config::Loaded,
    failure::{Exit, Refusal},
};

/// # Errors
/// Always.
pub(crate) async fn run(_loaded: Loaded, _options: TemplatePreview) -> anyhow::Result<Exit> {
    Err(Refusal::usage("this command is not in this version", &[]).into())
}
