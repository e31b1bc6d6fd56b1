//! What the holder of a group tells its standbys of the clients' connections, and what they
//! say of what they have.
//!
//! What is added later follows the form, where older programs do not look.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use evenkeel_core::{Epoch, GroupId};
use serde::{Deserialize, Serialize};

use super::parts::{EpochForm, group};
use crate::WireError;

/// The longest message: 20,000 connections that came and as many that went, IPv6, are
/// 0.9 MB.
pub const FLOWS_LENGTH_MAX: usize = 1024 * 1024;
/// The longest answer, with room for what is added later.
pub const HAVE_LENGTH_MAX: usize = 1024;

/// One connection: the server's end, the client's end.
pub type Ends = (SocketAddr, SocketAddr);

/// The connections to a group's addresses, or what changed of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows {
    /// The group.
    pub group: GroupId,
    /// The assignment under which the sender holds it.
    pub epoch: Epoch,
    /// What this builds on: the `sequence` of an earlier message; 0 for nothing, and then
    /// `added` is all there is.
    pub base: u64,
    /// The number of what it leads to; never 0, and growing within an epoch.
    pub sequence: u64,
    /// Connections there are, and were not in `base`.
    pub added: Vec<Ends>,
    /// Connections of `base` that there are no more.
    pub gone: Vec<Ends>,
}

#[derive(Serialize, Deserialize)]
struct FlowsForm {
    group: u64,
    epoch: EpochForm,
    base: u64,
    sequence: u64,
    /// Servers' ends, which connections name by their place here: there are few.
    services: Vec<(IpAddr, u16)>,
    added: ClientsForm,
    gone: ClientsForm,
}

/// Clients' ends, each with the place of its server's end. The families apart: seven or
/// eight bytes for one of IPv4.
#[derive(Default, Serialize, Deserialize)]
struct ClientsForm {
    ipv4: Vec<(u32, Ipv4Addr, u16)>,
    ipv6: Vec<(u32, Ipv6Addr, u16)>,
}

/// The servers' ends while a form is made.
#[derive(Default)]
struct Services {
    places: BTreeMap<SocketAddr, u32>,
    list: Vec<(IpAddr, u16)>,
}

impl Services {
    fn place(&mut self, service: SocketAddr) -> u32 {
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        *self.places.entry(service).or_insert_with(|| {
            self.list.push((service.ip(), service.port()));
            next
        })
    }

    fn clients(&mut self, ends: &[Ends]) -> ClientsForm {
        let mut form = ClientsForm::default();
        for (service, client) in ends {
            let place = self.place(*service);
            match client {
                SocketAddr::V4(client) => form.ipv4.push((place, *client.ip(), client.port())),
                SocketAddr::V6(client) => form.ipv6.push((place, *client.ip(), client.port())),
            }
        }
        form
    }
}

impl ClientsForm {
    /// One that names a server's end which is not there is left out.
    fn ends(self, services: &[(IpAddr, u16)]) -> Vec<Ends> {
        let service = |place: u32| {
            let (ip, port) = services.get(usize::try_from(place).ok()?)?;
            Some(SocketAddr::new(*ip, *port))
        };
        let ipv4 = self
            .ipv4
            .into_iter()
            .map(|(place, ip, port)| (place, SocketAddr::new(ip.into(), port)));
        let ipv6 = self
            .ipv6
            .into_iter()
            .map(|(place, ip, port)| (place, SocketAddr::new(ip.into(), port)));
        ipv4.chain(ipv6)
            .filter_map(|(place, client)| Some((service(place)?, client)))
            .collect()
    }
}

impl Flows {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut services = Services::default();
        let added = services.clients(&self.added);
        let gone = services.clients(&self.gone);
        crate::encode(&FlowsForm {
            group: self.group.0,
            epoch: self.epoch.into(),
            base: self.base,
            sequence: self.sequence,
            services: services.list,
            added,
            gone,
        })
    }

    /// Reads them.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let form: FlowsForm = crate::decode("list of connections", FLOWS_LENGTH_MAX, bytes)?;
        Ok(Self {
            group: group(form.group),
            epoch: form.epoch.into(),
            base: form.base,
            sequence: form.sequence,
            added: form.added.ends(&form.services),
            gone: form.gone.ends(&form.services),
        })
    }
}

