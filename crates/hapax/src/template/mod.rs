//! `hapax template ...`: what is done with the templates of a directory.

pub(crate) mod publish;
