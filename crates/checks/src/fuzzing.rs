//! Doors for `crates/fuzz`, and for nobody else: what servers and programs answer, read as it is when
//! they are asked.
//!
//! Not behind a feature: see the module of the same name in `evenkeel_transport`.

use std::time::SystemTime;

use evenkeel_config::RecordType;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::io::connect::Failure;
use crate::io::http::message::Reading;
use crate::io::{dns, nagios, smtp, tcp, tls};
use crate::machine::Outcome;
use crate::probe::{Measure, bounded};

/// What came of an answer of HTTP: its status, and how much of its body was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The status.
    pub status: u16,
    /// The body, as far as it is kept.
    pub body: Vec<u8>,
}

/// An answer of HTTP in these pieces, after which the connection is closed; else why it is none.
pub fn http(bare: bool, pieces: &[&[u8]]) -> Result<Page, String> {
    let mut reading = Reading::new(bare, true);
    for piece in pieces {
        reading.take(piece).map_err(|why| why.to_string())?;
        if reading.is_done() {
            break;
        }
    }
    reading.end().map_err(|why| why.to_string())?;
    Ok(Page {
        status: reading.status().ok_or("it is whole without a status")?,
        body: reading.body().to_vec(),
    })
}

/// A question to a name server.
pub fn dns_question(id: u16, name: &str, record: RecordType) -> Vec<u8> {
    dns::message::query(id, name, record.number())
}

/// The records in its answer; else why there are none.
pub fn dns(query: &[u8], answer: &[u8], record: RecordType) -> Result<Vec<String>, String> {
    match dns::message::reply(query, answer, record) {
        Ok(reply) if reply.code == 0 && !reply.truncated => Ok(reply.records),
        Ok(reply) => Err(dns::message::code_word(reply.code)),
        Err(unusable) => Err(format!("{unusable:?}")),
    }
}

/// What a plugin of Nagios said: whether that is good, in words, and in figures.
pub fn nagios(status: i32, output: &[u8]) -> (Outcome, String, Vec<Measure>) {
    let answer = nagios::judge(status, output);
    (answer.outcome, answer.detail, answer.measures)
}

fn words(failure: Failure) -> String {
    failure.answer("", "").detail
}

/// Whether a mail server greets as it should; else why not.
pub async fn smtp(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
    smtp::greet(stream).await.map_err(words)
}

/// How much was read of an answer until the text came; else why it did not.
pub async fn tcp(text: &[u8], mut stream: impl AsyncRead + Unpin) -> Result<usize, String> {
    let mut read = Vec::new();
    tcp::look_for(text, &mut stream, &mut read)
        .await
        .map_err(words)?;
    Ok(read.len())
}

/// What is remarked on the end of a server's certificate.
pub fn certificate(der: &[u8], now: SystemTime) -> Option<String> {
    tls::remark_on_end(&CertificateDer::from(der), now)
}

/// One line of anything.
pub fn line(text: &str) -> String {
    bounded(text)
}
