//! Waiting for a condition, never for a time: every wait has a deadline and says what
//! it waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is asked: often enough that no figure is measured by it.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks `condition` until it gives a value or `limit` has passed.
///
/// # Errors
///
/// The condition's own, or that `what` did not happen in time.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            bail!("{what}: not within {} s", limit.as_secs_f64());
        }
        std::thread::sleep(PAUSE);
    }
}
