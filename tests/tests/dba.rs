//! The outbox as its DBA meets it: in a database that is somebody's, with the recipes and queries of `deploy/`, beside
//! replication, and behind the ways to connect that a DBA may ask for.

#[path = "dba/connecting.rs"]
mod connecting;
#[path = "dba/installing.rs"]
mod installing;
#[path = "dba/page.rs"]
mod page;
#[path = "dba/replicas.rs"]
mod replicas;
#[path = "dba/somebodys.rs"]
mod somebodys;
#[path = "dba/tenants.rs"]
mod tenants;
#[path = "dba/turkish.rs"]
mod turkish;
#[path = "dba/upkeep.rs"]
mod upkeep;
