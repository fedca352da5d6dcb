//! `hapax template preview`: a local page that shows every template and follows every edit.
//!
//! Invariants: nothing is sent, and nothing is written, neither into the template directory nor anywhere else. Messages are shown without scripts and load nothing from elsewhere. The
//! page answers to browsers of this machine, by the names of this machine, and to no other site's pages.

mod advice;
mod catalog;
mod display;
mod markup;
mod remote;
mod server;
mod view;
mod watch;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use tokio::net::TcpListener;

use self::server::Desk;
use crate::{
    cli::template::TemplatePreview,
    config::{Loaded, Settings},
    failure::{Exit, Refusal, tell},
    output,
};

/// The sender of what is shown, when the configuration has no route.
const SENDER: &str = "Your Shop <hello@shop.example>";

/// Serves the page until Ctrl-C.
///
/// # Errors
/// No template directory, or an address that cannot be listened on.
pub(crate) async fn run(loaded: Loaded, options: TemplatePreview) -> anyhow::Result<Exit> {
    let directory = directory(options.place.templates, &loaded)?;
    let listener = listen(options.listen).await?;
    let address = listener.local_addr().context("the address listened on is not known")?;
    if !address.ip().is_loopback() {
        tell!("warning: {} can be reached from other machines", address.ip());
    }
    let desk = Arc::new(Desk::new(directory, sender(&loaded.settings), address));
    let first = desk.clone();
    tokio::task::spawn_blocking(move || first.read()).await.context("the templates could not be read")?;
    tokio::spawn(watch::follow(desk.clone()));
    output::line(&format!("http://{address}/"));
    tell!("the templates in {} are shown there until Ctrl-C", desk.directory.display());
    tokio::select! {
        ended = async { axum::serve(listener, server::router(desk)).await } => {
            ended.context("the page cannot be served any more")?;
        }
        heard = tokio::signal::ctrl_c() => heard.context("could not listen to signals")?,
    }
    Ok(Exit::Done)
}

fn directory(typed: Option<PathBuf>, loaded: &Loaded) -> Result<PathBuf, Refusal> {
    let Some(directory) = typed.or_else(|| loaded.settings.templates.clone()) else {
        let hints = ["hapax template preview --templates DIR", "or set templates.directory in the configuration"];
        return Err(Refusal::setup("no template directory", &hints));
    };
    if !directory.is_dir() {
        let hints = ["hapax template preview --templates DIR"];
        return Err(Refusal::setup(format!("{} is not a directory", directory.display()), &hints));
    }
    Ok(directory)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Refusal> {
    TcpListener::bind(address).await.map_err(|error| {
        let error = error.to_string().to_lowercase();
        let any = format!("hapax template preview --listen {}:0 takes any free port", address.ip());
        Refusal::failed(format!("cannot listen on {address}: {error}"), &[any.as_str()])
    })
}

/// The `from` of the default route, else of the first.
fn sender(settings: &Settings) -> String {
    let routes = &settings.routes;
    let route = routes.iter().find(|route| route.name == "default").or(routes.first());
    route.map(|route| route.from.clone()).filter(|from| !from.is_empty()).unwrap_or_else(|| SENDER.to_owned())
}
