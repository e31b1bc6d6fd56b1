//! Messages of name servers: one question made, its answer read (RFC 1035 4.1).
//!
//! The reader believes nothing: each length is looked at before it is used, and a name points
//! only backwards, so that every message ends.

use std::net::{Ipv4Addr, Ipv6Addr};

use evenkeel_config::RecordType;

const HEADER: usize = 12;
/// Bits of the third byte: an answer, cut; recursion desired.
const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
/// Class Internet.
const IN: u16 = 1;
/// The longest name on the wire (RFC 1035 2.3.4).
const NAME_MAX: usize = 255;

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// It did not fit into its datagram.
    pub(crate) truncated: bool,
    /// 0: all is well; see [`code_word`].
    pub(crate) code: u8,
    /// The records of the type that was asked for, as the file writes them.
    pub(crate) records: Vec<String>,
}

/// Why a message is not the answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It answers another question.
    Foreign,
    /// It answers this one, but cannot be read.
    Broken(&'static str),
}

/// The question for records of type `record` of `name`, whose labels have been looked at.
pub(crate) fn query(id: u16, name: &str, record: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(record.to_be_bytes());
    query.extend(IN.to_be_bytes());
    query
}

/// Reads the answer to `query`.
pub(crate) fn reply(query: &[u8], message: &[u8], record: RecordType) -> Result<Reply, Unusable> {
    let Some(head) = message.get(..HEADER) else {
        return Err(Unusable::Foreign);
    };
    if head[..2] != query[..2] || head[2] & RESPONSE == 0 {
        return Err(Unusable::Foreign);
    }
    let (truncated, code) = (head[2] & TRUNCATED != 0, head[3] & 0x0f);
    let questions = u16::from_be_bytes([head[4], head[5]]);
    let answers = u16::from_be_bytes([head[6], head[7]]);
    let mut reader = Reader {
        message,
        at: HEADER,
    };
    match questions {
        1 => {
            let asked = message.get(HEADER..query.len());
            // Names count in any letters.
            if !asked.is_some_and(|asked| asked.eq_ignore_ascii_case(&query[HEADER..])) {
                return Err(Unusable::Foreign);
            }
            reader.at = query.len();
        }
        // A server that could not read the question may leave it out.
        0 if code != 0 => {}
        _ => return Err(Unusable::Foreign),
    }
    let mut reply = Reply {
        truncated,
        code,
        records: Vec::new(),
    };
    if code != 0 || truncated {
        return Ok(reply);
    }
    for _ in 0..answers {
        let found = reader.record(record);
        let found = found.ok_or(Unusable::Broken("a record is cut or malformed"))?;
        reply.records.extend(found);
    }
    Ok(reply)
}

/// A response code as people know it (RFC 1035 4.1.1, RFC 2136 2.2).
pub(crate) fn code_word(code: u8) -> String {
    match code {
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        other => return format!("response code {other}"),
    }
    .to_owned()
}

struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl<'m> Reader<'m> {
    fn take(&mut self, length: usize) -> Option<&'m [u8]> {
        let part = self.message.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(part)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// The name here, in small letters, without its last dot.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut at = self.at;
        let mut end = None;
        loop {
            let length = usize::from(*self.message.get(at)?);
            match length {
                0 => break,
                1..=63 => {
                    let label = self.message.get(at + 1..at + 1 + length)?;
                    if !name.is_empty() {
                        name.push('.');
                    }
                    name.extend(label.iter().map(|byte| printable(*byte)));
                    at += 1 + length;
                }
                192.. => {
                    let low = usize::from(*self.message.get(at + 1)?);
                    let target = (length & 0x3f) << 8 | low;
                    end.get_or_insert(at + 2);
                    if target >= at {
                        return None;
                    }
                    at = target;
                }
                _ => return None,
            }
            if name.len() > NAME_MAX {
                return None;
            }
        }
        self.at = end.unwrap_or(at + 1);
        Some(name)
    }

    /// The next record, if it is of that type: `Some(None)` if it is of another one.
    #[expect(clippy::option_option, reason = "broken, other, and wanted")]
    fn record(&mut self, wanted: RecordType) -> Option<Option<String>> {
        self.name()?;
        let kind = self.number()?;
        let class = self.number()?;
        self.take(4)?;
        let length = usize::from(self.number()?);
        let begin = self.at;
        let data = self.take(length)?;
        if (kind, class) != (wanted.number(), IN) {
            return Some(None);
        }
        let mut inside = Reader {
            message: &self.message[..begin + length],
            at: begin,
        };
        inside.text(wanted, data).map(Some)
    }

    /// A name behind numbers; the root, which means none, as people write it (RFC 7505).
    fn host(&mut self) -> Option<String> {
        let name = self.name()?;
        Some(if name.is_empty() {
            ".".to_owned()
        } else {
            name
        })
    }

    fn text(&mut self, record: RecordType, data: &[u8]) -> Option<String> {
        Some(match record {
            RecordType::A => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
            RecordType::Aaaa => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
            RecordType::Ns | RecordType::Cname | RecordType::Ptr | RecordType::Soa => {
                self.name()?
            }
            RecordType::Mx => format!("{} {}", self.number()?, self.host()?),
            RecordType::Srv => {
                let (priority, weight, port) = (self.number()?, self.number()?, self.number()?);
                format!("{priority} {weight} {port} {}", self.host()?)
            }
            RecordType::Txt => {
                let mut text = String::new();
                while self.at < self.message.len() {
                    let length = usize::from(self.take(1)?[0]);
                    text.extend(self.take(length)?.iter().map(|byte| char::from(*byte)));
                }
                text
            }
        })
    }
}

