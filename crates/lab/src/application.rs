//! An application behind the host's Apache: answers each request with the host's name
//! after [`THINKING`], as one does that asks its database first. Apache passes `/slow` on
//! to it, so that requests are in flight whenever a group moves.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::{process, role, wait};

/// The mark of its process.
const PROGRAM: &str = "application";

/// Where it listens on the host.
pub(crate) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8000);

/// How long it takes for an answer.
pub(crate) const THINKING: Duration = Duration::from_millis(100);

/// The longest head of a request that it reads.
const HEAD_MAX: usize = 8192;

/// How long it waits for the rest of a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time for it to listen after its start.
const SOON: Duration = Duration::from_secs(10);

/// Starts it on `host`, if it does not run, and waits until it listens.
pub(crate) fn start(host: &mut Host) -> Result<()> {
    if !process::with_mark(&host.mark(PROGRAM))?.is_empty() {
        return Ok(());
    }
    let name = host.name().to_owned();
    let argv: [OsString; 3] = [host.program().into(), role::APPLICATION.into(), name.into()];
    host.start(PROGRAM, &argv)?;
    let port = ADDRESS.port();
    wait::until("the application listens", SOON, || {
        let text = host.run(&["ss", "-Hltn", &format!("sport = :{port}")], "")?;
        Ok((!text.trim().is_empty()).then_some(()))
    })
}

/// The role of [`start`].
pub(crate) fn main(arguments: &[OsString]) -> Result<ExitCode> {
    let name = arguments
        .first()
        .and_then(|name| name.to_str())
        .context("which host?")?;
    let listener = TcpListener::bind(ADDRESS).context("listening")?;
    for caller in listener.incoming() {
        let Ok(caller) = caller else { continue };
        let name = name.to_owned();
        // A caller who goes away in the middle is nobody's fault.
        let serve = move || drop(answer(caller, &name));
        std::thread::Builder::new()
            .spawn(serve)
            .context("starting a thread")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(mut caller: TcpStream, name: &str) -> Result<()> {
    caller.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let length = caller.read(&mut buffer)?;
        if length == 0 || head.len() > HEAD_MAX {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..length]);
    }
    std::thread::sleep(THINKING);
    let length = name.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close";
    write!(caller, "{head}\r\nContent-Length: {length}\r\n\r\n{name}")?;
    Ok(())
}
