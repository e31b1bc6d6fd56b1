//! `tcp`: one new connection per question; a line is sent, and a text is looked for in what
//! comes back. Either may be left out.
//!
//! What a server sends is read up to a bound, in pieces as small as it likes. The connection is
//! reset, not closed, when the question ends, as for `http`.

use std::time::Duration;

use evenkeel_core::Moment;
use evenkeel_host::clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::io::Answer;
use crate::io::connect::{Failure, connect, of_stream, reach};
use crate::machine::Outcome;
use crate::probe::{Millis, Phases, Tcp, bounded};

/// What is read of an answer: greetings and status lines are short.
pub const ANSWER_LENGTH_MAX: usize = 64 * 1024;
/// Read in one go, at least.
const PIECE: usize = 4096;
/// How much of an answer is told to people.
const SHOWN_MAX: usize = 80;

/// How far a question has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connect,
    Send,
    Answer,
}

struct Progress {
    stage: Stage,
    since: Moment,
    phases: Phases,
    read: Vec<u8>,
}

impl Progress {
    fn reach(&mut self, stage: Stage) {
        self.end();
        self.stage = stage;
    }

    fn end(&mut self) {
        let now = clock::now();
        let took = now.since(self.since);
        self.since = now;
        match self.stage {
            Stage::Connect => self.phases.connect = Some(took),
            // To send is to hand to the kernel: what takes time is the answer.
            Stage::Send => {}
            Stage::Answer => self.phases.first_byte = Some(took),
        }
    }

    fn silence(&self, within: Duration, expected: Option<&str>) -> Answer {
        let within = Millis(within);
        let detail = match self.stage {
            Stage::Connect => format!("no connection within {within} ms"),
            Stage::Send => format!("takes nothing within {within} ms ({})", self.phases),
            Stage::Answer if self.read.is_empty() => {
                format!("no answer within {within} ms ({})", self.phases)
            }
            Stage::Answer => {
                let lacking = lacking(expected, &self.read);
                // It speaks: that is no silence.
                let detail = format!("{lacking} within {within} ms");
                return Answer::new(Outcome::Bad, bounded(&detail));
            }
        };
        Answer::new(Outcome::Silent, detail)
    }
}

/// Asks once. Returns within `within`, whatever the server does.
pub(crate) async fn ask(tcp: &Tcp, within: Duration) -> Answer {
    let mut progress = Progress {
        stage: Stage::Connect,
        since: clock::now(),
        phases: Phases::default(),
        read: Vec::new(),
    };
    let ended = tokio::time::timeout(within, exchange(tcp, &mut progress)).await;
    let mut answer = match ended {
        Ok(Ok(())) => good(tcp, &progress),
        Ok(Err(failure)) => bad(tcp, failure, &progress),
        Err(_) => progress.silence(within, tcp.expect.as_deref()),
    };
    answer.phases = progress.phases;
    answer
}

async fn exchange(tcp: &Tcp, progress: &mut Progress) -> Result<(), Failure> {
    if tcp.send.is_none() && tcp.expect.is_none() {
        reach(tcp.connect).await?;
        progress.reach(Stage::Send);
        return Ok(());
    }
    let mut stream = connect(tcp.connect).await?;
    progress.reach(Stage::Send);
    if let Some(text) = &tcp.send {
        stream.write_all(text.as_bytes()).await.map_err(of_stream)?;
    }
    let Some(expect) = &tcp.expect else {
        return Ok(());
    };
    progress.reach(Stage::Answer);
    look_for(expect.as_bytes(), &mut stream, &mut progress.read).await?;
    progress.end();
    Ok(())
}

/// Reads until `text` has come.
pub(crate) async fn look_for(
    text: &[u8],
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut Vec<u8>,
) -> Result<(), Failure> {
    loop {
        // It may begin in the piece before.
        let from = read.len().saturating_sub(text.len().saturating_sub(1));
        read.reserve(PIECE);
        if stream.read_buf(read).await.map_err(of_stream)? == 0 {
            return Err(Failure::Theirs("connection closed".to_owned()));
        }
        if read[from..]
            .windows(text.len())
            .any(|window| window == text)
        {
            return Ok(());
        }
        if read.len() >= ANSWER_LENGTH_MAX {
            return Err(Failure::Theirs(format!(
                "nothing else in {} bytes",
                read.len()
            )));
        }
    }
}

fn good(tcp: &Tcp, progress: &Progress) -> Answer {
    let total = Millis(progress.phases.total());
    let detail = match &tcp.expect {
        None => format!("connected in {total} ms"),
        Some(_) => format!("answers in {total} ms ({})", progress.phases),
    };
    Answer::new(Outcome::Good, detail)
}

fn bad(tcp: &Tcp, failure: Failure, progress: &Progress) -> Answer {
    match failure {
        Failure::Theirs(why) if progress.stage == Stage::Answer => {
            let lacking = lacking(tcp.expect.as_deref(), &progress.read);
            Answer::new(Outcome::Bad, bounded(&format!("{lacking}: {why}")))
        }
        failure => failure.answer("", ""),
    }
}

/// What is missing, and what came instead.
fn lacking(expected: Option<&str>, read: &[u8]) -> String {
    let expected = expected.unwrap_or_default();
    if read.is_empty() {
        return format!("no {expected:?}, and no answer");
    }
    let shown = String::from_utf8_lossy(&read[..read.len().min(SHOWN_MAX)]).into_owned();
    format!("no {expected:?} in {shown:?}")
}
