//! A real Apache in the foreground, on a loopback port, in a process group of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

const PROGRAM: &str = "/usr/sbin/apache2";
const MODULES: &str = "/usr/lib/apache2/modules";

/// Which of Apache's ways to share work.
#[derive(Clone, Copy, Debug)]
pub enum Mpm {
    /// Many processes, each with one connection.
    Prefork,
    /// Few processes with many threads.
    Event,
}

pub struct Apache {
    parent: Child,
    place: TempDir,
    pub at: SocketAddr,
}

/// Whether Apache is here; says so loudly if not.
pub fn is_here(test: &str) -> bool {
    let here = Path::new(PROGRAM).exists();
    if !here {
        assert!(std::env::var_os("CI").is_none(), "apache2 is not installed");
        eprintln!("NOT TESTED: {test} needs {PROGRAM}");
    }
    here
}

impl Apache {
    pub fn start(mpm: Mpm) -> Self {
        Self::start_with(mpm, free_port(), |_| String::new())
    }

    /// Starts it with more configuration, which may refer to files that it has put into
    /// the directory, and waits until it listens.
    pub fn start_with(mpm: Mpm, port: u16, more: impl FnOnce(&Path) -> String) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let public = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.path(), public).expect("our directory");
        fs::write(place.path().join("index.html"), "all hands well\n").expect("our directory");
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let more = more(place.path());
        let text = configuration(mpm, at, place.path(), &more);
        fs::write(place.path().join("apache.conf"), text).expect("our directory");
        let parent = Command::new(PROGRAM)
            .args(["-DFOREGROUND", "-f"])
            .arg(place.path().join("apache.conf"))
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("Apache starts");
        let mut apache = Self { parent, place, at };
        apache.wait_until_it_listens();
        apache
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.at).is_err() {
            let log = || fs::read_to_string(self.place.path().join("error.log"));
            let ended = self.parent.try_wait().expect("our child");
            assert!(ended.is_none(), "Apache ended: {:?}", log());
            assert!(
                Instant::now() < deadline,
                "Apache does not listen: {:?}",
                log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.parent)
    }

    /// Where it writes the number of its parent.
    pub fn pidfile(&self) -> std::path::PathBuf {
        self.place.path().join("pid")
    }

    /// Sends all its processes a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process_group(self.group(), signal).expect("ours");
    }

    /// Kills the parent alone. The children serve on.
    pub fn kill_parent(&self) {
        kill_process(self.group(), Signal::KILL).expect("ours");
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        let _ = kill_process_group(self.group(), Signal::KILL);
        let _ = self.parent.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    listener.local_addr().expect("bound").port()
}

fn configuration(mpm: Mpm, at: SocketAddr, place: &Path, more: &str) -> String {
    let place = place.display();
    let user = if rustix::process::geteuid().is_root() {
        "User www-data\nGroup www-data\n"
    } else {
        ""
    };
    let mpm = match mpm {
        Mpm::Prefork => format!(
            "LoadModule mpm_prefork_module {MODULES}/mod_mpm_prefork.so\n\
             StartServers 8\nMinSpareServers 8\nMaxSpareServers 8\n"
        ),
        Mpm::Event => format!(
            "LoadModule mpm_event_module {MODULES}/mod_mpm_event.so\n\
             StartServers 2\nThreadsPerChild 8\nMinSpareThreads 8\nMaxSpareThreads 16\nMaxRequestWorkers 32\n"
        ),
    };
    format!(
        "ServerRoot {place}\nServerName test\nPidFile {place}/pid\nErrorLog {place}/error.log\n\
         DefaultRuntimeDir {place}\nMutex pthread default\n{mpm}\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule dir_module {MODULES}/mod_dir.so\n\
         LoadModule alias_module {MODULES}/mod_alias.so\n\
         {user}Listen {at}\nDocumentRoot {place}\n\
         <Directory {place}>\nRequire all granted\n</Directory>\n{more}"
    )
}
