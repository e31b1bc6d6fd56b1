//! `http = "http://{node}/"` and what refines it: status, body, method, host, tls.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use evenkeel_core::rule::nearest;
use toml::de::DeValue;

use crate::fault::{Report, shown};
use crate::section::{Keys, Section, Text, refuse_kind};
use crate::status::StatusSet;
use crate::target::{NODE, Target, Template, read_target};

/// The longest URL, in bytes: servers take no longer ones.
const URL_LENGTH_MAX: usize = 2048;

/// The longest text that is looked for in a body, in bytes.
const BODY_LENGTH_MAX: usize = 1024;

/// The longest host name, in bytes (RFC 1035 2.3.4), with a port after it.
const HOST_LENGTH_MAX: usize = 253 + 6;

const URL_HELP: &str = "write for example \"http://{node}/\" or \"https://{node}:8443/health\"";

const TLS_KEYS: Keys = Keys {
    known: &["ca", "verify"],
    later: &[],
};

/// A question to a web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Encrypted, and whom to believe then.
    pub tls: Option<Trust>,
    /// Whom to ask.
    pub target: Target,
    /// Where it listens.
    pub port: u16,
    /// Path and query, starting with a slash.
    pub path: Template,
    /// How to ask.
    pub method: Method,
    /// Which site is meant, with a port if the file says one; the address if none.
    pub host: Option<String>,
    /// Which answers are good.
    pub status: StatusSet,
    /// What the body must contain.
    pub body: Option<String>,
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// With the body.
    Get,
    /// Without.
    Head,
}

impl Method {
    /// As in the request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// Whom an encrypted question believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The public certificate authorities.
    WebRoots,
    /// The authorities in this PEM file.
    Ca(PathBuf),
    /// Anybody: the check asks whether the server answers, not who it is.
    Anybody,
}

impl Http {
    /// Where to connect when the node at `node` is judged.
    pub const fn address(&self, node: IpAddr) -> SocketAddr {
        SocketAddr::new(self.target.at(node), self.port)
    }

    /// The `Host` of the request (RFC 9110 7.2) when the node at `node` is judged.
    pub fn host_header(&self, node: IpAddr) -> String {
        match &self.host {
            Some(host) => host.clone(),
            None => {
                let address = self.address(node);
                let usual = if self.tls.is_some() { 443 } else { 80 };
                let whole = address.to_string();
                let port = format!(":{}", self.port);
                match self.port == usual {
                    true => whole.strip_suffix(&port).unwrap_or(&whole).to_owned(),
                    false => whole,
                }
            }
        }
    }

    /// The name that the server's certificate must carry when the node at `node` is
    /// judged: the host without port, or the address without brackets.
    pub fn server_name(&self, node: IpAddr) -> String {
        match &self.host {
            Some(host) => without_port(host).to_owned(),
            None => self.target.at(node).to_string(),
        }
    }

    /// The URL as the file writes it, in canonical form.
    pub fn url(&self) -> String {
        let (scheme, usual) = if self.tls.is_some() {
            ("https", 443)
        } else {
            ("http", 80)
        };
        let host = match self.target {
            Target::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
            Target::Ip(IpAddr::V4(_)) | Target::Node => self.target.text(),
        };
        let port = if self.port == usual {
            String::new()
        } else {
            format!(":{}", self.port)
        };
        format!("{scheme}://{host}{port}{}", self.path.as_str())
    }
}

