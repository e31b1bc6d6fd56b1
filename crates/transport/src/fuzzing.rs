//! Doors for `crates/fuzz`, and for nobody else: readers of what peers send that have no other way
//! in but a connection. Each calls the reader itself and adds no rule of its own.
//!
//! They are not behind a feature, because a workspace that is built with it in one crate and
//! without it in another is built twice; they are hidden, and a program that does not call them
//! does not contain them.

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::stream::{Class, split_one_way, split_short};
use crate::{hello, tls};

/// The class and the body of a request, or the status and the body of an answer.
pub fn request(stream: Vec<u8>) -> Option<(u8, Bytes)> {
    split_short(stream)
}

/// The class, the number and the body of a one-way message.
pub fn one_way(stream: Vec<u8>) -> Option<(Class, u64, Bytes)> {
    split_one_way(stream)
}

/// What follows the proof of a name: the life of an endpoint, and what its daemon says.
pub fn hello(stream: &[u8]) -> Result<(u64, Bytes), String> {
    hello::read(stream)
}

/// What is told of the reason with which a stranger closed the connection.
pub fn reason(bytes: &[u8]) -> String {
    hello::tidy(tls::told(&String::from_utf8_lossy(bytes)))
}

/// The certificate in a PEM file.
pub fn der(text: &str) -> Option<Vec<u8>> {
    let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
    Some(certificate.to_vec())
}

/// A PEM file of what may be a certificate (RFC 7468).
pub fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    /// Bytes of a line: 64 digits.
    const LINE: usize = 48;
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(LINE) {
        for part in line.chunks(3) {
            let byte = |at: usize| u32::from(part.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for digit in 0..4 {
                let index = (bits >> (18 - 6 * digit)) & 0x3f;
                let padding = digit > part.len();
                text.push(if padding {
                    '='
                } else {
                    char::from(DIGITS[index as usize])
                });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
