//! Versioned forms of core types: what is stored in the log and sent to peers.
//!
//! Core types are never serialised themselves, so that they can change freely; what
//! was once stored or sent can always be read. Each form begins with one byte, its
//! version. A reader refuses a version that it does not know, by name, and refuses a
//! form that is longer than its bound before it looks into it.

pub mod flight;
pub mod v1;

/// Why bytes are no message. The text follows "cannot read a peer's message: ".
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Too long to be looked at.
    #[error("{length} bytes are more than the {max} that a {what} may have")]
    TooLong {
        /// What it should be.
        what: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
    },
    /// From a newer version, or no message at all.
    #[error("its version is {0}, and this program reads version 1")]
    Version(u8),
    /// Broken.
    #[error("it is no {what}: {why}")]
    Broken {
        /// What it should be.
        what: &'static str,
        /// What the decoder said.
        why: String,
    },
}

/// The version byte of everything in [`v1`].
const VERSION_1: u8 = 1;

fn encode<T: serde::Serialize>(form: &T) -> Vec<u8> {
    let start = vec![VERSION_1];
    postcard::to_extend(form, start).expect("forms have only types that postcard can write")
}

fn decode<T: serde::de::DeserializeOwned>(
    what: &'static str,
    max: usize,
    bytes: &[u8],
) -> Result<T, WireError> {
    decode_part(what, max, bytes).map(|(form, _)| form)
}

/// Reads what a later program has added at this place, and gives back what follows it; none if an
/// older program spoke.
fn decode_added<'b, T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &'b [u8],
) -> Result<Option<(T, &'b [u8])>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let read = postcard::take_from_bytes(bytes).map_err(|error| WireError::Broken {
        what,
        why: error.to_string(),
    });
    read.map(Some)
}

/// Reads a form and gives back what follows it: what a later program has added.
fn decode_part<'b, T: serde::de::DeserializeOwned>(
    what: &'static str,
    max: usize,
    bytes: &'b [u8],
) -> Result<(T, &'b [u8]), WireError> {
    if bytes.len() > max {
        return Err(WireError::TooLong {
            what,
            length: bytes.len(),
            max,
        });
    }
    match bytes.split_first() {
        None => Err(WireError::Empty),
        Some((&VERSION_1, rest)) => {
            postcard::take_from_bytes(rest).map_err(|error| WireError::Broken {
                what,
                why: error.to_string(),
            })
        }
        Some((other, _)) => Err(WireError::Version(*other)),
    }
}
