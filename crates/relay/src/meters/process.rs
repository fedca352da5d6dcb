//! What the system knows of this process, read at each scrape. Names as every Prometheus client has them.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Clock ticks of /proc in a second: what Linux has told user space on every architecture for decades.
const TICKS: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Process;

/// What could be read; what could not is not exported.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    resident_bytes: Option<i64>,
    open_fds: Option<i64>,
    max_fds: Option<i64>,
    start_s: Option<f64>,
    cpu_s: Option<f64>,
}

impl Seen {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        // The second field is the name in brackets, and may hold anything.
        let fields: Vec<f64> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(1).map(number).collect();
        let ticks = |field: usize| fields.get(field - 4).map(|ticks| ticks / TICKS);
        let boot = text("/proc/stat").lines().find_map(|line| Some(number(line.strip_prefix("btime ")?)));
        let status = text("/proc/self/status");
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<i64>().ok());
        let limits = text("/proc/self/limits");
        let most = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
        Self {
            resident_bytes: resident.map(|kilobytes| kilobytes * 1024),
            // One of them is the listing itself.
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                .and_then(|all| i64::try_from(all.count()).ok())
                .map(|all| all - 1),
            max_fds: most,
            start_s: boot.zip(ticks(22)).map(|(boot, since)| boot + since),
            cpu_s: ticks(14).zip(ticks(15)).map(|(user, system)| user + system),
        }
    }
}

fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or(0.0)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seen = Seen::read();
        let whole = [
            ("process_resident_memory_bytes", "Memory in use", seen.resident_bytes),
            ("process_open_fds", "Open file descriptors", seen.open_fds),
            ("process_max_fds", "The most file descriptors that may be open", seen.max_fds),
        ];
        for (name, help, value) in whole {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        if let Some(start) = seen.start_s {
            let (name, help) = ("process_start_time_seconds", "When this process started, in seconds since 1970");
            let gauge = ConstGauge::new(start);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        if let Some(cpu) = seen.cpu_s {
            let counter = ConstCounter::new(cpu);
            let help = "Processor time used";
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let seen = Seen::read();
        assert!(seen.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{seen:?}");
        assert!(seen.open_fds.is_some_and(|count| count >= 3) && seen.max_fds > seen.open_fds, "{seen:?}");
        let now = super::super::now_s();
        assert!(seen.start_s.is_some_and(|start| start < now + 2.0 && start > now - 3_600.0), "{seen:?} {now}");
        assert!(seen.cpu_s.is_some(), "{seen:?}");
    }
}
