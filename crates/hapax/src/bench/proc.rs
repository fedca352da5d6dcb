//! What processes have used, from /proc: CPU time and memory, of a process group, of a Postgres server, of ourselves.
//!
//! CPU time is user and system time of a process, all its threads, and of its children that have ended and been waited
//! for; the kernel counts in hundredths of a second. Nothing here fails: a process that is gone has used nothing more.

use std::collections::BTreeMap;

/// Hundredths of a second: USER_HZ is 100 on every architecture that Hapax is built for.
const TICK_US: u64 = 10_000;

/// A line of /proc/PID/stat, as far as it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    group: u32,
    own_ticks: u64,
    children_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// "pid (name) state ppid pgrp ...": the name may hold anything, so count from its last parenthesis.
    fn parse(pid: u32, line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: u32::try_from(number(1)?).ok()?,
            group: u32::try_from(number(2)?).ok()?,
            own_ticks: number(11)? + number(12)?,
            children_ticks: number(13)? + number(14)?,
        })
    }
}

fn all() -> impl Iterator<Item = Stat> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Stat::read(entry.file_name().to_str()?.parse().ok()?))
}

/// CPU time of a process group, in microseconds.
pub(super) fn group_cpu_us(group: u32) -> u64 {
    all().filter(|stat| stat.group == group).map(|stat| stat.own_ticks + stat.children_ticks).sum::<u64>() * TICK_US
}

/// Processes, each with its group, that have this among their variables.
pub(super) fn marked(variable: &str) -> Vec<(u32, u32)> {
    let has = |stat: &Stat| {
        let bytes = std::fs::read(format!("/proc/{}/environ", stat.pid)).unwrap_or_default();
        bytes.split(|byte| *byte == 0).any(|found| found == variable.as_bytes())
    };
    all().filter(has).map(|stat| (stat.pid, stat.group)).collect()
}

/// What a process has read so far, in bytes, from sockets and files; `None` where it is gone or nobody may know.
pub(super) fn bytes_read(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("rchar: ")?.trim().parse().ok())
}

/// CPU time of a process and its children, dead and alive, in microseconds, but for some of them.
pub(super) fn family_cpu_us(parent: u32, but: &[u32]) -> u64 {
    let ticks = |stat: Stat| stat.own_ticks + stat.children_ticks;
    let members = all().filter(|stat| (stat.pid == parent || stat.parent == parent) && !but.contains(&stat.pid));
    members.map(ticks).sum::<u64>() * TICK_US
}

/// CPU time of our own children that have ended, in microseconds.
pub(super) fn ended_children_cpu_us() -> u64 {
    Stat::read(std::process::id()).map_or(0, |stat| stat.children_ticks * TICK_US)
}

/// Whose a process is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kin {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) group: u32,
}

/// CPU time of some processes by the scheduler's own clock, in nanoseconds: finer, but only threads that live count.
#[derive(Clone, Debug, Default)]
pub(super) struct LivingCpu(BTreeMap<u32, u64>);

impl LivingCpu {
    /// What they have taken since, in microseconds. Who has ended meanwhile (autovacuum's workers come and go) is left out.
    pub(super) fn since_us(&self, before: &Self) -> u64 {
        let spent = |(pid, ns): (&u32, &u64)| ns.saturating_sub(before.0.get(pid).copied().unwrap_or(0));
        self.0.iter().map(spent).sum::<u64>() / 1000
    }
}

/// Of those that are members.
pub(super) fn living_cpu(member: impl Fn(Kin) -> bool) -> LivingCpu {
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        std::fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    let of_process = |pid: u32| -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads.filter_map(|thread| of_thread(thread.path())).sum()
    };
    let kin = |stat: &Stat| Kin { pid: stat.pid, parent: stat.parent, group: stat.group };
    LivingCpu(all().filter(|stat| member(kin(stat))).map(|stat| (stat.pid, of_process(stat.pid))).collect())
}

/// The peaks of the resident memory of a process group's processes, in KiB, and how many there were at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Peaks {
    kib: BTreeMap<u32, u64>,
    processes_max: usize,
}

impl Peaks {
    /// Looks once more.
    pub(super) fn look(&mut self, groups: &[u32]) {
        let members: Vec<Stat> = all().filter(|stat| groups.contains(&stat.group)).collect();
        self.processes_max = self.processes_max.max(members.len());
        for stat in members {
            if let Some(kib) = peak_kib(stat.pid) {
                let peak = self.kib.entry(stat.pid).or_default();
                *peak = kib.max(*peak);
            }
        }
    }

    /// The sum of the largest, as many as there were at once: pools that start processes anew do not count twice.
    pub(super) fn kib(&self) -> u64 {
        let mut peaks: Vec<u64> = self.kib.values().copied().collect();
        peaks.sort_unstable_by(|a, b| b.cmp(a));
        peaks.iter().take(self.processes_max.max(1)).sum()
    }
}

/// VmHWM.
fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_and_blanks_are_read() {
        let line = "7 (a ) b) S 3 5 5 0 -1 4194304 1 2 3 4 50 60 70 80 20 0 1 0 9 9 9";
        let expected = Stat { pid: 7, parent: 3, group: 5, own_ticks: 110, children_ticks: 150 };
        assert_eq!(Stat::parse(7, line), Some(expected));
        assert_eq!(Stat::parse(7, "7 (x"), None);
    }

    #[test]
    fn peaks_of_processes_that_replace_each_other_do_not_add_up() {
        let peaks = Peaks { kib: [(1, 10), (2, 30), (3, 20)].into(), processes_max: 2 };
        assert_eq!(peaks.kib(), 50);
    }

    #[test]
    fn who_ends_or_begins_meanwhile_takes_no_time_from_the_others() {
        let before = LivingCpu([(1, 5_000_000), (2, 9_000_000)].into());
        let after = LivingCpu([(1, 7_000_000), (3, 1_000_000)].into());
        assert_eq!(after.since_us(&before), 3000);
    }

    #[test]
    fn our_own_processor_time_is_seen() {
        let us = std::process::id();
        let group = Stat::read(us).expect("we run").group;
        let now = || living_cpu(|kin| kin.group == group);
        let before = now();
        let mut sum = 0_u64;
        while now().since_us(&before) == 0 {
            sum = std::hint::black_box(sum + 1);
        }
        let mut peaks = Peaks::default();
        peaks.look(&[group]);
        assert!(peaks.kib() > 1000);
    }
}
