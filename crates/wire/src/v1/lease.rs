//! Messages between lease machines: small, one a datagram, read by the thread that
//! must never wait.

use evenkeel_core::lease::{Answer, Message, Refusal, Released, Renew, Standing, Verdict};
use serde::{Deserialize, Serialize};

use super::parts::{EpochForm, IncarnationForm, SpanForm, group};
use crate::WireError;

/// The longest form of a lease message: every number at its widest.
pub const MESSAGE_LENGTH_MAX: usize = 160;

/// Told apart by its number, which is the first byte of it. Forms are added at the end
/// and never changed: a reader of an earlier version refuses the ones that it does not
/// know, which is a lost datagram.
#[derive(Serialize, Deserialize)]
enum MessageForm {
    /// A Renew that declares nothing void, as almost all are.
    Renew {
        group: u64,
        epoch: EpochForm,
        incarnation: IncarnationForm,
        length: SpanForm,
        seq: u64,
        membership: u64,
        proven: u64,
    },
    Answer {
        group: u64,
        epoch: EpochForm,
        seq: u64,
        floor: EpochForm,
        verdict: VerdictForm,
        lower: Option<SpanForm>,
    },
    Standing {
        group: u64,
        epoch: EpochForm,
        membership: u64,
        lower: SpanForm,
    },
    Released {
        group: u64,
        epoch: EpochForm,
        incarnation: IncarnationForm,
    },
    /// A Renew of a holder without its lease. A voter that cannot read it keeps its
    /// promise until that has run out, and does not help the holder to resume.
    RenewAnew {
        group: u64,
        epoch: EpochForm,
        incarnation: IncarnationForm,
        length: SpanForm,
        seq: u64,
        membership: u64,
        proven: u64,
        void: u64,
    },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum VerdictForm {
    Promised,
    BelowFloor,
    Released,
    OtherHolder,
    OtherMembership,
    TooLong,
    Full,
    Excluded,
    /// A holder that cannot read it waits on, which is what it asks for.
    BelowOwn,
}

impl From<Verdict> for VerdictForm {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Promised => Self::Promised,
            Verdict::Refused(Refusal::BelowFloor) => Self::BelowFloor,
            Verdict::Refused(Refusal::Released) => Self::Released,
            Verdict::Refused(Refusal::OtherHolder) => Self::OtherHolder,
            Verdict::Refused(Refusal::OtherMembership) => Self::OtherMembership,
            Verdict::Refused(Refusal::TooLong) => Self::TooLong,
            Verdict::Refused(Refusal::Full) => Self::Full,
            Verdict::Refused(Refusal::Excluded) => Self::Excluded,
            Verdict::Refused(Refusal::BelowOwn) => Self::BelowOwn,
        }
    }
}

impl From<VerdictForm> for Verdict {
    fn from(form: VerdictForm) -> Self {
        match form {
            VerdictForm::Promised => Self::Promised,
            VerdictForm::BelowFloor => Self::Refused(Refusal::BelowFloor),
            VerdictForm::Released => Self::Refused(Refusal::Released),
            VerdictForm::OtherHolder => Self::Refused(Refusal::OtherHolder),
            VerdictForm::OtherMembership => Self::Refused(Refusal::OtherMembership),
            VerdictForm::TooLong => Self::Refused(Refusal::TooLong),
            VerdictForm::Full => Self::Refused(Refusal::Full),
            VerdictForm::Excluded => Self::Refused(Refusal::Excluded),
            VerdictForm::BelowOwn => Self::Refused(Refusal::BelowOwn),
        }
    }
}

impl MessageForm {
    fn of_renew(renew: &Renew) -> Self {
        let (group, epoch) = (renew.group.0, renew.epoch.into());
        let (incarnation, length) = (renew.incarnation.into(), renew.length.into());
        let (seq, membership, proven) = (renew.seq, renew.membership, renew.proven);
        match renew.void {
            0 => Self::Renew {
                group,
                epoch,
                incarnation,
                length,
                seq,
                membership,
                proven,
            },
            void => Self::RenewAnew {
                group,
                epoch,
                incarnation,
                length,
                seq,
                membership,
                proven,
                void,
            },
        }
    }
}

impl From<&Message> for MessageForm {
    fn from(message: &Message) -> Self {
        match *message {
            Message::Renew(renew) => Self::of_renew(&renew),
            Message::Answer(answer) => Self::Answer {
                group: answer.group.0,
                epoch: answer.epoch.into(),
                seq: answer.seq,
                floor: answer.floor.into(),
                verdict: answer.verdict.into(),
                lower: answer.lower.map(SpanForm::from),
            },
            Message::Standing(standing) => Self::Standing {
                group: standing.group.0,
                epoch: standing.epoch.into(),
                membership: standing.membership,
                lower: standing.lower.into(),
            },
            Message::Released(released) => Self::Released {
                group: released.group.0,
                epoch: released.epoch.into(),
                incarnation: released.incarnation.into(),
            },
        }
    }
}

