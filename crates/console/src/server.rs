//! The control socket: belongs to root, reading is for the group `evenkeel`.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::api::v1::{Answer, REQUEST_LENGTH_MAX, Request};

/// How many clients are served at once; more wait in the listener's queue.
const CLIENTS_MAX: usize = 64;
/// A client that sends nothing for so long is hung up on.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// Why the socket cannot be had. The text follows "refused: ".
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody answers there already.
    #[error(
        "another daemon answers at {}: stop it, or give this one a socket of its own with --socket",
        .0.display()
    )]
    InUse(PathBuf),
    /// It cannot be made.
    #[error("cannot make the control socket {}: {source}. Is its directory there and writable?", path.display())]
    Make {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The socket, bound; removed when dropped.
pub struct ControlSocket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds `path`. A socket that nobody answers on is a leftover and is replaced.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ServerError::InUse(path.to_owned()));
        }
        Self::replace(path)
    }

    /// The same where the process that had it is known to be dead, though the kernel may
    /// not have closed its socket yet.
    pub fn replace(path: &Path) -> Result<Self, ServerError> {
        let make = |source| ServerError::Make {
            path: path.to_owned(),
            source,
        };
        match std::fs::symlink_metadata(path) {
            Ok(found) => {
                use std::os::unix::fs::FileTypeExt;
                if !found.file_type().is_socket() {
                    return Err(make(io::Error::other(
                        "something that is no socket is there",
                    )));
                }
                std::fs::remove_file(path).map_err(make)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(make(error)),
        }
        let listener = std::os::unix::net::UnixListener::bind(path).map_err(make)?;
        listener.set_nonblocking(true).map_err(make)?;
        // The group may connect; what it may ask is decided by its credentials.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(make)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves until the future is dropped. `answer` is asked once per connection.
    pub async fn serve<F, Fut>(self, answer: F) -> io::Result<()>
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let answer = Arc::new(answer);
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return Ok(());
            };
            let (stream, _) = listener.accept().await?;
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                // A client that goes away is its own affair.
                let _ = converse(stream, answer.as_ref()).await;
                drop(place);
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // It may be gone already; a leftover is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn converse<F, Fut>(mut stream: UnixStream, answer: &F) -> io::Result<()>
where
    F: Fn(Request) -> Fut,
    Fut: Future<Output = Answer>,
{
    let root = stream
        .peer_cred()
        .is_ok_and(|credentials| credentials.uid() == 0 || credentials.uid() == own_uid());
    let mut line = Vec::new();
    let (read, mut write) = stream.split();
    let mut reader = BufReader::new(read.take(REQUEST_LENGTH_MAX as u64));
    tokio::time::timeout(REQUEST_PATIENCE, reader.read_until(b'\n', &mut line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let said = match serde_json::from_slice::<Request>(&line) {
        Err(error) => Answer::Refused(format!("the request is not understood: {error}")),
        Ok(request) if request.changes() && !root => {
            Answer::Refused("only root may change anything; you may look".to_owned())
        }
        Ok(request) => answer(request).await,
    };
    let mut bytes = serde_json::to_vec(&said).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
}

/// The user that this process runs as: in a user namespace it is root by another name.
fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |own| std::os::unix::fs::MetadataExt::uid(&own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ClientError, ask};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn a_request_is_answered_and_a_broken_one_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control.sock");
        let runtime = runtime();
        let socket = ControlSocket::bind(&path).expect("a socket");
        assert!(matches!(
            ControlSocket::bind(&path),
            Err(ServerError::InUse(_))
        ));
        let serving = runtime
            .spawn(socket.serve(|request| async move { Answer::Done(format!("{request:?}")) }));
        assert_eq!(
            ask(&path, &Request::Status).expect("an answer"),
            Answer::Done("Status".into())
        );
        let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("connected");
        io::Write::write_all(&mut stream, b"rubbish\n").expect("sent");
        let mut text = String::new();
        io::Read::read_to_string(&mut stream, &mut text).expect("read");
        assert!(text.contains("not understood"), "{text}");
        serving.abort();
    }

    #[test]
    fn nobody_there_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = ask(&dir.path().join("none"), &Request::Status).expect_err("nobody");
        assert!(matches!(error, ClientError::Absent { .. }));
        assert!(error.to_string().contains("systemctl status"), "{error}");
    }

    #[test]
    fn a_leftover_is_replaced_but_a_file_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let _socket = ControlSocket::bind(&path).expect("replaced");
        let file = dir.path().join("f");
        std::fs::write(&file, b"x").expect("written");
        assert!(matches!(
            ControlSocket::bind(&file),
            Err(ServerError::Make { .. })
        ));
        assert_eq!(std::fs::read(&file).expect("still there"), b"x");
    }
}
