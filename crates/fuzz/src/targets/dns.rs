//! Answers of name servers.

use std::net::{Ipv4Addr, Ipv6Addr};

use evenkeel_checks::fuzzing::{dns, dns_question, line};
use evenkeel_config::RecordType;

use crate::input::Input;
use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "dns",
    reads: "answers of name servers (checks)",
    seeds,
    judge,
    length_max: 64 * 1024 + 1,
    memory: MEMORY,
    memory_per_byte: 256,
    mutants: 40_000,
};

const RECORDS: [RecordType; 8] = [
    RecordType::A,
    RecordType::Aaaa,
    RecordType::Mx,
    RecordType::Ns,
    RecordType::Txt,
    RecordType::Srv,
    RecordType::Soa,
    RecordType::Cname,
];

fn question(record: RecordType) -> Vec<u8> {
    dns_question(0x1234, "www.example.net", record)
}

/// The answer of an honest server with one record.
fn answer(record: RecordType, data: &[u8]) -> Vec<u8> {
    let mut answer = question(record);
    let kind: [u8; 2] = answer[answer.len() - 4..answer.len() - 2]
        .try_into()
        .expect("two");
    answer[2] |= 0x80;
    answer[7] = 1;
    // Its owner is the name asked for.
    answer.extend([0xc0, 12]);
    answer.extend(kind);
    answer.extend([0, 1, 0, 0, 0, 60]);
    answer.extend((data.len() as u16).to_be_bytes());
    answer.extend(data);
    answer
}

fn seeds() -> Vec<Vec<u8>> {
    let data: [&[u8]; 8] = [
        &[192, 0, 2, 80],
        &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        b"\0\x0a\x04mail\xc0\x10",
        &[0xc0, 12],
        b"\x03a=1\x02 b",
        b"\0\0\0\x05\x13\xc4\0",
        b"\x02ns\0\0ignored",
        b"\x03web\xc0\x10",
    ];
    let all = (0..).zip(RECORDS.iter().zip(data));
    all.map(|(number, (record, data))| [&[number][..], &answer(*record, data)].concat())
        .collect()
}

fn judge(input: &[u8]) {
    let mut input = Input(input);
    let record = RECORDS[usize::from(input.below(RECORDS.len() as u8))];
    let query = question(record);
    let Ok(records) = dns(&query, input.0, record) else {
        return;
    };
    // A record has a name, a header and some data.
    assert!(records.len() <= input.0.len() / 11);
    for text in &records {
        // Texts are compared as they are; what is told of them is one line.
        assert!(!line(text).chars().any(char::is_control), "{text:?}");
        assert!(text.len() <= 4 * input.0.len().max(300));
        match record {
            RecordType::A => assert!(text.parse::<Ipv4Addr>().is_ok(), "{text}"),
            RecordType::Aaaa => assert!(text.parse::<Ipv6Addr>().is_ok(), "{text}"),
            _ => {}
        }
    }
    // Whoever does not know the question cannot answer it.
    let other = dns_question(0x1235, "www.example.net", record);
    assert!(dns(&other, input.0, record).is_err());
}
