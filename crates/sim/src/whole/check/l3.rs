//! L3: no state that waits for ever. Operators hear an answer within the time that they are
//! promised one; and once all is mended, every machine comes to rest within a bound.

use core::time::Duration;

use evenkeel_core::Moment;
use evenkeel_core::node::WISH_PATIENCE;

use super::{Violation, broken};
use crate::whole::operator::Question;

/// How long an answer may take beyond the patience: time to drain, and the steps of the clock.
const SLACK: Duration = Duration::from_secs(3);

/// Asked after each step of time of the node that was asked.
pub(in crate::whole) fn answered(now: Moment, question: &Question) -> Result<(), Violation> {
    let waited = now.since(question.since);
    if waited < WISH_PATIENCE + SLACK {
        return Ok(());
    }
    let seen = format!(
        "whoever asked node {} for {} has been waiting for {waited:?}",
        question.host, question.what
    );
    broken("L3", seen)
}
