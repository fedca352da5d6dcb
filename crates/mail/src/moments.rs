//! When a dialogue came to which step, for whoever draws it: a trace.
//!
//! Each step says so where it ends. Nothing is kept, and nothing allocated, unless the attempt runs within [`heard`]: asking
//! for that is all it costs then.
//!
//! This module must not: keep anything of what was said, only when.

use std::{cell::RefCell, time::Instant};

/// A step that has ended, and when.
pub type Moment = (&'static str, Instant);

/// So many are kept of one attempt: a dead connection begins them anew, once.
const MOMENTS_MAX: usize = 32;

tokio::task_local! {
    static MOMENTS: RefCell<Vec<Moment>>;
}

/// Runs an attempt whose steps are kept, beginning with a moment of its own.
pub async fn heard<T>(began: &'static str, attempt: impl Future<Output = T>) -> T {
    let mut moments = Vec::with_capacity(MOMENTS_MAX);
    moments.push((began, Instant::now()));
    MOMENTS.scope(RefCell::new(moments), attempt).await
}

/// This step has ended now.
pub fn reached(step: &'static str) {
    let keep = |moments: &RefCell<Vec<Moment>>| {
        let mut moments = moments.borrow_mut();
        if moments.len() < MOMENTS_MAX {
            moments.push((step, Instant::now()));
        }
    };
    // Out of `heard` nobody wants to know.
    MOMENTS.try_with(keep).unwrap_or_default();
}

/// What was kept until now.
#[must_use]
pub fn take() -> Vec<Moment> {
    MOMENTS.try_with(RefCell::take).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_kept_in_their_order_only_within_an_attempt_and_only_so_many() {
        reached("nobody");
        assert!(take().is_empty());
        let moments = heard("attempt", async {
            for _ in 0..2 * MOMENTS_MAX {
                reached("mail");
                tokio::task::yield_now().await;
            }
            take()
        })
        .await;
        assert_eq!(moments.len(), MOMENTS_MAX);
        assert_eq!((moments[0].0, moments[1].0), ("attempt", "mail"));
        assert!(moments.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }
}