fn printable(byte: u8) -> char {
    match byte.to_ascii_lowercase() {
        byte if byte.is_ascii_graphic() && byte != b'.' => char::from(byte),
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u8, records: &[(&[u8], u16, &[u8])]) -> (Vec<u8>, Vec<u8>) {
        let query = query(7, "www.Example.net", RecordType::A.number());
        let mut message = query.clone();
        message[2] |= RESPONSE;
        message[3] = code;
        message[7] = records.len() as u8;
        for (owner, kind, data) in records {
            message.extend(*owner);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        (query, message)
    }

    const OWNER: &[u8] = &[0xc0, 12];

    #[test]
    fn records_are_read_as_the_file_writes_them() {
        let check = |record: RecordType, data: &[u8], expected: &str| {
            let (query, message) = answer(0, &[(OWNER, 99, b"x"), (OWNER, record.number(), data)]);
            let reply = reply(&query, &message, record).expect("an answer");
            assert_eq!(reply.records, [expected]);
        };
        check(RecordType::A, &[192, 0, 2, 80], "192.0.2.80");
        let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        check(RecordType::Aaaa, &six, "2001:db8::1");
        check(
            RecordType::Mx,
            b"\x00\x0a\x04mail\xc0\x10",
            "10 mail.example.net",
        );
        check(RecordType::Ns, OWNER, "www.example.net");
        check(RecordType::Txt, b"\x03a=1\x02 b", "a=1 b");
        check(RecordType::Srv, b"\0\0\0\x05\x13\xc4\0", "0 5 5060 .");
        check(RecordType::Soa, b"\x02ns\0\0ignored", "ns");
        check(RecordType::Mx, b"\0\x0a\0", "10 .");
    }

    #[test]
    fn what_answers_another_question_is_foreign() {
        let (query, good) = answer(0, &[]);
        let check = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = good.clone();
            change(&mut message);
            let read = reply(&query, &message, RecordType::A);
            assert_eq!(read, Err(Unusable::Foreign), "{message:?}");
        };
        check(&|message| message[1] ^= 1);
        check(&|message| message[2] = 1);
        check(&|message| message[5] = 2);
        check(&|message| message[14] ^= 1);
        check(&|message| message.truncate(11));
        check(&|message| message.truncate(20));
    }

    #[test]
    fn no_message_is_too_bad_to_be_read_to_its_end() {
        // A name that points at itself, forwards, or beyond.
        for owner in [
            &[0xc0u8, 33][..],
            &[0xc0, 40],
            &[0xff, 0xff],
            &[0x40],
            &[63, 1],
        ] {
            let (query, message) = answer(0, &[(owner, 1, &[1, 2, 3, 4])]);
            let read = reply(&query, &message, RecordType::A);
            assert!(matches!(read, Err(Unusable::Broken(_))), "{owner:?}");
        }
        let (query, message) = answer(
            0,
            &[(OWNER, 1, &[1, 2, 3, 4]), (OWNER, 15, b"\0\x0a\xc0\x0c")],
        );
        for end in 0..message.len() {
            let _ = reply(&query, &message[..end], RecordType::Mx);
        }
        for at in 0..message.len() {
            for bit in 0..8 {
                let mut changed = message.clone();
                changed[at] ^= 1 << bit;
                for record in [
                    RecordType::A,
                    RecordType::Mx,
                    RecordType::Txt,
                    RecordType::Srv,
                ] {
                    let _ = reply(&query, &changed, record);
                }
            }
        }
        let (query, message) = answer(3, &[]);
        let read = reply(&query, &message, RecordType::A).expect("an answer");
        assert_eq!((read.code, code_word(3).as_str()), (3, "NXDOMAIN"));
    }
}
