//! What nodes say to one another about shares, once they have proved who they are: a node that has
//! been taken over may say anything.

use evenkeel_core::fence::Seal;
use evenkeel_core::{Epoch, NodeId};
use evenkeel_files::fuzzing;
use evenkeel_files::journal::Seq;
use evenkeel_files::v1::{self, Answer, Frame, Listed, PREFIX};
use evenkeel_files::{Attributes, Kind, SharePath, State, Time};

use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "shares",
    reads: "frames and answers of shares, and the seal of a replica (files)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: MEMORY,
    memory_per_byte: 256,
    mutants: 20_000,
};

fn path(text: &str) -> SharePath {
    SharePath::new(text.as_bytes()).expect("a path")
}

fn state(kind: Kind) -> State {
    let extended = [(b"user.some".to_vec(), b"value".to_vec())].into();
    State {
        kind,
        attributes: Attributes {
            mode: 0o644,
            extended,
            ..Attributes::default()
        },
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let time = Some(Time {
        seconds: 1_700_000_000,
        nanos: 5,
    });
    let file = Kind::File {
        size: 3,
        sparse: false,
    };
    let link = Kind::Link {
        target: b"../x".to_vec(),
    };
    let listed = |name: &str, directory| Listed {
        name: name.into(),
        print: [7; 16],
        directory,
    };
    let seq = Seq(300);
    let frames = [
        Frame::Hello {
            epoch: Epoch { term: 3, index: 70 },
            source: NodeId(9),
        },
        Frame::Announce {
            paths: vec![path("a"), path("b/c")],
        },
        Frame::Remove {
            seq,
            path: path("a/b"),
            parent: time,
        },
        Frame::Move {
            seq,
            from: path("a"),
            to: path("b"),
            state: state(link),
            parents: (time, None),
        },
        Frame::List {
            seq,
            path: SharePath::root(),
            after: Some(b"a".to_vec()),
            more: true,
            entries: vec![listed("b", false), listed("c", true)],
        },
        Frame::Sync { seq },
    ];
    let mut seeds: Vec<Vec<u8>> = frames.iter().map(|one| v1::write(one, &[])).collect();
    let put = Frame::Put {
        seq,
        path: path("f"),
        state: state(file),
        parent: time,
    };
    seeds.push(v1::write(&put, b"abc"));
    let answers = [
        Answer::Done { seq: 1, new: true },
        Answer::Differs {
            seq: 2,
            names: vec![b"x".to_vec()],
        },
        Answer::Failed {
            seq: 3,
            why: "no space".to_owned(),
        },
    ];
    seeds.extend(answers.iter().map(v1::write_answer));
    let epoch = Epoch { term: 3, index: 70 };
    let writer = NodeId(9);
    seeds.push(fuzzing::sealed(Seal { epoch, writer }).into_bytes());
    seeds
}

fn judge(input: &[u8]) {
    if let Some(seal) = std::str::from_utf8(input).ok().and_then(fuzzing::seal) {
        assert_eq!(fuzzing::seal(&fuzzing::sealed(seal)), Some(seal));
        return;
    }
    let Some(prefix) = input.first_chunk::<PREFIX>() else {
        return;
    };
    let Ok((head, content)) = v1::lengths(prefix) else {
        return;
    };
    let Some((head, rest)) = input[PREFIX..].split_at_checked(head) else {
        return;
    };
    // Whatever is read says the same when it is written again; and leads nowhere.
    if let Ok(frame) = v1::read(head, content) {
        for path in paths(&frame) {
            let names = path.as_bytes().split(|byte| *byte == b'/');
            assert!(!path.is_own() && names.into_iter().all(|name| name != b".."));
        }
        let Some(content) = rest.get(..content) else {
            return;
        };
        let again = v1::write(&frame, content);
        let length = again.len() - PREFIX - content.len();
        let read = v1::read(&again[PREFIX..PREFIX + length], content.len());
        assert_eq!(read.as_ref(), Ok(&frame));
    }
    if let Ok(answer) = v1::read_answer(head) {
        let again = v1::write_answer(&answer);
        assert_eq!(v1::read_answer(&again[PREFIX..]), Ok(answer));
    }
}

fn paths(frame: &Frame) -> Vec<&SharePath> {
    match frame {
        Frame::Hello { .. } | Frame::Sync { .. } => Vec::new(),
        Frame::Announce { paths } => paths.iter().collect(),
        Frame::Put { path, .. } | Frame::Remove { path, .. } | Frame::List { path, .. } => {
            vec![path]
        }
        Frame::Move { from, to, .. } => vec![from, to],
    }
}