/// Answers a [`Flows`]: the `sequence` of what the standby has now of that group and epoch, 0
/// for nothing. If it is not that of the message, all must be sent.
pub fn encode_have(sequence: u64) -> Vec<u8> {
    crate::encode(&sequence)
}

/// Reads such an answer.
pub fn decode_have(bytes: &[u8]) -> Result<u64, WireError> {
    crate::decode("answer to a list of connections", HAVE_LENGTH_MAX, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(service: &str, client: &str) -> Ends {
        (
            service.parse().expect("an address"),
            client.parse().expect("an address"),
        )
    }

    fn example() -> Flows {
        Flows {
            group: GroupId(7),
            epoch: Epoch { term: 3, index: 9 },
            base: 1,
            sequence: u64::MAX,
            added: vec![
                ends("192.0.2.100:80", "198.51.100.1:50000"),
                ends("192.0.2.100:443", "198.51.100.1:50001"),
                ends("[2001:db8::100]:80", "[2001:db8:1::1]:50000"),
            ],
            gone: vec![ends("192.0.2.100:80", "198.51.100.2:50000")],
        }
    }

    #[test]
    fn what_is_written_is_read_also_if_a_later_program_adds_something() {
        let flows = example();
        let mut bytes = flows.encode();
        assert_eq!(Flows::decode(&bytes).as_ref(), Ok(&flows));
        bytes.extend([1, 2, 3]);
        assert_eq!(Flows::decode(&bytes), Ok(flows));
        let mut have = encode_have(300);
        have.push(9);
        assert_eq!(decode_have(&have), Ok(300));
    }

    #[test]
    fn what_is_cut_or_of_a_later_version_is_refused() {
        let mut bytes = example().encode();
        for length in 0..bytes.len() {
            assert!(Flows::decode(&bytes[..length]).is_err(), "{length}");
        }
        bytes[0] = 2;
        assert_eq!(Flows::decode(&bytes), Err(WireError::Version(2)));
        let long = vec![1; FLOWS_LENGTH_MAX + 1];
        assert!(matches!(
            Flows::decode(&long),
            Err(WireError::TooLong { .. })
        ));
    }

    #[test]
    fn a_client_of_a_server_that_is_not_named_is_left_out() {
        let form = FlowsForm {
            group: 7,
            epoch: Epoch::NONE.into(),
            base: 0,
            sequence: 1,
            services: Vec::new(),
            added: ClientsForm {
                ipv4: vec![(5, Ipv4Addr::LOCALHOST, 1)],
                ipv6: Vec::new(),
            },
            gone: ClientsForm::default(),
        };
        let read = Flows::decode(&crate::encode(&form)).expect("read");
        assert_eq!(read.added, []);
    }

    #[test]
    fn twenty_thousand_connections_that_came_and_as_many_that_went_fit() {
        let many = |service: &str, kind: u16| -> Vec<Ends> {
            let service = service.parse().expect("an address");
            (0..20_000_u32)
                .map(|n| {
                    let ip = Ipv6Addr::from(u128::MAX - u128::from(n));
                    (service, SocketAddr::new(ip.into(), kind))
                })
                .collect()
        };
        let flows = Flows {
            added: many("[2001:db8::100]:443", 65_535),
            gone: many("[2001:db8::100]:443", 65_534),
            ..example()
        };
        let bytes = flows.encode();
        assert!(bytes.len() <= FLOWS_LENGTH_MAX, "{}", bytes.len());
        assert_eq!(Flows::decode(&bytes).expect("read").added.len(), 20_000);
        let ipv4 = Flows {
            added: (0..10_000_u32)
                .map(|n| {
                    let ip = Ipv4Addr::from(u32::MAX - n);
                    (
                        "192.0.2.100:443".parse().expect("an address"),
                        SocketAddr::new(ip.into(), 65_535),
                    )
                })
                .collect(),
            gone: Vec::new(),
            ..example()
        };
        let length = ipv4.encode().len();
        assert!(length < 90_000, "10,000 of IPv4 are {length} bytes");
    }
}
