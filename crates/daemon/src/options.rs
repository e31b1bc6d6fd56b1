//! What the command line of `run` says.

use std::ffi::OsString;
use std::path::PathBuf;

use evenkeel_core::NodeName;

/// Where the control socket is unless said otherwise.
pub const SOCKET: &str = "/run/evenkeel.sock";

/// The arguments of `evenkeel run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Which of its nodes this is.
    pub node: NodeName,
    /// The state directory.
    pub state: PathBuf,
    /// Where the certificates are.
    pub pki: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
}

impl Options {
    /// The same as arguments, for the worker.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec!["run".into()];
        let mut add = |name: &str, value: OsString| {
            all.push(name.into());
            all.push(value);
        };
        add("--config", self.config.clone().into());
        add("--node", self.node.as_str().into());
        add("--state", self.state.clone().into());
        add("--pki", self.pki.clone().into());
        add("--socket", self.socket.clone().into());
        all
    }
}
