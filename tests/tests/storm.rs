//! The storm: everything at once, at random, from a printed seed. Bounded here; by hand as long as one likes:
//! `make storm`, `HAPAX_STORM_DELIVERIES`, `HAPAX_STORM_KILLS`, `HAPAX_STORM_SECONDS`, `HAPAX_SEED`.

use hapax_tests::storm::{Plan, rage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_kills_outages_and_a_misbehaving_server_ends_with_no_duplicate_and_no_loss() {
    let report = rage(Plan::from_environment(1_000, 16, 24)).await;
    println!("{report}");
    report.assert_clean();
}
