//! Small parts that several forms share, converted by hand.

use core::time::Duration;
use std::net::IpAddr;

use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{CheckName, Epoch, GroupId, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct EpochForm(u64, u64);

impl From<Epoch> for EpochForm {
    fn from(epoch: Epoch) -> Self {
        Self(epoch.term, epoch.index)
    }
}
impl From<EpochForm> for Epoch {
    fn from(form: EpochForm) -> Self {
        Self {
            term: form.0,
            index: form.1,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct IncarnationForm(u64, u64);

impl From<Incarnation> for IncarnationForm {
    fn from(life: Incarnation) -> Self {
        Self(life.counter, life.nonce)
    }
}
impl From<IncarnationForm> for Incarnation {
    fn from(form: IncarnationForm) -> Self {
        Self {
            counter: form.0,
            nonce: form.1,
        }
    }
}

/// Nanoseconds; 584 years are enough.
#[derive(Default, Clone, Copy, Serialize, Deserialize)]
pub(super) struct SpanForm(u64);

impl From<Duration> for SpanForm {
    fn from(span: Duration) -> Self {
        Self(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}
impl From<SpanForm> for Duration {
    fn from(form: SpanForm) -> Self {
        Self::from_nanos(form.0)
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AddressForm {
    ip: IpAddr,
    prefix: u8,
    device: Option<String>,
}

impl From<&ServiceAddress> for AddressForm {
    fn from(address: &ServiceAddress) -> Self {
        Self {
            ip: address.ip,
            prefix: address.prefix,
            device: address.device.clone(),
        }
    }
}
impl From<AddressForm> for ServiceAddress {
    fn from(form: AddressForm) -> Self {
        Self {
            ip: form.ip,
            prefix: form.prefix,
            device: form.device,
        }
    }
}

pub(super) fn node(id: u64) -> NodeId {
    NodeId(id)
}

pub(super) fn group(id: u64) -> GroupId {
    GroupId(id)
}

/// A name that was a name when it was written; a broken one is replaced, because a
/// message must not be lost for it.
pub(super) fn check_name(text: &str) -> CheckName {
    CheckName::new(text).unwrap_or_else(|_| CheckName::new("unreadable").expect("is a name"))
}
