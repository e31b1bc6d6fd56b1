//! The real Apache on a host, with a page that names the host.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::host::Host;
use crate::{application, process, wait};

/// The mark of Apache's processes.
const PROGRAM: &str = "apache";

/// Where Debian keeps Apache's modules.
const MODULES: &str = "/usr/lib/apache2/modules";

/// Apache's user on Debian.
const USER: &str = "www-data";

/// Time for Apache to answer after its start.
const SOON: Duration = Duration::from_secs(10);

/// Whether processes here may become another user: not in a user namespace that knows
/// one user only.
pub(crate) fn can_change_user() -> bool {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else {
        return false;
    };
    // Lines of: first number inside, first number outside, how many.
    map.lines().any(|line| {
        line.split_whitespace()
            .nth(2)
            .and_then(|count| count.parse().ok())
            .unwrap_or(0_u64)
            > 1
    })
}

/// A port that the kernel of the host keeps a listener on.
fn listens(host: &Host, port: u16) -> Result<bool> {
    let text = host.run(&["ss", "-Hltn", &format!("sport = :{port}")], "")?;
    Ok(!text.trim().is_empty())
}

fn configuration(host: &Host, place: &std::path::Path, user: bool) -> String {
    let place = place.display();
    let user = if user {
        format!("User {USER}\nGroup {USER}\n")
    } else {
        String::new()
    };
    format!(
        "ServerRoot {place}\n\
         ServerName {name}\n\
         PidFile /run/apache2-lab.pid\n\
         ErrorLog {place}/error.log\n\
         Mutex file:/tmp default\n\
         LoadModule mpm_event_module {MODULES}/mod_mpm_event.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule dir_module {MODULES}/mod_dir.so\n\
         LoadModule proxy_module {MODULES}/mod_proxy.so\n\
         LoadModule proxy_http_module {MODULES}/mod_proxy_http.so\n\
         ProxyPass /slow http://{application}/ disablereuse=On\n\
         {user}\
         StartServers 1\nServerLimit 4\nThreadsPerChild 64\nMaxRequestWorkers 256\n\
         MinSpareThreads 16\nMaxSpareThreads 256\n\
         Listen 80\n\
         KeepAlive On\nKeepAliveTimeout 60\nMaxKeepAliveRequests 0\n\
         DirectoryIndex who\n\
         DocumentRoot {place}/pages\n\
         <Directory {place}/pages>\n\
         Require all granted\n\
         </Directory>\n",
        name = host.name(),
        application = application::ADDRESS,
    )
}

/// Starts Apache on `host`, with the application behind it, and waits until it listens.
/// Its page `/`, also `/who`, is the host's name; so is `/slow`, after a while.
pub(crate) fn start(host: &mut Host) -> Result<()> {
    let place: PathBuf = host.disk().join(PROGRAM);
    let pages = place.join("pages");
    fs::create_dir_all(&pages).context("making Apache's pages")?;
    fs::write(pages.join("who"), host.name()).context("writing Apache's page")?;
    let file = place.join("apache.conf");
    let user = can_change_user();
    fs::write(&file, configuration(host, &place, user)).context("writing Apache's file")?;
    application::start(host)?;

    // Apache will not serve as root, and where nobody else exists it runs in one more
    // user namespace, in which root is called by another number.
    let mut argv: Vec<OsString> = Vec::new();
    if !user {
        argv.extend(["unshare", "--user", "--map-user=33", "--map-group=33"].map(OsString::from));
    }
    argv.extend(["apache2", "-DFOREGROUND", "-f"].map(OsString::from));
    argv.push(file.into());
    host.start(PROGRAM, &argv)?;
    wait::until("Apache listens", SOON, || {
        Ok(listens(host, 80)?.then_some(()))
    })
    .with_context(|| format!("see {}", place.join("error.log").display()))
}

/// Kills every process of Apache.
pub(crate) fn kill(host: &Host) -> Result<()> {
    process::kill_all(&host.mark(PROGRAM))
}

/// Asks Apache to stop, as an administrator would, and waits for it.
pub(crate) fn stop(host: &Host) -> Result<()> {
    let mark = host.mark(PROGRAM);
    process::signal(&mark, Signal::TERM)?;
    wait::until("Apache stops", SOON, || {
        Ok(process::with_mark(&mark)?.is_empty().then_some(()))
    })
}

/// Hangs Apache: the kernel goes on accepting connections, nobody answers.
pub(crate) fn hang(host: &Host) -> Result<()> {
    process::freeze_all(&host.mark(PROGRAM))
}

/// Where the page is, on an address of the cluster.
pub(crate) fn page(address: std::net::IpAddr) -> SocketAddr {
    SocketAddr::new(address, 80)
}

/// Puts Apache right after a fault: lets it go on, or starts it again.
pub(crate) fn heal(host: &mut Host) -> Result<()> {
    let mark = host.mark(PROGRAM);
    process::thaw_all(&mark)?;
    if process::with_mark(&mark)?.is_empty() {
        start(host)
    } else {
        Ok(())
    }
}
