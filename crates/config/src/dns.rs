//! `dns = "www.example.net"` and what refines it: server, type, expect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use evenkeel_core::rule::nearest;

use crate::fault::{Report, shown};
use crate::section::Section;
use crate::target::Target;
use crate::tcp;

/// The longest name, in bytes, without its last dot, and the longest part of one
/// (RFC 1035 2.3.4).
const NAME_LENGTH_MAX: usize = 253;
const LABEL_LENGTH_MAX: usize = 63;

/// The longest text that is looked for: what one string of a TXT record holds.
const EXPECT_LENGTH_MAX: usize = 255;

/// Where name servers listen (RFC 1035 4.2).
const PORT: u16 = 53;

const HELP: &str = "write a name, as in dns = \"www.example.net\"";

/// A question to a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name that is asked for, without its last dot; empty for the root.
    pub name: String,
    /// What about it.
    pub record: RecordType,
    /// Whom to ask.
    pub target: Target,
    /// Where it listens.
    pub port: u16,
    /// What one of the records must be. Without it any record is good.
    pub expect: Option<String>,
}

impl Dns {
    /// Whom to ask when the node at `node` is judged.
    pub const fn address(&self, node: IpAddr) -> SocketAddr {
        SocketAddr::new(self.target.at(node), self.port)
    }

    /// The server as the file writes it.
    pub fn server(&self) -> String {
        tcp::place(self.target, self.port)
    }
}

/// A type of record (RFC 1035 3.2.2, RFC 3596, RFC 2782).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the RFCs")]
pub enum RecordType {
    A,
    Ns,
    Cname,
    Soa,
    Ptr,
    Mx,
    Txt,
    Aaaa,
    Srv,
}

impl RecordType {
    const ALL: [Self; 9] = [
        Self::A,
        Self::Aaaa,
        Self::Cname,
        Self::Mx,
        Self::Ns,
        Self::Ptr,
        Self::Soa,
        Self::Srv,
        Self::Txt,
    ];

    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Ns => "NS",
            Self::Cname => "CNAME",
            Self::Soa => "SOA",
            Self::Ptr => "PTR",
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        }
    }

    /// As on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ns => 2,
            Self::Cname => 5,
            Self::Soa => 6,
            Self::Ptr => 12,
            Self::Mx => 15,
            Self::Txt => 16,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }
}

/// Reads the question.
pub(crate) fn read(section: &Section<'_>, report: &mut Report) -> Option<Dns> {
    let name = read_name(section, report);
    let place = read_server(section, report);
    let record = read_type(section, report);
    let expect = record.and_then(|record| read_expect(section, record, report));
    let (target, port) = place?;
    Some(Dns {
        name: name?,
        record: record?,
        target,
        port,
        expect,
    })
}

fn read_name(section: &Section<'_>, report: &mut Report) -> Option<String> {
    let text = section.text_with("dns", HELP, report)?;
    if text.value == "." {
        return Some(String::new());
    }
    let name = text.value.strip_suffix('.').unwrap_or(text.value);
    let fits = |label: &str| {
        (1..=LABEL_LENGTH_MAX).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_/".contains(&byte))
    };
    if name.len() > NAME_LENGTH_MAX || !name.split('.').all(fits) {
        let what = format!("{} is not a name that can be asked for", shown(text.value));
        let help = match text.value.is_ascii() {
            true => HELP,
            false => "write it as it is sent, as in \"xn--bcher-kva.example\"",
        };
        report.refuse(&text.span, what, help);
        return None;
    }
    Some(name.to_ascii_lowercase())
}

fn read_server(section: &Section<'_>, report: &mut Report) -> Option<(Target, u16)> {
    let help = "write for example server = \"{node}:53\"";
    if !section.has("server") {
        return Some((Target::Node, PORT));
    }
    let text = section.text_with("server", help, report)?;
    match tcp::parse(text.value) {
        Ok(place) => Some(place),
        Err((what, help)) => {
            report.refuse(&text.span, what, help.replace("5432", "53"));
            None
        }
    }
}

fn read_type(section: &Section<'_>, report: &mut Report) -> Option<RecordType> {
    let names = RecordType::ALL.map(RecordType::as_str);
    let help = format!("the types are {}", names.join(", "));
    if !section.has("type") {
        return Some(RecordType::A);
    }
    let text = section.text_with("type", &help, report)?;
    let mut all = RecordType::ALL.into_iter();
    let found = all.find(|one| one.as_str() == text.value);
    if found.is_none() {
        let what = format!("there is no type {} for checks", shown(text.value));
        let help = match nearest(text.value, names) {
            Some(meant) => format!("did you mean {meant:?}? {help}"),
            None => help,
        };
        report.refuse(&text.span, what, help);
    }
    found
}

/// What a record must be; addresses and names in the form in which they are compared.
fn read_expect(section: &Section<'_>, record: RecordType, report: &mut Report) -> Option<String> {
    let (example, form): (_, fn(&str) -> Option<String>) = match record {
        RecordType::A => ("192.0.2.80", |text| {
            Some(text.parse::<Ipv4Addr>().ok()?.to_string())
        }),
        RecordType::Aaaa => ("2001:db8::80", |text| {
            Some(text.parse::<Ipv6Addr>().ok()?.to_string())
        }),
        RecordType::Txt => ("v=spf1 -all", |text| Some(text.to_owned())),
        RecordType::Mx => ("10 mail.example.net", |text| numbered(text, 1)),
        RecordType::Srv => ("0 5 5060 sip.example.net", |text| numbered(text, 3)),
        RecordType::Soa => ("ns1.example.net", name_form),
        RecordType::Ns | RecordType::Cname | RecordType::Ptr => ("www.example.net", name_form),
    };
    let help = format!("write for example expect = {example:?}");
    let text = section.text_with("expect", &help, report)?;
    let fits = (1..=EXPECT_LENGTH_MAX).contains(&text.value.len());
    let expect = form(text.value).filter(|_| fits);
    if expect.is_none() {
        let what = format!("{} is no {} record", shown(text.value), record.as_str());
        report.refuse(&text.span, what, help);
    }
    expect
}

/// Names count without their last dot, and in small letters.
fn name_form(text: &str) -> Option<String> {
    let text = text.trim_end_matches('.');
    let name = !text.is_empty() && !text.contains(char::is_whitespace);
    name.then(|| text.to_ascii_lowercase())
}

/// So many numbers and a name, as answers are written; `.` is the root (RFC 7505).
fn numbered(text: &str, numbers: usize) -> Option<String> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (name, before) = words.split_last()?;
    if before.len() != numbers {
        return None;
    }
    let mut form = String::new();
    for number in before {
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse::<u16>().ok().filter(|_| digits)?;
        form.push_str(&format!("{number} "));
    }
    match *name {
        "." => Some(form + "."),
        name => Some(form + &name_form(name)?),
    }
}
