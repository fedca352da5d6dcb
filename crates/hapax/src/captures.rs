//! Transports of routes, and the built-in catchers behind `capture:` routes.
//!
//! A catcher lives as long as somebody holds it: an incarnation its own, so that one that drains keeps what it talks to,
//! and one that follows finds it again.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
};

use anyhow::Context;
use hapax_mail::{Security, SmtpServer, Transport};
use hapax_sandbox::Catcher;

use crate::config::{Settings, Way};

/// The catchers of this process.
#[derive(Default)]
pub(crate) struct Captures(Vec<Capture>);

struct Capture {
    route: String,
    /// As configured.
    asked: Option<PathBuf>,
    catcher: Weak<Catcher>,
}

impl Captures {
    /// The transports of the routes in their order, and the catchers that must live as long as they are used.
    ///
    /// # Errors
    /// A catcher that cannot be started.
    pub(crate) async fn transports(
        &mut self,
        settings: &Settings,
    ) -> anyhow::Result<(Vec<Transport>, Vec<Arc<Catcher>>)> {
        self.0.retain(|capture| capture.catcher.strong_count() > 0);
        let (mut transports, mut catchers) = (Vec::new(), Vec::new());
        for route in &settings.routes {
            match &route.way {
                Way::Transport(transport) => transports.push(Transport::clone(transport)),
                Way::Capture(asked) => {
                    let catcher = match self.at_work(&route.name, asked.as_ref()) {
                        Some(catcher) => catcher,
                        None => self.start(&route.name, asked.as_ref()).await?,
                    };
                    let mut server = SmtpServer::new("127.0.0.1", catcher.port());
                    server.security = Security::None;
                    server.timeouts = settings.relay.timeouts;
                    transports.push(Transport::Smtp(server));
                    catchers.push(catcher);
                }
            }
        }
        Ok((transports, catchers))
    }

    fn at_work(&self, route: &str, asked: Option<&PathBuf>) -> Option<Arc<Catcher>> {
        let fits = |capture: &&Capture| capture.route == route && capture.asked.as_ref() == asked;
        self.0.iter().find(fits)?.catcher.upgrade()
    }

    async fn start(&mut self, route: &str, asked: Option<&PathBuf>) -> anyhow::Result<Arc<Catcher>> {
        let directory = match asked {
            Some(directory) => directory.clone(),
            None => fresh_directory(route)?,
        };
        let catcher = Catcher::builder().directory(&directory).messages_kept_max(1).start().await;
        let catcher = catcher
            .with_context(|| format!("routes.{route}.url: could not capture mail in {}", directory.display()))?;
        tracing::info!(
            route,
            directory = %directory.display(),
            port = catcher.port(),
            "mail of this route is captured, not delivered"
        );
        let catcher = Arc::new(catcher);
        let weak = Arc::downgrade(&catcher);
        self.0.push(Capture { route: route.to_owned(), asked: asked.cloned(), catcher: weak });
        Ok(catcher)
    }
}

/// A directory that stays after the end: captured mail is there to be read.
fn fresh_directory(route: &str) -> anyhow::Result<PathBuf> {
    let directory = tempfile::Builder::new().prefix(&format!("hapax-capture-{route}-")).tempdir();
    Ok(directory.with_context(|| format!("routes.{route}.url: no directory for captured mail"))?.keep())
}
