//! `dns`: one question to a name server by UDP, and again by TCP if the answer says that it
//! was cut (RFC 1035 4.2, RFC 7766).
//!
//! A datagram that is not the answer to this question is no answer: whoever guesses cannot
//! make a check good or bad.

pub(crate) mod message;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use evenkeel_host::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::io::connect::{Failure, connect};
use crate::io::dns::message::{Reply, Unusable};
use crate::io::{Answer, Fault, fault_of};
use crate::machine::Outcome;
use crate::probe::{Dns, Millis, Phases, bounded};

/// The longest datagram that is read; longer than what a server may send unasked (RFC 1035
/// 4.2.1: 512).
const DATAGRAM_MAX: usize = 4096;
/// How many records are told to people.
const SHOWN_MAX: usize = 3;

/// Asks once. Returns within `within`, whatever the server does.
pub(crate) async fn ask(dns: &Dns, within: Duration) -> Answer {
    let begun = clock::now();
    let answer = tokio::time::timeout(within, exchange(dns)).await;
    let took = clock::now().since(begun);
    let answer = match answer {
        Err(_) => {
            let detail = format!("no answer within {} ms", Millis(within));
            return Answer::new(Outcome::Silent, detail);
        }
        Ok(Err(failure)) => failure.answer("", ""),
        Ok(Ok(reply)) => judge(dns, &reply, took),
    };
    Answer {
        phases: Phases {
            first_byte: Some(took),
            ..Phases::default()
        },
        ..answer
    }
}

async fn exchange(dns: &Dns) -> Result<Reply, Failure> {
    // Chance enough beside the port that the kernel draws.
    let id = RandomState::new().build_hasher().finish() as u16;
    let query = message::query(id, &dns.name, dns.record.number());
    let reply = by_udp(dns, &query).await?;
    match reply.truncated {
        false => Ok(reply),
        true => by_tcp(dns, &query).await,
    }
}

async fn by_udp(dns: &Dns, query: &[u8]) -> Result<Reply, Failure> {
    let any: IpAddr = match dns.server.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(of_kernel)?;
    // From then on the kernel takes datagrams of that server only, and tells refusals.
    socket.connect(dns.server).await.map_err(of_kernel)?;
    socket.send(query).await.map_err(of_kernel)?;
    let mut datagram = [0; DATAGRAM_MAX];
    loop {
        let length = socket.recv(&mut datagram).await.map_err(of_kernel)?;
        match message::reply(query, &datagram[..length], dns.record) {
            Err(Unusable::Foreign) => {}
            Err(Unusable::Broken(why)) => return Err(broken(why)),
            Ok(reply) => return Ok(reply),
        }
    }
}

async fn by_tcp(dns: &Dns, query: &[u8]) -> Result<Reply, Failure> {
    let mut stream = connect(dns.server).await?;
    let length = query.len() as u16;
    let framed = [&length.to_be_bytes(), query].concat();
    stream.write_all(&framed).await.map_err(of_kernel)?;
    let length = stream.read_u16().await.map_err(of_kernel)?;
    let mut whole = vec![0; usize::from(length)];
    stream.read_exact(&mut whole).await.map_err(of_kernel)?;
    match message::reply(query, &whole, dns.record) {
        Ok(reply) if reply.truncated => Err(broken("cut even by TCP")),
        Ok(reply) => Ok(reply),
        Err(Unusable::Foreign) => Err(broken("to another question")),
        Err(Unusable::Broken(why)) => Err(broken(why)),
    }
}

fn broken(why: &str) -> Failure {
    Failure::Theirs(format!("the answer cannot be used: {why}"))
}

fn of_kernel(error: std::io::Error) -> Failure {
    match fault_of(&error) {
        _ if error.kind() == std::io::ErrorKind::ConnectionRefused => Failure::Refused,
        Fault::Ours => Failure::Ours(error.to_string()),
        Fault::Theirs => Failure::Theirs(format!("no answer: {error}")),
    }
}

fn judge(dns: &Dns, reply: &Reply, took: Duration) -> Answer {
    let (kind, name) = (dns.record.as_str(), shown_name(&dns.name));
    let took = Millis(took);
    if reply.code != 0 {
        let word = message::code_word(reply.code);
        let detail = format!("{word} for {kind} of {name} in {took} ms");
        return Answer::new(Outcome::Bad, bounded(&detail));
    }
    if reply.records.is_empty() {
        let detail = format!("no {kind} record of {name} in {took} ms");
        return Answer::new(Outcome::Bad, bounded(&detail));
    }
    let some: Vec<&str> = reply.records.iter().map(String::as_str).collect();
    let more = match some.len().saturating_sub(SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let some = format!("{}{more}", some[..some.len().min(SHOWN_MAX)].join(", "));
    match &dns.expect {
        Some(expect) if !reply.records.contains(expect) => {
            let detail = format!("{kind} of {name} is {some}, not {expect}");
            Answer::new(Outcome::Bad, bounded(&detail))
        }
        Some(_) | None => {
            let detail = format!("{kind} of {name} is {some} in {took} ms");
            Answer::new(Outcome::Good, bounded(&detail))
        }
    }
}

fn shown_name(name: &str) -> &str {
    match name {
        "" => ".",
        name => name,
    }
}
