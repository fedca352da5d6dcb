//! The relay under systemd: its unit file by systemd's own tools, what a service manager hears of it, and the sandbox.
//!
//! No systemd is process 1 where these tests run. What is said to it is heard by a socket of ours; the sandbox is rebuilt
//! from the unit file by `tests/unit/confine` (the kernel's side of it, see there for what is equivalent and what is not),
//! and the relay delivers mail in it. `make deb-test` does both under a real systemd.

mod unit {
    mod file;
    mod journal;
    mod protocol;
    mod sandbox;
}
