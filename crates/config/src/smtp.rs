//! `smtp = "{node}:25"` and what refines it: starttls, host, tls.

use std::net::{IpAddr, SocketAddr};

use crate::fault::Report;
use crate::http::{self, Trust};
use crate::section::Section;
use crate::target::Target;
use crate::tcp;

const HELP: &str = "write for example smtp = \"{node}:25\"";

/// A question to a mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smtp {
    /// Whom to ask.
    pub target: Target,
    /// Where it listens.
    pub port: u16,
    /// Go over to TLS (RFC 3207), and whom to believe then.
    pub starttls: Option<Trust>,
    /// The name that its certificate must carry; the address if none.
    pub host: Option<String>,
}

impl Smtp {
    /// Where to connect when the node at `node` is judged.
    pub const fn address(&self, node: IpAddr) -> SocketAddr {
        SocketAddr::new(self.target.at(node), self.port)
    }

    /// The name that the server's certificate must carry when the node at `node` is judged.
    pub fn server_name(&self, node: IpAddr) -> String {
        match &self.host {
            Some(host) => http::without_port(host).to_owned(),
            None => self.target.at(node).to_string(),
        }
    }

    /// As the file writes it.
    pub fn text(&self) -> String {
        tcp::place(self.target, self.port)
    }
}

/// Reads the question.
pub(crate) fn read(section: &Section<'_>, report: &mut Report) -> Option<Smtp> {
    let text = section.text_with("smtp", HELP, report)?;
    let place = match tcp::parse(text.value) {
        Ok(place) => Some(place),
        Err((what, help)) => {
            report.refuse(&text.span, what, help.replace("5432", "25"));
            None
        }
    };
    let starttls = section.flag("starttls", report).unwrap_or(false);
    let host = http::read_host(section, report);
    let trust = http::read_trust(section, report);
    for key in ["tls", "host"] {
        if section.has(key) && !starttls {
            let what = format!("{key} has no meaning without starttls");
            report.refuse(
                &section.key_span(key),
                what,
                "add starttls = true, or remove it",
            );
        }
    }
    if starttls && host.is_none() && matches!(trust, Some(Trust::WebRoots | Trust::Ca(_))) {
        let what = "the server's certificate must carry the address itself";
        let help = "add host = \"mail.example.com\" with the name in the certificate, or tls = { verify = false }";
        report.warn(&text.span, what, help);
    }
    let (target, port) = place?;
    Some(Smtp {
        target,
        port,
        starttls: if starttls { Some(trust?) } else { None },
        host,
    })
}
