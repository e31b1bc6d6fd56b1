//! The log: lines of JSON, or for people at a terminal, on standard error.
//!
//! Lines are written by a thread of their own. A reader that has stopped reading costs
//! lines, which are counted, and never the time of a thread that decides.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Which lines are written when `EVENKEEL_LOG` says nothing: ours, and only warnings of
/// the libraries below us.
const DEFAULT: &str = "warn,openraft=error,evenkeel=info";
/// Lines that may wait for a slow reader: some seconds of a busy incident.
const LINES_MAX: usize = 4096;

#[derive(Clone)]
struct Lines {
    queue: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

/// One event's line on its way to the queue.
struct Line<'a> {
    lines: &'a Lines,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self
            .lines
            .queue
            .try_send(core::mem::take(&mut self.text))
            .is_err()
        {
            self.lines.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: self,
            text: Vec::new(),
        }
    }
}

/// Starts logging. A second call does nothing.
pub fn start() {
    let (queue, lines) = sync_channel::<Vec<u8>>(LINES_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&lost);
    let writer = std::thread::Builder::new()
        .name("log-lines".to_owned())
        .spawn(move || {
            let mut out = io::stderr();
            while let Ok(line) = lines.recv() {
                // Nobody can be told that nobody can be told.
                let _ = out.write_all(&line);
                let lost = counted.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(
                        out,
                        "{{\"message\":\"{lost} lines were lost: the log is read too slowly\"}}"
                    );
                }
            }
        });
    if writer.is_err() {
        return;
    }
    let filter = std::env::var("EVENKEEL_LOG")
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Lines { queue, lost });
    // It fails only if somebody was there first: then that one writes.
    let _ = if io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_ansi(false)
            .try_init()
    };
}
