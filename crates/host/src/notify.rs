//! Words to the service manager that started this process (sd_notify(3)), where one did.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// Where it listens.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Says that this process is stopping, and that it may take so long: a time-out of the unit
/// that is shorter does not cut it off (`NotifyAccess=main`). Does nothing without a service
/// manager.
///
/// # Errors
///
/// It could not be told; its own time-out goes on.
pub fn stopping(patience: Duration) -> io::Result<()> {
    match std::env::var_os(VARIABLE) {
        Some(socket) => tell(Path::new(&socket), &words(patience)),
        None => Ok(()),
    }
}

fn words(patience: Duration) -> String {
    let micros = patience.as_micros();
    format!("STOPPING=1\nSTATUS=handing over\nEXTEND_TIMEOUT_USEC={micros}\n")
}

fn tell(socket: &Path, words: &str) -> io::Result<()> {
    let bytes = socket.as_os_str().as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    // A manager that does not read must not hold us up.
    from.set_nonblocking(true)?;
    from.send_to_addr(words.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn what_is_said_arrives_by_path_and_by_abstract_name() {
        let words = words(Duration::from_secs(100));
        assert!(
            words.ends_with("EXTEND_TIMEOUT_USEC=100000000\n"),
            "{words}"
        );
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        tell(&path, &words).expect("told");
        assert_eq!(heard(&socket), words);
        let name = format!("evenkeel-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an address");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        tell(Path::new(&format!("@{name}")), &words).expect("told");
        assert_eq!(heard(&socket), words);
        assert!(tell(Path::new("/nonexistent/notify"), &words).is_err());
    }
}
