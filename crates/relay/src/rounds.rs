//! The rounds of the pump: what is claimed from which lanes, in which order, and how it waits for places.
//!
//! While the common places are taken, here or at one route, the urgent lanes concerned are served from the reserve.

use std::{sync::Arc, time::Duration};

use hapax_core::{fault, policy::Priority};
use hapax_store::{Claimed, Wanted};

use crate::{
    idle::Idle,
    lanes::{Cursors, lanes_of, order},
    pump::{Pump, places},
    route::Route,
    stock::Stock,
};

/// At least so often every lane is read from its start.
const RESCAN_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at where several tenants wait.
const TURNS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a claim waits for more room than there is.
const ROOM_WITHIN: Duration = Duration::from_millis(20);

/// Whether what lies in this lane may take from the reserve.
pub(crate) fn is_urgent(lane: i16) -> bool {
    lane.rem_euclid(4) == Priority::Urgent.lane_offset()
}

impl Pump {
    /// The urgent lane of a group that has room for nothing else, as long as there is something in reserve.
    pub(crate) fn reserved(&self, route: &Arc<Route>, group: i16) -> Option<i16> {
        (self.urgent_room(route) > 0).then(|| group * 4 + Priority::Urgent.lane_offset())
    }

    /// How much that is urgent a route takes which has room for nothing else.
    fn urgent_room(&self, route: &Arc<Route>) -> usize {
        let full = self.stock.free() == 0 || self.room(route) == 0;
        if full { route.free_for_urgent().min(self.stock.free_for_urgent()) } else { 0 }
    }

    /// Until a quarter of the places is free, so that a claim is worth its statements; but not for long while there is any:
    /// what holds the others may be a server that takes its time. While there is none, the urgent lanes are looked at as
    /// often as when there is nothing to do.
    pub(crate) async fn wait_for_room(&self, idle: &mut Idle) {
        // However long servers take, or the database with their outcomes.
        self.pulse.idle();
        let enough = (places(&self.office.config.limits) / 4).max(1) + self.beyond_reach();
        tokio::select! {
            () = self.stock.has_room(enough) => return,
            () = tokio::time::sleep(ROOM_WITHIN) => {}
            () = self.office.soft.cancelled() => return,
        }
        tokio::select! {
            () = self.stock.has_room(1) => {}
            () = idle.rest(self.office.clock.as_ref(), &self.office.soft) => {}
        }
    }

    /// Free places that the busiest route cannot have: others have them for themselves.
    fn beyond_reach(&self) -> usize {
        let at_work = self.routes.0.iter().map(|route| &route.stock).filter(|stock| stock.is_used());
        at_work.map(Stock::free).min().map_or(0, |room| self.stock.free().saturating_sub(room))
    }

    /// One claim from every lane of `due` that has room. Answers how many deliveries were taken.
    pub(crate) async fn round(&self, cursors: &mut Cursors, due: &[i16]) -> Result<usize, hapax_store::Error> {
        let now = self.office.clock.boottime();
        cursors.rescan(now, RESCAN_INTERVAL);
        cursors.round = cursors.round.wrapping_add(1);
        if now >= cursors.turns_at {
            let all = lanes_of(self.groups.iter().map(|(_, group)| *group));
            cursors.go_by_turns(&self.office.store.lanes_by_turns(&all).await?);
            cursors.turns_at = now + TURNS_INTERVAL;
        }
        let urgent: Vec<i16> = due.iter().copied().filter(|lane| is_urgent(*lane)).collect();
        // As it is before the first claim: of what had room, that one takes the urgent first.
        let reserved = self.rooms(|route| self.urgent_room(route));
        // What is for every route is divided among those that have wanted some lately: what is claimed has a place. (Lanes that
        // nobody has looked at may be empty: each round would leave them their part.)
        let many = self.routes.0.iter().filter(|route| cursors.saw(&route.groups, now)).count();
        let among = |route: &Route| if cursors.saw(&route.groups, now) { many } else { usize::MAX };
        let room = |route: &Arc<Route>| self.room(route).min(route.stock.free_among(among(route)));
        let (free, rooms) = (self.stock.free(), self.rooms(room));
        let taken = self.claim(cursors, due, free, rooms).await?;
        if urgent.is_empty() {
            return Ok(taken);
        }
        Ok(taken + self.claim(cursors, &urgent, self.stock.free_for_urgent(), reserved).await?)
    }

