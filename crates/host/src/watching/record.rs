//! What fanotify writes, read (`fanotify(7)`, "Reading fanotify events").
//!
//! ```text
//!   length u32 | version u8 | - u8 | length of this u16 | mask u64 | descriptor i32 | process i32
//!   then, until the length: what u8 | - u8 | length u16 | file system 8 bytes
//!                           | length of the handle u32 | its kind i32 | the handle | name | 0
//! ```
//!
//! In the machine's own order of bytes. The name ends with the first zero; what follows is padding.

/// Changes were dropped: the queue was full.
pub(crate) const OVERFLOW: u64 = libc::FAN_Q_OVERFLOW;

const HEAD: usize = size_of::<libc::fanotify_event_metadata>();
/// Of one piece of information: its head, the file system, the head of the handle.
const INFO_HEAD: usize = 4 + 8 + 8;

/// A directory, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle<'a> {
    /// Of which kind the handle is: the file system's own number.
    pub(crate) kind: i32,
    pub(crate) bytes: &'a [u8],
}

/// An entry of a directory. Without a name, or by the name `.`, the directory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) directory: Handle<'a>,
    pub(crate) name: &'a [u8],
}

/// One notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// What happened: bits of `FAN_*`.
    pub(crate) mask: u64,
    /// Who did it, or 0 where the kernel does not say.
    pub(crate) process: i32,
    /// To what.
    pub(crate) at: Option<Place<'a>>,
    /// Where it was, and where it is, if it was renamed.
    pub(crate) from: Option<Place<'a>>,
    pub(crate) to: Option<Place<'a>>,
}

/// What is there is no notice that this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

/// The notices in what was read at once. After [`Unknown`] there are no more.
pub(crate) struct Records<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Unknown>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((record, rest)) = record(self.rest) else {
            self.rest = &[];
            return Some(Err(Unknown));
        };
        self.rest = rest;
        Some(Ok(record))
    }
}

fn record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let head = usize::from(u16_at(bytes, 6)?);
    if bytes.get(4)? != &libc::FANOTIFY_METADATA_VERSION || head < HEAD || length < head {
        return None;
    }
    let (whole, rest) = bytes.split_at_checked(length)?;
    let mut record = Record {
        mask: u64::from_ne_bytes(whole.get(8..16)?.try_into().ok()?),
        process: i32_at(whole, 20)?,
        ..Record::default()
    };
    let mut infos = &whole[head..];
    while !infos.is_empty() {
        let length = usize::from(u16_at(infos, 2)?);
        // None is shorter than its own head, or this would never end.
        if length < 4 {
            return None;
        }
        let (info, others) = infos.split_at_checked(length)?;
        infos = others;
        let place = match info[0] {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME | libc::FAN_EVENT_INFO_TYPE_DFID => &mut record.at,
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => &mut record.from,
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => &mut record.to,
            // The object itself, and what later kernels may add.
            _ => continue,
        };
        *place = Some(place_of(info)?);
    }
    Some((record, rest))
}

fn place_of(info: &[u8]) -> Option<Place<'_>> {
    let length = usize::try_from(u32_at(info, 12)?).ok()?;
    let (bytes, rest) = info.get(INFO_HEAD..)?.split_at_checked(length)?;
    let directory = Handle {
        kind: i32_at(info, 16)?,
        bytes,
    };
    let name = rest.split(|byte| *byte == 0).next().unwrap_or(rest);
    Some(Place { directory, name })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(i32::from_ne_bytes(*bytes))
}

/// A notice as the kernel writes it, for tests and for `crates/fuzz`. Of each piece of
/// information: what, the handle, the name.
pub(crate) fn written(mask: u64, process: i32, infos: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (what, handle, name) in infos {
        let length = (INFO_HEAD + handle.len() + name.len() + 1).next_multiple_of(4);
        let start = body.len();
        body.extend([*what, 0]);
        body.extend(u16::try_from(length).unwrap_or(0).to_ne_bytes());
        body.extend([7; 8]);
        body.extend(u32::try_from(handle.len()).unwrap_or(0).to_ne_bytes());
        body.extend(1_i32.to_ne_bytes());
        body.extend(*handle);
        body.extend(*name);
        body.resize(start + length, 0);
    }
    let mut bytes = Vec::new();
    let length = u32::try_from(HEAD + body.len()).unwrap_or(0);
    bytes.extend(length.to_ne_bytes());
    bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
    bytes.extend(u16::try_from(HEAD).unwrap_or(0).to_ne_bytes());
    bytes.extend(mask.to_ne_bytes());
    bytes.extend((-1_i32).to_ne_bytes());
    bytes.extend(process.to_ne_bytes());
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place<'a>(handle: &'a [u8], name: &'a [u8]) -> Place<'a> {
        let directory = Handle {
            kind: 1,
            bytes: handle,
        };
        Place { directory, name }
    }

    #[test]
    fn notices_are_read_one_after_the_other() {
        let object = (libc::FAN_EVENT_INFO_TYPE_FID, &b"object"[..], &b""[..]);
        let mut bytes = written(
            libc::FAN_CREATE,
            5,
            &[
                (libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"dir", b"name"),
                object,
            ],
        );
        bytes.extend(written(
            libc::FAN_RENAME | libc::FAN_ONDIR,
            6,
            &[
                (libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, b"one", b"was"),
                (libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, b"other", b"is"),
                object,
            ],
        ));
        bytes.extend(written(OVERFLOW, 0, &[]));
        let read: Vec<_> = Records { rest: &bytes }
            .map(|one| one.expect("known"))
            .collect();
        let expected = [
            Record {
                mask: libc::FAN_CREATE,
                process: 5,
                at: Some(place(b"dir", b"name")),
                ..Record::default()
            },
            Record {
                mask: libc::FAN_RENAME | libc::FAN_ONDIR,
                process: 6,
                from: Some(place(b"one", b"was")),
                to: Some(place(b"other", b"is")),
                ..Record::default()
            },
            Record {
                mask: OVERFLOW,
                ..Record::default()
            },
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_cut_or_of_another_version_is_unknown_and_the_last() {
        let whole = written(
            libc::FAN_CREATE,
            5,
            &[(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"dir", b"name")],
        );
        for length in 1..whole.len() {
            let read: Vec<_> = Records {
                rest: &whole[..length],
            }
            .collect();
            assert_eq!(read, [Err(Unknown)], "{length} bytes");
        }
        for (at, byte) in [(4, 4), (6, 1), (HEAD + 2, 0), (HEAD + 2, 255)] {
            let mut other = whole.clone();
            other[at] = byte;
            let read: Vec<_> = Records { rest: &other }.collect();
            assert_eq!(read, [Err(Unknown)], "byte {at}");
        }
    }
}
