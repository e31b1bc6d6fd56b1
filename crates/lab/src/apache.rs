//! The real Apache on a host, with a page that names the host.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use crate::client::{Client, PACE, QUICK};
use crate::host::Host;
use crate::process::MARK;
use crate::{application, process, systemd, wait};

/// The mark of Apache's processes.
pub(crate) const PROGRAM: &str = "apache";

/// Debian's unit of it.
pub(crate) const UNIT: &str = "apache2.service";

/// The same unit a second time.
const TWIN_UNIT: &str = "apache2-twin.service";

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

fn configuration(host: &Host, site: Site, place: &Path, user: bool) -> String {
    let (place, Site { name: site, port }) = (place.display(), site);
    // One that starts cold meets all at once whoever waited for it.
    let start = if host.has_systemd() { 4 } else { 1 };
    let user = if user {
        format!("User {USER}\nGroup {USER}\n")
    } else {
        String::new()
    };
    format!(
        "ServerRoot {place}\n\
         ServerName {name}\n\
         PidFile /run/apache2-lab-{site}.pid\n\
         ErrorLog {place}/error.log\n\
         Mutex file:/tmp default\n\
         LoadModule mpm_event_module {MODULES}/mod_mpm_event.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule dir_module {MODULES}/mod_dir.so\n\
         LoadModule proxy_module {MODULES}/mod_proxy.so\n\
         LoadModule proxy_http_module {MODULES}/mod_proxy_http.so\n\
         ProxyPass /slow http://{application}/ disablereuse=On\n\
         {user}\
         StartServers {start}\nServerLimit 4\nThreadsPerChild 64\nMaxRequestWorkers 256\n\
         MinSpareThreads 16\nMaxSpareThreads 256\n\
         Listen {port}\n\
         KeepAlive Off\n\
         DirectoryIndex who\n\
         DocumentRoot {place}/pages\n\
         <Directory {place}/pages>\n\
         Require all granted\n\
         </Directory>\n",
        name = host.name(),
        application = application::ADDRESS,
    )
}

/// One Apache of a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// Its mark, and the directory of its files.
    name: &'static str,
    port: u16,
}

/// The one that serves.
const SITE: Site = Site {
    name: PROGRAM,
    port: 80,
};

/// Its twin, by which is measured how long a start takes.
const TWIN: Site = Site {
    name: "apache-twin",
    port: 81,
};

/// Writes the files of an Apache; returns the directory that they are in.
fn write_files(host: &Host, site: Site) -> Result<PathBuf> {
    let place: PathBuf = host.disk().join(site.name);
    let pages = place.join("pages");
    fs::create_dir_all(&pages).context("making Apache's pages")?;
    fs::write(pages.join("who"), host.name()).context("writing Apache's page")?;
    let text = configuration(host, site, &place, can_change_user());
    fs::write(place.join("apache2.conf"), text).context("writing Apache's file")?;
    Ok(place)
}

/// Where an Apache that is a unit complains.
fn log_of(host: &Host, site: Site) -> PathBuf {
    host.disk().join(format!("{}.log", site.name))
}

/// Puts Apache on a host with systemd, and starts only the application behind it.
pub(crate) fn install(host: &mut Host) -> Result<()> {
    for (site, unit) in [(SITE, UNIT), (TWIN, TWIN_UNIT)] {
        let place = write_files(host, site)?;
        // The unit has a /var/tmp of its own, in which the lab's directory is not.
        let drop_in = format!(
            "[Service]\nBindPaths={place}\nEnvironment=APACHE_CONFDIR={place}\nEnvironment={MARK}={mark}\n\
             StandardOutput=append:{log}\nStandardError=append:{log}\n",
            place = place.display(),
            mark = host.mark(site.name),
            log = log_of(host, site).display(),
        );
        systemd::add_unit(host, unit, &systemd::packaged(UNIT)?, &drop_in)?;
    }
    application::start(host)
}

/// Starts Apache on `host`, with the application behind it, and waits until it listens.
/// Its page `/`, also `/who`, is the host's name; so is `/slow`, after a while.
pub(crate) fn start(host: &mut Host) -> Result<()> {
    if host.has_systemd() {
        install(host)?;
        let started = systemd::systemctl(host, &["start", UNIT]).map(drop);
        return started.with_context(|| {
            let said = fs::read_to_string(log_of(host, SITE));
            format!("Apache says: {}", said.unwrap_or_default().trim())
        });
    }
    let place = write_files(host, SITE)?;
    let file = place.join("apache2.conf");
    let user = can_change_user();
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

/// How long the same Apache takes on `host` from the order to start it to its first answer
/// to `client`: that of its twin, which nobody watches.
pub(crate) fn start_time(host: &Host, client: &Host) -> Result<Duration> {
    let page = SocketAddr::new(host.ip(), TWIN.port);
    let asking = Client::start(client, page, QUICK, PACE)?;
    systemd::systemctl(host, &["start", TWIN_UNIT])?;
    let answered = wait::until("the twin of Apache answers", SOON, || {
        Ok(asking.first_good())
    })?;
    let begun = systemd::property(host, TWIN_UNIT, "InactiveExitTimestampMonotonic")?;
    let begun = Duration::from_micros(begun.parse().context("when the twin was started")?);
    systemd::systemctl(host, &["stop", TWIN_UNIT])?;
    Ok(monotonic(answered).saturating_sub(begun))
}

/// A moment on the clock by which systemd tells times.
fn monotonic(moment: Moment) -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    let today = Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    );
    today.saturating_sub(now().since(moment))
}

/// Kills every process of Apache.
pub(crate) fn kill(host: &Host) -> Result<()> {
    process::kill_all(&host.mark(PROGRAM))
}

/// Asks Apache to stop, as an administrator would, and waits for it.
pub(crate) fn stop(host: &Host) -> Result<()> {
    if host.has_systemd() {
        return systemd::systemctl(host, &["stop", UNIT]).map(drop);
    }
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
    if host.has_systemd() {
        // Nothing where it runs, or where systemd is about to start it by itself.
        return systemd::systemctl(host, &["start", UNIT]).map(drop);
    }
    if process::with_mark(&mark)?.is_empty() {
        start(host)
    } else {
        Ok(())
    }
}
