//! Doors for `crates/fuzz`, and for nobody else: what is read of the kernel's answers about the
//! table, of which other programs of this machine wrote parts.
//!
//! Not behind a feature: see the module of the same name in `evenkeel_transport`.

use std::net::IpAddr;

use evenkeel_core::GroupId;

use crate::netlink::{Writer, attributes, messages};
use crate::{device, nft};

/// What was read of one buffer of netlink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Messages.
    pub messages: usize,
    /// The bytes of all their bodies, and those of all values of attributes in them.
    pub bytes: usize,
    /// Guarded addresses with the groups that judge them.
    pub guarded: Vec<(IpAddr, GroupId)>,
    /// Names of devices.
    pub devices: Vec<String>,
}

/// Everything that the guard reads of netlink, of one buffer.
pub fn netlink(buffer: &[u8]) -> Heard {
    let mut heard = Heard::default();
    for message in messages(buffer) {
        heard.messages += 1;
        heard.bytes += message.body.len();
        heard.bytes += attributes(message.body)
            .map(|(_, value)| value.len())
            .sum::<usize>();
        heard.guarded.extend(nft::read_guarded(message.body));
        heard.devices.extend(nft::hook_device(message.body));
        heard.devices.extend(device::name(message.body));
    }
    heard
}

/// One message that says which groups judge which addresses, as the guard itself writes it.
pub fn guarded(kind: u16, all: &[(IpAddr, GroupId)]) -> Vec<u8> {
    let mut writer = Writer::default();
    nft::write_list(&mut writer, kind, all);
    writer.bytes
}
