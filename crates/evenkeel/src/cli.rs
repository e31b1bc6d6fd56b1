//! What can be said on the command line (DESIGN 5).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use evenkeel_daemon::options::SOCKET;

/// Failover hosting: addresses, services and data move to the next server within a
/// fraction of a second, and two servers never answer at once.
#[derive(Parser)]
#[command(name = "evenkeel", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Certificates: the cluster's own authority and its nodes.
    #[command(subcommand)]
    Pki(Pki),
    /// Run the daemon in the foreground.
    ///
    /// SIGTERM hands over and stops. SIGHUP takes up the changed file. Exit code 1: refused, with the reason.
    Run(Run),
    /// The configuration file.
    #[command(subcommand)]
    Config(Config),
    /// Who serves what, who would be next, and what is wrong.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Again and again, until interrupted.
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        client: Client,
    },
    /// Move a group to another node on purpose; returns when it serves there.
    Switch {
        /// The group.
        group: String,
        /// The node; the best standby unless given.
        #[arg(long)]
        to: Option<String>,
        /// Though no majority would be left without that node, or it failed the group a moment ago.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        client: Client,
    },
    /// Empty a node for maintenance; returns when it holds nothing.
    ///
    /// Exit code 0: it holds nothing. 1: refused, nothing was changed. 2: it is drained, and
    /// groups are still on it, with the reasons, or the daemon that was asked stays away.
    Drain(Drain),
    /// Let a drained node have groups again.
    Undrain {
        /// The node.
        node: String,
        #[command(flatten)]
        client: Client,
    },
    /// The last moves: evidence, decision, phases with times.
    Why {
        /// The group; all unless given.
        group: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        client: Client,
    },
    /// What would happen if: node:NAME, service:GROUP/NAME, link:A-B.
    Plan {
        /// The failure: node:NAME dies; service:GROUP/NAME, a service or check of a group,
        /// fails on its holder for good; link:A-B, two nodes hear each other no more (link:A,B if names have dashes).
        failure: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        client: Client,
    },
    /// Is this node fit: kernel, guards, rights, network, peers, checks?
    ///
    /// Exit code 0: fit. 1: fit, but something could be better. 2: unfit, or it could not be
    /// looked at. Asks the daemon if one answers; changes nothing.
    Doctor(Doctor),
    /// Let a node back in whose identity was refused (new disk, restored backup).
    Readmit {
        /// The node.
        node: String,
        #[command(flatten)]
        client: Client,
    },
    /// Serve again without a majority, when the other voters are stopped for certain.
    Recover(Recover),
    /// Take up the changed file: all of it or nothing, without a lost request.
    Reload {
        /// On all nodes, if the file of each is good and all are the same.
        #[arg(long)]
        everywhere: bool,
        /// With --everywhere: also if nodes do not answer, which then keep what they have.
        #[arg(long, requires = "everywhere")]
        force: bool,
        #[command(flatten)]
        client: Client,
    },
    /// Take up the program that was installed, without a lost request.
    Upgrade {
        #[command(flatten)]
        client: Client,
    },
    /// Feed a file of the flight recorder into this program's decision machine again.
    ///
    /// The daemon writes one around each move into its state directory. Exit code 1: the machine
    /// wants something else than it did then.
    Replay {
        /// The file.
        file: PathBuf,
        /// Print what went in and what came out, but for reports.
        #[arg(long)]
        tell: bool,
    },
    /// What this program understands of another one's leavings.
    #[command(hide = true)]
    Forms {
        /// What it makes of the configuration there, as a running daemon hands it down.
        #[arg(long)]
        of: Option<PathBuf>,
    },
    /// Watch a three-node cluster on this machine lose its active server.
    Demo {
        /// No colours, even on a terminal.
        #[arg(long)]
        plain: bool,
    },
    /// Faults and figures on real hosts in namespaces.
    #[command(hide = true)]
    Lab {
        /// What the lab is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
}

#[derive(Args)]
pub struct Client {
    /// The daemon's control socket.
    #[arg(long, default_value = SOCKET)]
    pub socket: PathBuf,
}

#[derive(Subcommand)]
pub enum Pki {
    /// Make a cluster's authority: ca.pem and ca.key.
    Init {
        /// Where to.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the cluster.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Make NAME.pem and NAME.key for a node, with a copy of ca.pem.
    Issue {
        /// Where the authority is.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the node, as in the configuration file.
        #[arg(long)]
        node: String,
        /// Where to; beside the authority unless given.
        #[arg(long)]
        out: Option<PathBuf>,
        /// From when on it is valid, as in 2020-01-01T00:00:00Z; from now on unless given. With a
        /// time over a year ago one can see what an ended certificate does: it alarms and serves.
        #[arg(long, value_name = "TIME")]
        from: Option<jiff::Timestamp>,
    },
}

#[derive(Args)]
pub struct Run {
    /// The configuration file, the same on every node.
    #[arg(long)]
    pub config: PathBuf,
    /// Which of its nodes this is.
    #[arg(long)]
    pub node: String,
    /// Where this node keeps its state.
    #[arg(long)]
    pub state: PathBuf,
    /// Where its certificate and key are.
    #[arg(long)]
    pub pki: PathBuf,
    /// The control socket.
    #[arg(long, default_value = SOCKET)]
    pub socket: PathBuf,
}

#[derive(Subcommand)]
pub enum Config {
    /// Tell every fault of a file at its line and column.
    Check {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Args)]
pub struct Drain {
    /// The node.
    pub node: String,
    /// For how long, as in 1h or 90m; until `evenkeel undrain` unless given.
    #[arg(long = "for", value_name = "TIME", value_parser = evenkeel_config::time)]
    pub lasting: Option<std::time::Duration>,
    /// Though no majority of voters would be left without it.
    #[arg(long)]
    pub force: bool,
    /// Return at once, without waiting for its groups to leave.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub client: Client,
}

#[derive(Args)]
pub struct Doctor {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// The configuration file; that of the running daemon unless given.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Which of its nodes this is.
    #[arg(long)]
    pub node: Option<String>,
    /// Where this node keeps its state.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Where its certificate and key are.
    #[arg(long)]
    pub pki: Option<PathBuf>,
    /// For how long to measure how late this machine wakes up a thread: from 100ms to 1m.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = evenkeel_config::time)]
    pub measure: std::time::Duration,
    #[command(flatten)]
    pub client: Client,
}

#[derive(Args)]
pub struct Recover {
    /// This node alone is to decide from now on.
    #[arg(long, required = true)]
    pub alone: bool,
    /// The other voters, which are stopped for certain.
    #[arg(long, value_name = "NODE", num_args = 1.., required = true)]
    pub i_have_stopped: Vec<String>,
    #[command(flatten)]
    pub client: Client,
}
