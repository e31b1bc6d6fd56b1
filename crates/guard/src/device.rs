//! The network devices of this network namespace, and the news of them
//! (`rtnetlink(7)`).

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{Port, Read, Writer, flag, read_text};

const RTM_GETLINK: u16 = 18;
const RTM_NEWLINK: u16 = 16;
/// `RTMGRP_LINK`.
const GROUP_LINK: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
/// `RTEXT_FILTER_SKIP_STATS`: the counters are most of the answer, and not wanted.
const SKIP_STATISTICS: u32 = 1 << 3;
/// Length of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;

/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK`: frames begin with an Ethernet header.
const ETHERNET_KINDS: [u16; 2] = [1, 772];

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its number.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Whether its frames begin with an Ethernet header.
    pub(crate) ethernet: bool,
}

/// Asks for devices and hears of changes.
pub(crate) struct Devices {
    questions: Port,
    news: Port,
}

impl Devices {
    /// Opens the sockets, in the network namespace of this thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            questions: Port::open(NETLINK_ROUTE, 0)?,
            news: Port::open(NETLINK_ROUTE, GROUP_LINK)?,
        })
    }

    /// Readable when something changed.
    pub(crate) fn news(&self) -> &Port {
        &self.news
    }

    /// Throws the news away: what counts is the list afterwards. News that were lost
    /// because there were too many are no failure either.
    pub(crate) fn skip_news(&self) {
        let _ = self.news.drain(|_| Read::More);
    }

    /// All devices that exist now.
    pub(crate) fn list(&self) -> io::Result<Vec<Device>> {
        let mut request = Writer::default();
        request.message(
            RTM_GETLINK,
            flag::REQUEST | flag::DUMP,
            1,
            &[0; IFINFOMSG],
            |request| {
                request.attribute(IFLA_EXT_MASK, &SKIP_STATISTICS.to_ne_bytes());
            },
        );
        let mut found = Vec::new();
        self.questions.dump(&request.bytes, |message| {
            if message.kind == RTM_NEWLINK {
                found.extend(read(message.body));
            }
        })?;
        Ok(found)
    }
}

/// The name of a device that a message tells of. For `crate::fuzzing`.
pub(crate) fn name(body: &[u8]) -> Option<String> {
    read(body).map(|device| device.name)
}

fn read(body: &[u8]) -> Option<Device> {
    let kind = u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?);
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let name = read_text(body.get(IFINFOMSG..)?, IFLA_IFNAME)?.to_owned();
    Some(Device {
        index,
        name,
        ethernet: ETHERNET_KINDS.contains(&kind),
    })
}