    fn rooms(&self, room: impl Fn(&Arc<Route>) -> usize) -> Vec<usize> {
        self.groups.iter().map(|(route, _)| room(route)).collect()
    }

    /// Claims from these lanes, within the room of each group, and hands on what it got.
    async fn claim(
        &self,
        cursors: &mut Cursors,
        due: &[i16],
        free: usize,
        rooms: Vec<usize>,
    ) -> Result<usize, hapax_store::Error> {
        let wanted = self.wanted(cursors, free, due);
        if free == 0 || rooms.iter().all(|room| *room == 0) || self.office.soft.is_cancelled() {
            return Ok(0);
        }
        let asked = self.office.clock.boottime();
        fault::point("claim_sent");
        let lease = self.office.config.limits.lease;
        let claimed = if wanted.iter().any(|lane| cursors.turns.contains_key(&lane.lane)) {
            self.claim_by_turns(cursors, &wanted, free, rooms).await?
        } else {
            let claimed = self.office.store.claim_lanes(&wanted, free, &rooms, lease).await?;
            cursors.claimed(&wanted, self.office.clock.boottime().saturating_sub(asked));
            cursors.advance(&wanted, free, rooms, &claimed);
            claimed
        };
        cursors.see(claimed.iter().map(|claimed| claimed.lane), asked);
        self.office.meters.claimed(claimed.len(), self.office.clock.boottime().saturating_sub(asked));
        if !claimed.is_empty() {
            fault::point("claimed");
        }
        let taken = claimed.len();
        self.dispatch(claimed, asked).await?;
        Ok(taken)
    }

    /// As one claim of all these lanes, but lane by lane: where several tenants wait, each has its turn. When one fails, what was
    /// leased before is handed on, and the next round asks again.
    async fn claim_by_turns(
        &self,
        cursors: &mut Cursors,
        wanted: &[Wanted],
        mut free: usize,
        mut rooms: Vec<usize>,
    ) -> Result<Vec<Claimed>, hapax_store::Error> {
        let (store, lease) = (&self.office.store, self.office.config.limits.lease);
        let mut all = Vec::new();
        for lane in wanted {
            let take = lane.limit.min(free).min(rooms[lane.room]);
            if take == 0 {
                continue;
            }
            let answer = match cursors.turns.get(&lane.lane).copied() {
                Some(turn) => store.claim_turns(lane.lane, turn, take, lease).await.map(|(turn, claimed)| {
                    cursors.turns.insert(lane.lane, turn);
                    claimed
                }),
                None => {
                    store.claim_lanes(&[Wanted { room: 0, ..*lane }], take, &[take], lease).await.inspect(|claimed| {
                        cursors.advance(&[Wanted { room: 0, ..*lane }], take, vec![take], claimed);
                    })
                }
            };
            let claimed = match answer {
                Err(error) if all.is_empty() => return Err(error),
                Err(_) => break,
                Ok(claimed) => claimed,
            };
            free = free.saturating_sub(claimed.len());
            rooms[lane.room] = rooms[lane.room].saturating_sub(claimed.len());
            all.extend(claimed);
            self.pulse.beat();
        }
        Ok(all)
    }

    /// Those of the `due` lanes in the order of this round. Groups of one route share its room, that of the first of them.
    fn wanted(&self, cursors: &Cursors, free: usize, due: &[i16]) -> Vec<Wanted> {
        let now = self.office.clock.boottime();
        let first_of = |route: &Arc<Route>| self.groups.iter().position(|(other, _)| Arc::ptr_eq(other, route));
        let lanes = order(cursors.round).into_iter().flat_map(|(priority, share)| {
            self.groups.iter().map(move |(route, group)| (*group * 4 + priority.lane_offset(), route, share))
        });
        lanes
            .filter(|(lane, ..)| due.contains(lane))
            .map(|(lane, route, share)| Wanted {
                lane,
                room: first_of(route).unwrap_or(0),
                // Of a route with a rate the little there is goes to the urgent first, in every round.
                limit: if share > 1 && route.shared.pace.is_limited() {
                    route.free() / share
                } else {
                    free.div_ceil(share)
                },
                from: cursors.next_of(lane, now),
            })
            .collect()
    }
}
