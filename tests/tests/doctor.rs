//! What `hapax doctor` finds: nothing on a healthy system, and of each provoked illness exactly that, with evidence and
//! remedy, for people and as JSON, without a secret.

#[path = "doctor/asking.rs"]
mod asking;
#[path = "doctor/database.rs"]
mod database;
#[path = "doctor/healthy.rs"]
mod healthy;
#[path = "doctor/intact.rs"]
mod intact;
#[path = "doctor/limits.rs"]
mod limits;
#[path = "doctor/senders.rs"]
mod senders;
#[path = "doctor/servers.rs"]
mod servers;
#[path = "doctor/weeks.rs"]
mod weeks;
