//! Whom a check asks, and texts with `{node}` in them.

use std::net::IpAddr;

use crate::address::{AddressKind, classify};
use crate::fault::shown;

/// Stands for the address, without port, of the node that is judged.
pub(crate) const NODE: &str = "{node}";

/// Whom a check asks.
///
/// An address, never a name: a check that needs DNS would report every failure of DNS as
/// a failure of every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `{node}`: the node that is judged.
    Node,
    /// This address, whichever node is judged.
    Ip(IpAddr),
}

impl Target {
    /// The address to ask when the node at `node` is judged.
    pub const fn at(self, node: IpAddr) -> IpAddr {
        match self {
            Self::Node => node,
            Self::Ip(ip) => ip,
        }
    }

    /// As the file writes it, IPv6 without brackets.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Node => NODE.into(),
            Self::Ip(ip) => ip.to_string(),
        }
    }
}

/// Reads `{node}` or an address. The fault is what is wrong and what to do.
pub(crate) fn read_target(text: &str) -> Result<Target, (String, String)> {
    if text == NODE {
        return Ok(Target::Node);
    }
    let Ok(ip) = text.parse::<IpAddr>() else {
        let what = format!("{} is neither {NODE} nor an IP address", shown(text));
        let help = match text.to_ascii_lowercase().as_str() {
            "localhost" => format!("write {NODE} for the node that is judged, or 127.0.0.1"),
            _ => format!("write {NODE} or an address: a check must not depend on DNS"),
        };
        return Err((what, help));
    };
    match classify(ip) {
        AddressKind::Unspecified
        | AddressKind::Multicast
        | AddressKind::Broadcast
        | AddressKind::LinkLocal6 => {
            let what = format!("{ip} is no address that one can ask");
            Err((what, format!("write {NODE} or the address of one machine")))
        }
        AddressKind::Loopback | AddressKind::Mapped | AddressKind::Ordinary => Ok(Target::Ip(ip)),
    }
}

/// A text in which `{node}` may stand anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
}

impl Template {
    /// The template that `text` is, or the bytes of the first brace that is no `{node}`.
    pub(crate) fn new(text: &str) -> Result<Self, std::ops::Range<usize>> {
        let mut at = 0;
        while let Some(brace) = text[at..].find(['{', '}']) {
            at += brace;
            if !text[at..].starts_with(NODE) {
                let length = text[at..].find('}').map_or(1, |end| end + 1);
                return Err(at..at + length);
            }
            at += NODE.len();
        }
        Ok(Self { text: text.into() })
    }

    /// The text when the node at `node` is judged.
    pub fn fill(&self, node: IpAddr) -> String {
        self.text.replace(NODE, &node.to_string())
    }

    /// As the file writes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_with_the_address_alone() {
        let node: IpAddr = "2001:db8::1".parse().expect("an address");
        let template = Template::new("/health?node={node}&again={node}").expect("a template");
        assert_eq!(
            template.fill(node),
            "/health?node=2001:db8::1&again=2001:db8::1"
        );
        assert_eq!(Template::new("/").expect("a template").fill(node), "/");
    }

    #[test]
    fn other_braces_are_pointed_at() {
        assert_eq!(Template::new("/{node}/{group}/x"), Err(8..15));
        assert_eq!(Template::new("/{node"), Err(1..2));
        assert_eq!(Template::new("/node}"), Err(5..6));
        assert_eq!(Template::new("/{nöde}"), Err(1..8));
    }

    #[test]
    fn targets_are_addresses() {
        let node: IpAddr = "192.0.2.11".parse().expect("an address");
        assert_eq!(
            read_target("{node}").map(|target| target.at(node)),
            Ok(node)
        );
        let gateway = read_target("192.0.2.1").map(|target| target.at(node).to_string());
        assert_eq!(gateway, Ok("192.0.2.1".into()));
        assert!(read_target("www.example.com").is_err());
        assert!(read_target("0.0.0.0").is_err());
        assert!(read_target("").is_err());
    }
}
