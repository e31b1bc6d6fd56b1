//! What the hot handle sends: the timed element of a group, refreshed or deleted.
//!
//! The messages are written once; afterwards only numbers in them are replaced, so
//! nothing is allocated. Nothing is read either: the kernel has carried a request out
//! when `send` returns, and its failures are answered into the socket that the keeper
//! reads.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::GroupId;

use super::rules::{HELD, TAG_BYTES, Tag};
use super::words::{Batch, ENTRY, TABLE, VALUE, Verb, element};
use crate::netlink::{Port, Writer};

/// Marks answers to a refresh: if it failed, part of the table is missing.
pub(crate) const REFRESH: u32 = 0x8000_0001;
/// Marks answers to a deletion: if it failed, there was nothing to delete.
pub(crate) const DELETE: u32 = 0x8000_0002;

/// The kernel rounds time-outs down to its ticks, and *zero ticks mean for ever*. No
/// kernel ticks slower than every 10 ms, so from here on it is at least one tick.
pub(crate) const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// Writes and removes elements of the set of held groups.
pub(crate) struct Hold {
    port: Arc<Port>,
    refresh: Vec<u8>,
    refresh_tags: Vec<usize>,
    refresh_timeouts: Vec<usize>,
    delete: Vec<u8>,
    delete_tag: usize,
}

/// Where in a message the numbers are that change.
struct Places {
    tag: usize,
    timeout: Option<usize>,
}

fn add_element(batch: &mut Batch, table: &str, verb: Verb, timed: bool) -> Places {
    let mut places = Places {
        tag: 0,
        timeout: None,
    };
    batch.add(verb, |writer| {
        writer.text(TABLE, table);
        writer.text(element::SET, HELD);
        writer.nest(element::LIST, |writer| {
            places = write_element(writer, timed)
        });
    });
    places
}

fn write_element(writer: &mut Writer, timed: bool) -> Places {
    writer.nest(ENTRY, |writer| Places {
        tag: writer.nest(element::KEY, |writer| {
            writer.attribute(VALUE, &[0; TAG_BYTES])
        }),
        timeout: timed.then(|| writer.attribute(element::TIMEOUT, &[0; 8])),
    })
}

impl Hold {
    /// Elements of `table`, through the socket that owns it.
    pub(crate) fn new(port: Arc<Port>, table: &str) -> Self {
        // A new time-out for an element that is there is not taken by every kernel. So:
        // make it if it is missing, delete it, make it again; all in one step.
        let mut batch = Batch::new(REFRESH);
        let all = [
            add_element(&mut batch, table, Verb::NewElement, true),
            add_element(&mut batch, table, Verb::DelElement, false),
            add_element(&mut batch, table, Verb::NewElement, true),
        ];
        let refresh = batch.finish();
        let mut batch = Batch::new(DELETE);
        let delete_tag = add_element(&mut batch, table, Verb::DelElement, false).tag;
        Self {
            port,
            refresh,
            refresh_tags: all.iter().map(|places| places.tag).collect(),
            refresh_timeouts: all.iter().filter_map(|places| places.timeout).collect(),
            delete: batch.finish(),
            delete_tag,
        }
    }

    /// The group is held for `span` from when the kernel reads this; less than
    /// [`TIMEOUT_MIN`] cannot be said and changes nothing.
    pub(crate) fn refresh(&mut self, group: GroupId, span: Duration) {
        if span < TIMEOUT_MIN {
            return;
        }
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 2);
        for at in &self.refresh_tags {
            self.refresh[*at..*at + TAG_BYTES].copy_from_slice(&Tag::of(group).to_bytes());
        }
        for at in &self.refresh_timeouts {
            self.refresh[*at..*at + 8].copy_from_slice(&millis.to_be_bytes());
        }
        // If the kernel has no memory for it, the element runs out: closed, not open.
        let _ = self.port.send(&self.refresh);
    }

    /// The group is not held any more.
    pub(crate) fn delete(&mut self, group: GroupId) {
        let at = self.delete_tag;
        self.delete[at..at + TAG_BYTES].copy_from_slice(&Tag::of(group).to_bytes());
        // If the kernel has no memory for it, the element runs out by itself.
        let _ = self.port.send(&self.delete);
    }
}

/// Adds to a batch that `group` is held for `span`, where no element of it can be.
pub(crate) fn add_held(batch: &mut Batch, table: &str, group: GroupId, span: Duration) {
    if span < TIMEOUT_MIN {
        return;
    }
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 2);
    batch.add(Verb::NewElement, |writer| {
        writer.text(TABLE, table);
        writer.text(element::SET, HELD);
        writer.nest(element::LIST, |writer| {
            writer.nest(ENTRY, |writer| {
                writer.nest(element::KEY, |writer| {
                    writer.attribute(VALUE, &Tag::of(group).to_bytes());
                });
                writer.attribute(element::TIMEOUT, &millis.to_be_bytes());
            });
        });
    });
}