impl From<MessageForm> for Message {
    fn from(form: MessageForm) -> Self {
        match form {
            MessageForm::Renew {
                group: id,
                epoch,
                incarnation,
                length,
                seq,
                membership,
                proven,
            } => Self::Renew(Renew {
                group: group(id),
                epoch: epoch.into(),
                incarnation: incarnation.into(),
                length: length.into(),
                seq,
                membership,
                proven,
                void: 0,
            }),
            MessageForm::RenewAnew {
                group: id,
                epoch,
                incarnation,
                length,
                seq,
                membership,
                proven,
                void,
            } => Self::Renew(Renew {
                group: group(id),
                epoch: epoch.into(),
                incarnation: incarnation.into(),
                length: length.into(),
                seq,
                membership,
                proven,
                void,
            }),
            MessageForm::Answer {
                group: id,
                epoch,
                seq,
                floor,
                verdict,
                lower,
            } => Self::Answer(Answer {
                group: group(id),
                epoch: epoch.into(),
                seq,
                floor: floor.into(),
                verdict: verdict.into(),
                lower: lower.map(Into::into),
            }),
            MessageForm::Standing {
                group: id,
                epoch,
                membership,
                lower,
            } => Self::Standing(Standing {
                group: group(id),
                epoch: epoch.into(),
                membership,
                lower: lower.into(),
            }),
            MessageForm::Released {
                group: id,
                epoch,
                incarnation,
            } => Self::Released(Released {
                group: group(id),
                epoch: epoch.into(),
                incarnation: incarnation.into(),
            }),
        }
    }
}

/// Writes a message into `buffer`, which must have [`MESSAGE_LENGTH_MAX`] bytes, and
/// returns the part used. Allocates nothing.
pub fn encode<'a>(message: &Message, buffer: &'a mut [u8; MESSAGE_LENGTH_MAX]) -> &'a [u8] {
    buffer[0] = crate::VERSION_1;
    let used = postcard::to_slice(&MessageForm::from(message), &mut buffer[1..])
        .expect("the buffer holds the widest message")
        .len();
    &buffer[..=used]
}

/// Reads a message. Allocates nothing unless it fails.
pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
    let form: MessageForm = crate::decode("lease message", MESSAGE_LENGTH_MAX, bytes)?;
    Ok(form.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use evenkeel_core::{Epoch, GroupId, Incarnation};
    use proptest::prelude::*;

    fn messages() -> impl Strategy<Value = Message> {
        let verdicts = prop::sample::select(vec![
            Verdict::Promised,
            Verdict::Refused(Refusal::BelowFloor),
            Verdict::Refused(Refusal::Released),
            Verdict::Refused(Refusal::OtherHolder),
            Verdict::Refused(Refusal::OtherMembership),
            Verdict::Refused(Refusal::TooLong),
            Verdict::Refused(Refusal::Full),
            Verdict::Refused(Refusal::Excluded),
            Verdict::Refused(Refusal::BelowOwn),
        ]);
        (any::<[u64; 8]>(), any::<Option<u64>>(), verdicts, 0..5_u8).prop_map(
            |(n, lower, verdict, kind)| {
                let group = GroupId(n[0]);
                let epoch = Epoch {
                    term: n[1],
                    index: n[2],
                };
                let incarnation = Incarnation {
                    counter: n[3],
                    nonce: n[4],
                };
                let length = Duration::from_nanos(n[5]);
                match kind {
                    0 | 4 => Message::Renew(Renew {
                        group,
                        epoch,
                        incarnation,
                        length,
                        seq: n[6],
                        membership: n[7],
                        proven: n[3],
                        void: if kind == 0 { 0 } else { n[4] },
                    }),
                    1 => Message::Answer(Answer {
                        group,
                        epoch,
                        seq: n[6],
                        floor: Epoch {
                            term: n[3],
                            index: n[4],
                        },
                        verdict,
                        lower: lower.map(Duration::from_nanos),
                    }),
                    2 => Message::Standing(Standing {
                        group,
                        epoch,
                        membership: n[7],
                        lower: length,
                    }),
                    _ => Message::Released(Released {
                        group,
                        epoch,
                        incarnation,
                    }),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in messages()) {
            let mut buffer = [0; MESSAGE_LENGTH_MAX];
            let bytes = encode(&message, &mut buffer);
            prop_assert_eq!(decode(bytes), Ok(message));
        }

        #[test]
        fn random_bytes_are_refused_or_read_but_never_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    /// The form of a Renew that declares nothing void is as it was before there was
    /// anything to declare.
    #[test]
    fn only_a_renew_that_voids_has_the_newer_form() {
        let renew = Renew {
            group: GroupId(1),
            epoch: Epoch { term: 2, index: 3 },
            incarnation: Incarnation {
                counter: 4,
                nonce: 5,
            },
            length: Duration::from_nanos(6),
            seq: 7,
            membership: 8,
            proven: 9,
            void: 0,
        };
        let form = |renew| encode(&Message::Renew(renew), &mut [0; MESSAGE_LENGTH_MAX]).to_vec();
        let plain = form(renew);
        let voids = form(Renew { void: 10, ..renew });
        assert_eq!(plain[..2], [crate::VERSION_1, 0]);
        assert_eq!(voids[..2], [crate::VERSION_1, 4]);
        assert_eq!(voids[2..], [&plain[2..], &[10]].concat());
    }

    #[test]
    fn another_version_is_named() {
        assert_eq!(decode(&[2, 0, 0]), Err(WireError::Version(2)));
        assert_eq!(decode(&[]), Err(WireError::Empty));
    }
}
