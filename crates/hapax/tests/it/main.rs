//! The binary as people and service managers meet it: as a process.

mod cli;
mod daemon;
mod demo;
mod send_test;
mod support;
mod template;
