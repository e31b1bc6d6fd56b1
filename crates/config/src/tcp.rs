//! `tcp = "{node}:25"` and what refines it: send, expect.

use std::net::{IpAddr, SocketAddr};

use crate::fault::{Report, shown};
use crate::section::Section;
use crate::target::{NODE, Target, read_target};

/// The longest text that is sent, and that is looked for, in bytes: a line of a protocol.
const TEXT_LENGTH_MAX: usize = 1024;

const HELP: &str = "write for example \"{node}:5432\" or \"[2001:db8::1]:5432\"";

/// A question to a server that speaks first, or answers a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Whom to ask.
    pub target: Target,
    /// Where it listens.
    pub port: u16,
    /// What is sent once connected.
    pub send: Option<String>,
    /// What the answer must contain. Without it the connection alone is the answer.
    pub expect: Option<String>,
}

impl Tcp {
    /// Where to connect when the node at `node` is judged.
    pub const fn address(&self, node: IpAddr) -> SocketAddr {
        SocketAddr::new(self.target.at(node), self.port)
    }

    /// As the file writes it.
    pub fn text(&self) -> String {
        place(self.target, self.port)
    }
}

/// A host and a port as the file writes them.
pub(crate) fn place(target: Target, port: u16) -> String {
    match target {
        Target::Ip(ip) => SocketAddr::new(ip, port).to_string(),
        Target::Node => format!("{NODE}:{port}"),
    }
}

/// Reads the question; where to connect is what stands under `tcp`.
pub(crate) fn read(section: &Section<'_>, report: &mut Report) -> Option<Tcp> {
    let text = section.text_with("tcp", HELP, report)?;
    let place = match parse(text.value) {
        Ok(place) => Some(place),
        Err((what, help)) => {
            report.refuse(&text.span, what, help);
            None
        }
    };
    let send = read_text(section, "send", report);
    let expect = read_text(section, "expect", report);
    if let (Some(_), None) = (&send, &expect) {
        let what = "what is sent has no answer to be judged by";
        let help = "add expect = \"...\" with what a good answer contains, or remove send";
        report.warn(&section.key_span("send"), what, help);
    }
    let (target, port) = place?;
    Some(Tcp {
        target,
        port,
        send,
        expect,
    })
}

/// Reads a host and a port. The fault is what is wrong and what to do.
pub(crate) fn parse(text: &str) -> Result<(Target, u16), (String, String)> {
    let wrong = |what: String| Err((what, HELP.to_owned()));
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong(format!("{} has no port", shown(text)));
    };
    let host = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
        Some(_) => return wrong(format!("{} is no IPv6 address", shown(host))),
        None if host.contains(':') => {
            let what = format!("{} has no brackets around its IPv6 address", shown(text));
            return wrong(what);
        }
        None => host,
    };
    // Digits alone: Rust reads "+25" as well.
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if digits && number != 0 => Ok((read_target(host)?, number)),
        _ => wrong(format!("{} is no port", shown(port))),
    }
}

fn read_text(section: &Section<'_>, key: &str, report: &mut Report) -> Option<String> {
    let help = format!("write for example {key} = \"PING\\r\\n\"");
    let text = section.text_with(key, &help, report)?;
    if text.value.is_empty() {
        report.refuse(&text.span, format!("{key} is empty"), "remove it");
        return None;
    }
    if text.value.len() > TEXT_LENGTH_MAX {
        let what = format!("{key} is longer than {TEXT_LENGTH_MAX} bytes");
        report.refuse(&text.span, what, "a line of the protocol is enough");
        return None;
    }
    Some(text.value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written_alike() {
        let node: IpAddr = "192.0.2.11".parse().expect("an address");
        for (text, at) in [
            ("{node}:25", "192.0.2.11:25"),
            ("192.0.2.5:5432", "192.0.2.5:5432"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
        ] {
            let (target, port) = parse(text).expect("a place");
            let tcp = Tcp {
                target,
                port,
                send: None,
                expect: None,
            };
            assert_eq!(tcp.address(node).to_string(), at);
            assert_eq!(tcp.text(), text);
        }
    }

    #[test]
    fn what_is_no_place_is_told() {
        for (text, what) in [
            ("{node}", "has no port"),
            ("{node}:", "is no port"),
            ("{node}:0", "is no port"),
            ("{node}:+25", "is no port"),
            ("{node}:65536", "is no port"),
            ("2001:db8::1:25", "no brackets"),
            ("[192.0.2.1]:25", "no IPv6 address"),
            ("mail.example.com:25", "neither {node} nor an IP address"),
            ("0.0.0.0:25", "no address that one can ask"),
        ] {
            let (told, help) = parse(text).expect_err(text);
            assert!(told.contains(what), "{text}: {told}");
            assert!(!help.is_empty());
        }
    }
}
