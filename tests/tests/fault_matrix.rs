//! The fault matrix of the whole: phase x fault x actor, with the real binary, a real Postgres, and a scripted mail server
//! per cell. All dialogues of a stage are brought to their phase together; then the actor acts, once, and each server does
//! what is wrong with it; when everything has come to rest, every cell is judged by its server's ledger against
//! [`table`], which repeats the certainty table and shares no code with Hapax.
//!
//! The cells are the testkit's tables (290 phases and faults). Alone, all of them are played. With each other actor
//! every third is, another third for each actor, all phases and all faults among them; `HAPAX_MATRIX=full` (`make
//! matrix`) plays the whole product.

mod fault_matrix {
    pub(crate) mod play;
    pub(crate) mod table;
    pub(crate) mod theatre;
}

use std::time::{Duration, Instant};

use fault_matrix::play::play;
use fault_matrix::table::Actor;
use hapax_testkit::smtp::{Fault, Phase, matrix as cells};

/// How late the late good reply is.
const DELAY: Duration = Duration::from_millis(50);

/// A stage plays a third of the cells.
const THIRDS: usize = 3;

fn third(number: usize) -> Vec<(Phase, Fault)> {
    let faults = Fault::all(DELAY);
    let place = |phase: Phase, fault: &Fault| {
        let of_phase = Phase::ALL.iter().position(|one| *one == phase).expect("it is one of all");
        of_phase + faults.iter().position(|one| one == fault).expect("it is one of all")
    };
    cells(DELAY).into_iter().filter(|(phase, fault)| place(*phase, fault) % THIRDS == number % THIRDS).collect()
}

async fn with(actor: Actor) {
    let full = actor == Actor::Alone || std::env::var("HAPAX_MATRIX").is_ok_and(|word| word == "full");
    let own = Actor::ALL.iter().position(|one| *one == actor).expect("it is one of all") % THIRDS;
    let started = Instant::now();
    let mut tally = fault_matrix::play::Tally::default();
    let stages = tokio::task::LocalSet::new();
    let thirds = if full { 0..THIRDS } else { own..own + 1 };
    let played: Vec<_> = thirds.map(|number| stages.spawn_local(play(actor, third(number)))).collect();
    stages.await;
    for played in played {
        tally.add(played.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    println!("{actor:?}: {tally}, {:.0?}", started.elapsed());
    assert!(tally.wrong.is_empty(), "{} cells are wrong:\n{}", tally.wrong.len(), tally.wrong.join("\n"));
    assert_eq!(tally.cells, if full { 290 } else { third(own).len() });
}

#[test]
fn every_cell_is_in_one_third_and_every_third_has_every_phase_and_every_fault() {
    let thirds: Vec<_> = (0..THIRDS).map(third).collect();
    assert_eq!(thirds.iter().map(Vec::len).sum::<usize>(), 290);
    for third in thirds {
        assert!(Phase::ALL.iter().all(|phase| third.iter().any(|(one, _)| one == phase)));
        assert!(Fault::all(DELAY).iter().all(|fault| third.iter().any(|(_, one)| one == fault)));
    }
}

macro_rules! actors {
    ($($name:ident: $actor:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            with(Actor::$actor).await;
        }
    )*};
}

actors! {
    alone_every_fault_at_every_phase_ends_as_the_certainty_table_says: Alone,
    with_sigkill_at_the_phase_only_what_has_an_intent_is_in_doubt: Kill,
    with_sigstop_at_the_phase_beyond_every_lease_the_truth_is_told_late: Stop,
    with_sigterm_at_the_phase_everything_ends_or_is_given_back: Term,
    with_the_database_stopped_and_started_at_the_phase_nothing_changes: DatabaseStopped,
    with_the_database_crashing_at_the_phase_nothing_changes: DatabaseKilled,
    with_the_database_restarted_at_the_phase_nothing_changes: DatabaseRestarted,
    with_the_database_unreachable_at_the_phase_nothing_changes: DatabaseUnreachable,
    with_a_second_relay_that_would_take_over_nothing_changes: SecondRelay,
    with_the_mail_server_restarted_at_the_phase_only_what_has_its_marker_out_is_in_doubt: MailServerRestarted,
}