pub(crate) fn without_port(host: &str) -> &str {
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Reads the question; `url` is what stands under `http`.
pub(crate) fn read(section: &Section<'_>, report: &mut Report) -> Option<Http> {
    let text = section.text_with("http", URL_HELP, report)?;
    let url = match parse_url(text.value) {
        Ok(url) => Some(url),
        Err(wrong) => {
            let place = text.inside(report.source(), wrong.part);
            report.refuse(&place, wrong.what, wrong.help);
            None
        }
    };
    let status = read_status(section, report);
    let method = read_method(section, report);
    let host = read_host(section, report);
    let body = read_body(section, method, report);
    let encrypted = url.as_ref().map(|url| url.encrypted);
    let tls = read_tls(section, encrypted, report);
    let url = url?;
    if url.encrypted && host.is_none() && matches!(tls, Some(Trust::WebRoots | Trust::Ca(_))) {
        let what = "the server's certificate must carry the address itself";
        report.warn(
            &text.span,
            what,
            "add host = \"www.example.com\" with the name in the certificate, or tls = { verify = false }",
        );
    }
    Some(Http {
        tls: if url.encrypted { Some(tls?) } else { None },
        target: url.target,
        port: url.port,
        path: url.path,
        method,
        host,
        status,
        body,
    })
}

struct Url {
    encrypted: bool,
    target: Target,
    port: u16,
    path: Template,
}

struct Wrong {
    part: Range<usize>,
    what: String,
    help: String,
}

fn wrong<T>(
    part: Range<usize>,
    what: impl Into<String>,
    help: impl Into<String>,
) -> Result<T, Wrong> {
    Err(Wrong {
        part,
        what: what.into(),
        help: help.into(),
    })
}

/// `scheme "://" host [ ":" port ] [ path ]` (RFC 3986, without what a check cannot use).
fn parse_url(url: &str) -> Result<Url, Wrong> {
    if url.len() > URL_LENGTH_MAX {
        let what = format!("the URL is longer than {URL_LENGTH_MAX} bytes");
        return wrong(0..url.len(), what, "ask for a shorter one");
    }
    if let Some((at, c)) = url.char_indices().find(|(_, c)| !c.is_ascii_graphic()) {
        let what = format!("{c:?} cannot stand in a URL");
        return wrong(
            at..at + c.len_utf8(),
            what,
            "write it as % and two hexadecimal digits per byte",
        );
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return wrong(
            0..url.len(),
            format!("{} is not a URL", shown(url)),
            URL_HELP,
        );
    };
    let encrypted = match scheme {
        "http" => false,
        "https" => true,
        _ => {
            let what = format!("{} is neither http nor https", shown(scheme));
            return wrong(0..scheme.len(), what, URL_HELP);
        }
    };
    let start = scheme.len() + "://".len();
    let authority_length = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_length);
    let usual = if encrypted { 443 } else { 80 };
    let (target, port) = parse_authority(authority, start, usual)?;
    let path = parse_path(path, start + authority_length)?;
    Ok(Url {
        encrypted,
        target,
        port,
        path,
    })
}

fn parse_authority(authority: &str, start: usize, usual: u16) -> Result<(Target, u16), Wrong> {
    let place = start..start + authority.len();
    if let Some(at) = authority.find('@') {
        let what = "a check does not log in";
        return wrong(
            start..start + at + 1,
            what,
            "ask for something that needs no password",
        );
    }
    let (host, port) = match (authority.rfind(':'), authority.rfind([']', '}'])) {
        // A colon inside brackets belongs to an IPv6 address.
        (Some(colon), Some(bracket)) if colon < bracket => (authority, None),
        (Some(_), None) if authority.matches(':').count() > 1 => {
            let what = format!("{} is neither {NODE} nor an IP address", shown(authority));
            return wrong(place, what, "write IPv6 addresses in square brackets");
        }
        (Some(colon), _) => (&authority[..colon], Some(&authority[colon + 1..])),
        (None, _) => (authority, None),
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'));
    let target = match read_target(bracketed.unwrap_or(host)) {
        // {node} is put into brackets by itself where it must be.
        Ok(Target::Node) if bracketed.is_some() => {
            return wrong(
                place,
                format!("{NODE} needs no brackets"),
                format!("write {NODE} alone"),
            );
        }
        Ok(Target::Ip(IpAddr::V4(_))) if bracketed.is_some() => {
            return wrong(place, "an IPv4 address needs no brackets", "remove them");
        }
        Ok(target) => target,
        Err((what, help)) => return wrong(start..start + host.len(), what, help),
    };
    let Some(port) = port else {
        return Ok((target, usual));
    };
    let port_place = start + host.len() + 1..start + authority.len();
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number @ 1..) if digits => Ok((target, number)),
        Ok(_) | Err(_) => wrong(
            port_place,
            format!("{} is no port", shown(port)),
            "a port is a number from 1 to 65535",
        ),
    }
}

fn parse_path(path: &str, start: usize) -> Result<Template, Wrong> {
    if let Some(at) = path.find('#') {
        let what = "what follows # is never sent to a server";
        return wrong(start + at..start + path.len(), what, "remove it");
    }
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    };
    Template::new(&whole).or_else(|part| {
        let shift = start + path.len() - whole.len();
        let what = format!("{} has no meaning in a URL", shown(&whole[part.clone()]));
        let help = format!("only {NODE} is replaced; write %7B and %7D for braces");
        wrong(part.start + shift..part.end + shift, what, help)
    })
}

