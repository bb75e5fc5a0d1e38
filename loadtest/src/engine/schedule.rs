//! When each connection sends next.
//!
//! Open loop: sends are intended at fixed moments, whatever the server does. A connection whose window is full keeps
//! its moments and sends late, with the intended moment counted: otherwise a slow server would be asked less often
//! just when it is slow, and look fast (coordinated omission). Closed loop: a send is intended when the window has
//! room.

use std::time::Duration;

use super::{Load, Pace};

/// The moments of an open loop, in ns since the run began. They go round the connections in turn.
#[derive(Clone, Debug)]
pub(crate) struct OpenLoop {
    course: Course,
    connections: u64,
    /// Sends whose moment has come and that were handed out, over all connections.
    due: u64,
    /// Handed out and not yet sent, by connection.
    behind: Vec<u64>,
    /// Sent, by connection.
    sent: Vec<u64>,
}

/// How the rate of sends goes over time.
#[derive(Clone, Copy, Debug)]
enum Course {
    Even {
        interval_ns: f64,
    },
    /// `base` sends a second, from `warm_s` on rising evenly to `peak` at `warm_s + half_s`, and falling back.
    Rush {
        base: f64,
        peak: f64,
        warm_s: f64,
        half_s: f64,
    },
}

impl Course {
    /// When send `number` is meant to be, in ns.
    fn moment_ns(&self, number: u64) -> u64 {
        match *self {
            Course::Even { interval_ns } => (number as f64 * interval_ns) as u64,
            Course::Rush { base, peak, warm_s, half_s } => {
                (rush_moment_s(number as f64, (base, peak), warm_s, half_s) * 1e9) as u64
            }
        }
    }
}

/// The inverse of the sends so far: the area under the rate, which is even, then a triangle on top, then even again.
fn rush_moment_s(number: f64, (base, peak): (f64, f64), warm_s: f64, half_s: f64) -> f64 {
    let slope = (peak - base) / half_s;
    let before = base * warm_s;
    let half = (base + peak) / 2.0 * half_s;
    let rest = number - before;
    if rest <= 0.0 {
        return number / base;
    }
    if rest <= half {
        // base * t + slope * t^2 / 2 = rest
        return warm_s + ((base * base + 2.0 * slope * rest).sqrt() - base) / slope;
    }
    let rest = rest - half;
    if rest <= half {
        // peak * t - slope * t^2 / 2 = rest
        return warm_s
            + half_s
            + (peak - (peak * peak - 2.0 * slope * rest).max(0.0).sqrt()) / slope;
    }
    warm_s + 2.0 * half_s + (rest - half) / base
}

impl OpenLoop {
    /// The moments of a load; `None` when it sends by its windows.
    pub(crate) fn of(load: &Load, phases: Phases) -> Option<Self> {
        if load.publishers == 0 {
            return None;
        }
        let connections = load.publishers as usize;
        let batch = f64::from(load.shape.batch);
        match load.pace {
            Pace::Window => None,
            Pace::Rate(rate) => Some(OpenLoop::new(rate / batch, connections)),
            Pace::Rush { base, peak } => {
                assert!(0.0 < base && base < peak, "the workload is checked");
                let course = Course::Rush {
                    base: base / batch,
                    peak: peak / batch,
                    warm_s: phases.warm_ns as f64 / 1e9,
                    half_s: (phases.end_ns - phases.warm_ns) as f64 / 2e9,
                };
                Some(OpenLoop::along(course, connections))
            }
        }
    }

    /// `rate` sends a second, spread over `connections`.
    pub(crate) fn new(rate: f64, connections: usize) -> Self {
        assert!(rate > 0.0 && connections > 0, "the arguments are checked");
        OpenLoop::along(Course::Even { interval_ns: 1e9 / rate }, connections)
    }

    fn along(course: Course, connections: usize) -> Self {
        OpenLoop {
            course,
            connections: connections as u64,
            due: 0,
            behind: vec![0; connections],
            sent: vec![0; connections],
        }
    }

    /// The next connection whose moment has come by `now_ns`. Each moment is handed out once.
    pub(crate) fn next_due(&mut self, now_ns: u64) -> Option<usize> {
        if self.next_ns() > now_ns {
            return None;
        }
        let connection = (self.due % self.connections) as usize;
        self.due += 1;
        self.behind[connection] += 1;
        Some(connection)
    }

    /// When the next moment comes.
    pub(crate) fn next_ns(&self) -> u64 {
        self.course.moment_ns(self.due)
    }

    /// The oldest moment of `connection` that has come and is not yet used, as used.
    pub(crate) fn take(&mut self, connection: usize) -> Option<u64> {
        self.behind[connection] = self.behind[connection].checked_sub(1)?;
        let number = self.sent[connection] * self.connections + connection as u64;
        self.sent[connection] += 1;
        assert!(number < self.due, "only moments that have come are used");
        Some(self.course.moment_ns(number))
    }

    /// Moments that have come and are not yet used.
    pub(crate) fn behind(&self) -> u64 {
        self.behind.iter().sum()
    }
}

/// The parts of a run, in ns since it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phases {
    /// What is sent before this is not counted.
    pub(crate) warm_ns: u64,
    /// Nothing is sent from here on.
    pub(crate) end_ns: u64,
}

impl Phases {
    /// A warm-up and then the time that counts.
    pub(crate) fn new(warm_up: Duration, duration: Duration) -> Self {
        let warm_ns = warm_up.as_nanos() as u64;
        Phases { warm_ns, end_ns: warm_ns + duration.as_nanos() as u64 }
    }

    /// Whether a moment counts.
    pub(crate) fn counts(&self, ns: u64) -> bool {
        (self.warm_ns..self.end_ns).contains(&ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Coordinated omission: a connection that could not send for a while must send with the moments it missed, in
    /// order, and none may be lost or given twice.
    #[test]
    fn missed_moments_are_kept() {
        let mut schedule = OpenLoop::new(1_000_000.0, 3);
        let mut due = Vec::new();
        while let Some(connection) = schedule.next_due(8_000) {
            due.push(connection);
        }
        assert_eq!(due, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(schedule.next_ns(), 9_000);
        assert_eq!(schedule.behind(), 9);
        let taken: Vec<u64> = std::iter::from_fn(|| schedule.take(1)).collect();
        assert_eq!(taken, [1_000, 4_000, 7_000]);
        assert_eq!(schedule.take(1), None);
        assert_eq!(schedule.behind(), 6);
        assert_eq!(schedule.next_due(10_000), Some(0));
        assert_eq!(schedule.next_due(10_000), Some(1));
        assert_eq!(schedule.next_due(10_000), None);
        assert_eq!(schedule.take(1), Some(10_000));
    }

    /// A rush that sends more or less than its name says, or jumps in time, measures another load.
    #[test]
    fn a_rush_rises_tenfold_and_falls() {
        let course = Course::Rush { base: 100.0, peak: 1_000.0, warm_s: 2.0, half_s: 5.0 };
        let moments: Vec<f64> =
            (0..6_000).map(|number| course.moment_ns(number) as f64 / 1e9).collect();
        assert!(moments.is_sorted());
        let sends = |from: f64, to: f64| {
            moments.iter().filter(|moment| (from..to).contains(*moment)).count() as i64
        };
        for (from, to, expected) in
            [(0.0, 2.0, 200), (2.0, 12.0, 5_500), (6.9, 7.1, 198), (2.0, 2.1, 11), (11.9, 12.0, 11)]
        {
            let found = sends(from, to);
            assert!((found - expected).abs() <= 2, "{from} to {to} s: {found} of {expected}");
        }
    }
}
