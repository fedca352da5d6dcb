//! What can be typed to get documents about what can be typed: `hapax man` and `hapax completions`.

use std::path::PathBuf;

use clap::Args;

pub(super) const MAN: &str = "\
Prints a manual page, or writes all of them: hapax(1) and a page for each command, hapax.toml(5), and hapax-sql(7), the SQL \
that applications and operators use. Packages install them; this is for everybody else.

Examples:
  hapax man | man -l -
  hapax man hapax.toml.5 | man -l -
  hapax man --dir ~/.local/share/man          then: man hapax-sql";

/// `hapax man`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Man {
    /// Which page: its name and its section
    #[arg(value_name = "PAGE", default_value = "hapax.1", conflicts_with = "dir")]
    pub(crate) page: String,
    /// Write all pages below this directory, into man1, man5 and man7
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

pub(super) const COMPLETIONS: &str = "\
Prints what a shell needs to complete commands and flags. Packages install it; this is for everybody else.

Examples:
  hapax completions bash > ~/.local/share/bash-completion/completions/hapax
  hapax completions zsh > ~/.zfunc/_hapax
  hapax completions fish > ~/.config/fish/completions/hapax.fish";

/// `hapax completions`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Completions {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}