/// A text such as `"200-399"`, or one number.
fn read_status(section: &Section<'_>, report: &mut Report) -> StatusSet {
    let help = "write codes and ranges, as in \"200-399\" or \"200, 204, 301-302\"";
    let Some(value) = section.value("status") else {
        return StatusSet::default();
    };
    let parsed = match value.get_ref() {
        DeValue::String(text) => {
            let text = Text {
                value: text,
                span: value.span(),
            };
            StatusSet::parse(text.value)
                .map_err(|(part, what)| (text.inside(report.source(), part), what))
        }
        DeValue::Integer(number) => {
            StatusSet::parse(&number.to_string()).map_err(|(_, what)| (value.span(), what))
        }
        other => {
            refuse_kind(
                "status",
                "a string or a number",
                other,
                value.span(),
                help,
                report,
            );
            return StatusSet::default();
        }
    };
    parsed.unwrap_or_else(|(place, what)| {
        report.refuse(&place, what, help);
        StatusSet::default()
    })
}

fn read_method(section: &Section<'_>, report: &mut Report) -> Method {
    let help = "the methods are \"GET\" and \"HEAD\"";
    match section.text_with("method", help, report) {
        None => Method::Get,
        Some(text) => match text.value {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            other => {
                let what = format!("there is no method {} for checks", shown(other));
                let help = match nearest(other, ["GET", "HEAD"]) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => help.into(),
                };
                report.refuse(&text.span, what, help);
                Method::Get
            }
        },
    }
}

fn read_body(section: &Section<'_>, method: Method, report: &mut Report) -> Option<String> {
    let help = "write a text that a good answer contains";
    let text = section.text_with("body", help, report)?;
    if text.value.is_empty() || text.value.len() > BODY_LENGTH_MAX {
        let what = match text.value.is_empty() {
            true => "every answer contains an empty text".to_owned(),
            false => format!("the text is longer than {BODY_LENGTH_MAX} bytes"),
        };
        report.refuse(&text.span, what, help);
    }
    if method == Method::Head {
        let what = "an answer to HEAD has no body";
        report
            .refuse(&section.key_span("body"), what, "remove body, or method")
            .also(&section.key_span("method"), "asked without the body here");
    }
    Some(text.value.to_owned())
}

/// The name of the site under `host`, if anything stands there.
pub(crate) fn read_host(section: &Section<'_>, report: &mut Report) -> Option<String> {
    let help = "write the name of the site, as in \"www.example.com\" or \"www.example.com:8080\"";
    let text = section.text_with("host", help, report)?;
    let (name, port) = match text.value.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text.value, None),
    };
    let name_fits = !name.is_empty()
        && text.value.len() <= HOST_LENGTH_MAX
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let port_fits = port.is_none_or(|port| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !(name_fits && port_fits) {
        report.refuse(
            &text.span,
            format!("{} is no host", shown(text.value)),
            help,
        );
        return None;
    }
    Some(text.value.to_owned())
}

/// `tls = { ca = "/etc/evenkeel/site-ca.pem" }` or `tls = { verify = false }`. Nothing if
/// what stands there is wrong. `encrypted` is unknown if the URL is wrong.
fn read_tls(section: &Section<'_>, encrypted: Option<bool>, report: &mut Report) -> Option<Trust> {
    if encrypted == Some(false) && section.has("tls") {
        let what = "tls has no meaning for an http:// URL";
        report.refuse(
            &section.key_span("tls"),
            what,
            "write https:// or remove tls",
        );
    }
    read_trust(section, report)
}

