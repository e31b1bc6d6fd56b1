//! S4: no guard deadline beyond the proven lease. What is proven is computed anew from the messages
//! that really arrived ([`crate::check::s4`]); here is what became of it in the kernel.

use evenkeel_core::Moment;
use evenkeel_core::lease::Lease;

use super::{Violation, broken};

/// Asked when a deadline was given to the kernel.
pub(in crate::whole) fn deadline(
    node: usize,
    lease: &Lease,
    until: Moment,
) -> Result<(), Violation> {
    if until <= lease.until() {
        return Ok(());
    }
    let seen = format!(
        "the guard of node {node} is open until {until:?}, its lease until {:?}",
        lease.until()
    );
    broken("S4", seen)
}
