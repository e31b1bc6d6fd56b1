//! How long things may take. Defaults of QUIC are for strangers across the Internet;
//! with them a connection resumes up to 0.8 s after the line has healed.

use std::time::Duration;

use evenkeel_core::topology::Timing;

/// Times of the control connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Silence after which a connection counts as lost.
    pub idle: Duration,
    /// How often the dialling side breaks the silence: a third of `idle`. A lost packet
    /// is sent again after some 30, 90 and 210 ms, so at the least idle time there are
    /// four tries; more often costs more of a core than the daemon may take at rest.
    pub keep_alive: Duration,
    /// Round trip assumed before the first is measured: decides when the first packets
    /// are sent again.
    pub initial_rtt: Duration,
    /// Time for a handshake before the next attempt starts beside it.
    pub handshake: Duration,
}

impl Tuning {
    /// The least silence that counts as loss: below, a busy machine would look dead.
    const IDLE_MIN: Duration = Duration::from_millis(400);
    /// Heartbeats longer than this are used between sites, not within one.
    const LAN_HEARTBEAT_MAX: Duration = Duration::from_millis(50);

    /// What suits the cluster's lease and heartbeat.
    pub fn of(timing: &Timing) -> Self {
        let idle = (timing.heartbeat * 4).max(Self::IDLE_MIN);
        let lan = timing.heartbeat <= Self::LAN_HEARTBEAT_MAX;
        Self {
            idle,
            keep_alive: idle / 3,
            initial_rtt: Duration::from_millis(if lan { 10 } else { 50 }),
            handshake: Duration::from_millis(if lan { 150 } else { 500 }),
        }
    }

    /// How long an attempt to connect may go on while newer ones run beside it.
    pub(crate) fn attempt(&self) -> Duration {
        self.handshake * 4
    }

    /// Two connections made within this time of each other were dialled at once by both.
    pub(crate) fn simultaneous(&self) -> Duration {
        self.handshake * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_follows_the_heartbeat_but_not_below_its_least() {
        let tuning = |lease, heartbeat| {
            Tuning::of(&Timing {
                lease: Duration::from_millis(lease),
                heartbeat: Duration::from_millis(heartbeat),
            })
        };
        assert_eq!(tuning(40, 8).idle, Duration::from_millis(400));
        assert_eq!(tuning(1500, 250).idle, Duration::from_secs(1));
        assert!(tuning(1500, 250).initial_rtt > tuning(120, 20).initial_rtt);
    }
}