/// The same wherever a check may use TLS: whom to believe.
pub(crate) fn read_trust(section: &Section<'_>, report: &mut Report) -> Option<Trust> {
    let help = "write tls = { ca = \"/path/of/ca.pem\" } or tls = { verify = false }";
    if !section.has("tls") {
        return Some(Trust::WebRoots);
    }
    let tls = section.section("tls", help, report)?;
    tls.only(&TLS_KEYS, report);
    let verify = tls.flag("verify", report).unwrap_or(true);
    let ca = tls.text_with("ca", help, report);
    match (ca, verify) {
        (Some(ca), false) => {
            let what = "verify = false ignores the authority in ca";
            report
                .refuse(&tls.key_span("verify"), what, "remove one of them")
                .also(&ca.span, "the authority");
            None
        }
        (Some(ca), true) if ca.value.starts_with('/') && !ca.value.contains('\0') => {
            Some(Trust::Ca(ca.value.into()))
        }
        (Some(ca), true) => {
            let what = format!("{} is not an absolute path", shown(ca.value));
            report.refuse(&ca.span, what, "write the whole path, from / on");
            None
        }
        (None, true) => Some(Trust::WebRoots),
        (None, false) => Some(Trust::Anybody),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(url: &str, host: Option<&str>) -> Http {
        let Url {
            encrypted,
            target,
            port,
            path,
        } = match parse_url(url) {
            Ok(url) => url,
            Err(wrong) => panic!("{url}: {}", wrong.what),
        };
        Http {
            tls: encrypted.then_some(Trust::WebRoots),
            target,
            port,
            path,
            method: Method::Get,
            host: host.map(str::to_owned),
            status: StatusSet::default(),
            body: None,
        }
    }

    #[test]
    fn urls_read_as_people_write_them() {
        let reads = |url: &str, canonical: &str| assert_eq!(http(url, None).url(), canonical);
        reads("http://{node}/", "http://{node}/");
        reads("http://{node}", "http://{node}/");
        reads("http://{node}:80/a?b=c", "http://{node}/a?b=c");
        reads("https://{node}:8443?x", "https://{node}:8443/?x");
        reads("https://192.0.2.1:443/", "https://192.0.2.1/");
        reads(
            "http://[2001:DB8::1]:8080/{node}",
            "http://[2001:db8::1]:8080/{node}",
        );
    }

    #[test]
    fn a_question_is_put_to_the_judged_node() {
        let node: IpAddr = "2001:db8::1".parse().expect("an address");
        let plain = http("http://{node}/", None);
        assert_eq!(plain.address(node).to_string(), "[2001:db8::1]:80");
        assert_eq!(plain.host_header(node), "[2001:db8::1]");
        assert_eq!(plain.server_name(node), "2001:db8::1");
        let odd = http("http://{node}:8080/", None);
        assert_eq!(odd.host_header(node), "[2001:db8::1]:8080");
        let site = http("https://{node}/", Some("www.example.com:8443"));
        assert_eq!(site.host_header(node), "www.example.com:8443");
        assert_eq!(site.server_name(node), "www.example.com");
    }

    #[test]
    fn what_is_no_url_is_pointed_at() {
        let refused = |marked: &str, what: &str| {
            let url = marked.replace('^', "");
            let at = marked.find('^').expect("a mark");
            let end = marked.rfind('^').expect("a mark") - 1;
            match parse_url(&url) {
                Ok(_) => panic!("{url} is a URL"),
                Err(wrong) => {
                    assert_eq!((wrong.what.as_str(), wrong.part), (what, at..end), "{url}")
                }
            }
        };
        let neither = |host: &str| format!("{host:?} is neither {{node}} nor an IP address");
        refused("^{node}^", "\"{node}\" is not a URL");
        refused("^ftp^://{node}/", "\"ftp\" is neither http nor https");
        refused("http://{node}/^ ^x", "' ' cannot stand in a URL");
        refused("http://{node}/^ü^", "'ü' cannot stand in a URL");
        refused("http://^www.example.com^/", &neither("www.example.com"));
        refused("http://^localhost^:80/", &neither("localhost"));
        refused("http://^2001:db8::1^/", &neither("2001:db8::1"));
        refused("http://^^/", &neither(""));
        refused("http://^{group}^/", &neither("{group}"));
        refused("http://^[{node}]^/", "{node} needs no brackets");
        refused("http://^[192.0.2.1]^/", "an IPv4 address needs no brackets");
        refused("http://^user@^{node}/", "a check does not log in");
        refused("http://{node}:^0^/", "\"0\" is no port");
        refused("http://{node}:^^/", "\"\" is no port");
        refused("http://{node}:^65536^/", "\"65536\" is no port");
        refused("http://{node}:^+80^/", "\"+80\" is no port");
        refused(
            "http://{node}/^#top^",
            "what follows # is never sent to a server",
        );
        refused("http://{node}/^{x}^/", "\"{x}\" has no meaning in a URL");
        refused("http://{node}?^{x}^", "\"{x}\" has no meaning in a URL");
    }
}
