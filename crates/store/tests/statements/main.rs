//! One module per statement of the protocol, on a real Postgres, with as many sessions as it takes. Names are sentences
//! about behaviour; RC numbers are those of the duplicate catalogue.

#[path = "../common/mod.rs"]
mod common;

mod by_psql;
mod canary;
mod cancel;
mod claim;
mod decide;
mod digest;
mod digest_further;
mod durability;
mod erase;
mod erase_further;
mod evidence;
mod failover;
mod fill_queue;
mod guard;
mod in_doubt;
mod intend;
mod late;
mod maintain;
mod many;
mod migrate;
mod ordering;
mod pause;
mod plans;
mod quarantine;
mod random;

mod relay_life;
mod repeats;
mod retention;
mod same_key;
mod settle;
mod suppression;
mod turns;
mod wake;
