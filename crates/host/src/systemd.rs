//! Units of systemd over D-Bus: what they are, by events, and starting and stopping them.
//!
//! The bus may go away and come back, and so may systemd itself (`daemon-reexec`). That
//! says nothing about a unit: what is known of it turns to [`Seen::Unknown`] until the bus
//! answers again. An order that was under way then fails with [`SystemdError::Lost`];
//! whoever gave it looks at the unit afterwards.
//!
//! An answer to an order to start or stop means that a job is queued. It is done when
//! `JobRemoved` names it (org.freedesktop.systemd1(5)), so that signal is listened to from the
//! moment that there is a line: whoever waits for a start waits for no question about signals
//! first. For the same reason a unit is looked at by the few properties that matter, all asked
//! for at once: to tell them all systemd reads a dozen files of the unit's control group and
//! sends 20 KB, in the very moments in which it is to start or to bury that unit.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use zbus::export::futures_core::Stream;
use zbus::message::Type as MessageType;
use zbus::wire::OwnedVariant;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath};

/// Where the system's bus listens.
pub const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// How long the bus may take to answer a question. Longer than a `daemon-reload` of a
/// machine with thousands of units, which answers nobody meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How soon a lost bus is tried again, and how seldom at the most.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// A unit is looked at again after so long without an event, should one have been lost.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Signals that wait for one of us. Each only says "look again".
const QUEUED_MAX: usize = 256;

/// Ends of jobs that wait for whoever gave an order: all jobs of a machine count, and a boot has
/// hundreds. Who misses some looks at its unit instead.
const ENDED_MAX: usize = 1_024;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Why systemd did not do what it was asked. Follows "failed to".
#[derive(Debug, Clone, thiserror::Error)]
pub enum SystemdError {
    /// There is no bus, it went away, or it does not answer.
    #[error("ask systemd: {0}; the unit is not known to be up or down")]
    Lost(String),
    /// It refused.
    #[error("{attempt} {unit}: {reason}")]
    Refused {
        /// What was asked.
        attempt: &'static str,
        /// Of which unit.
        unit: String,
        /// What it said.
        reason: String,
    },
    /// The job was queued and did not succeed.
    #[error("{attempt} {unit}: its job ended with {result:?}{}", remedy(.unit, .result))]
    Job {
        /// What was asked.
        attempt: &'static str,
        /// Of which unit.
        unit: String,
        /// What it came to: `failed`, `timeout`, `canceled`, `dependency`, `skipped`.
        result: String,
    },
}

fn remedy(unit: &str, result: &str) -> String {
    match result {
        "failed" | "timeout" => format!("; systemctl status {unit} says more"),
        "canceled" => "; somebody gave another order".to_owned(),
        "dependency" => "; a unit that it requires failed".to_owned(),
        _ => String::new(),
    }
}

/// What systemd says of a unit at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// `loaded`, `not-found`, `bad-setting`, `error`, `masked`.
    pub load: String,
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`,
    /// `maintenance`, `refreshing`.
    pub active: String,
    /// The same in detail: `running`, `exited`, `auto-restart`, `dead`.
    pub sub: String,
    /// The number of its main process; 0 if it has none.
    pub main_pid: u32,
    /// Another one whenever it is started; empty before the first start.
    pub invocation: Vec<u8>,
    /// Why it last failed, or `success`; empty for what is no service.
    pub result: String,
    /// Its control group, from the root that systemd sees; empty while it has none, and for
    /// what is no service.
    pub control_group: String,
}

/// The same in the one respect that matters to somebody who wants it up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It is up.
    Up,
    /// On its way, in either direction.
    Changing,
    /// It is down.
    Down,
    /// There is none of that name that could be started.
    Missing,
}

impl Unit {
    /// Whether it runs.
    pub fn running(&self) -> Running {
        match self.active.as_str() {
            "active" | "reloading" | "refreshing" => Running::Up,
            "activating" | "deactivating" | "maintenance" => Running::Changing,
            _ if self.load == "loaded" => Running::Down,
            _ => Running::Missing,
        }
    }

    /// Its main process died and systemd waits to start it anew (`Restart=`).
    pub fn restarts_by_itself(&self) -> bool {
        self.active == "activating" && self.sub.starts_with("auto-restart")
    }
}

/// For people: `active (running)`.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.load.as_str() {
            "loaded" => write!(f, "{} ({})", self.active, self.sub)?,
            load => write!(f, "{load}")?,
        }
        match self.result.as_str() {
            "" | "success" => Ok(()),
            result => write!(f, ", {result}"),
        }
    }
}

/// What is known of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, and why.
    Unknown(String),
    /// This, until the next event.
    Known(Unit),
}

/// A line to systemd that is made anew whenever it breaks. Cheap to clone; the last one
/// dropped ends its tasks.
#[derive(Clone, Debug)]
pub struct Systemd {
    line: watch::Receiver<Line>,
    watched: Arc<Mutex<BTreeMap<String, watch::Receiver<Seen>>>>,
    _keeper: Arc<Keeper>,
}

/// Ends the task that keeps the line.
#[derive(Debug)]
struct Keeper(tokio::task::JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone, Debug)]
enum Line {
    Up(Connected),
    Down(String),
}

/// A line that is up.
#[derive(Clone, Debug)]
struct Connected {
    connection: Connection,
    /// Every job that is over. It ends with the line, whoever still has this.
    ended: broadcast::WeakSender<Ended>,
}

/// A job that is over, and what it came to.
#[derive(Clone, Debug)]
struct Ended {
    job: OwnedObjectPath,
    result: String,
}

impl Systemd {
    /// Starts to keep a line to the bus at `address` ([`SYSTEM_BUS`] for that of the
    /// machine). Returns at once, whether or not there is a bus. Must be called within a
    /// tokio runtime.
    pub fn start(address: &str) -> Self {
        let (lines, line) = watch::channel(Line::Down("not connected yet".to_owned()));
        let keeper = tokio::spawn(keep_line(address.to_owned(), lines));
        Self {
            line,
            watched: Arc::default(),
            _keeper: Arc::new(Keeper(keeper)),
        }
    }

    /// What is known of a unit, now and at every event. All watchers of one unit share one
    /// task.
    pub fn watch(&self, unit: &str) -> watch::Receiver<Seen> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // A watcher whose readers have all gone has ended.
        watched.retain(|_, seen| seen.has_changed().is_ok());
        if let Some(seen) = watched.get(unit) {
            return seen.clone();
        }
        let (out, seen) = watch::channel(Seen::Unknown("not asked yet".to_owned()));
        tokio::spawn(watch_unit(self.line.clone(), unit.to_owned(), out));
        watched.insert(unit.to_owned(), seen.clone());
        seen
    }

    /// What a unit is now.
    ///
    /// # Errors
    ///
    /// [`SystemdError::Lost`], or that systemd refuses to look at it. A unit that does not
    /// exist is no error.
    pub async fn look(&self, unit: &str) -> Result<Unit, SystemdError> {
        look(&self.line().await?.connection, unit).await
    }

    /// The name of its own that a unit has, whichever of its names is given: that of what
    /// `Alias=` or a link to its file stands for.
    ///
    /// # Errors
    ///
    /// As [`Systemd::look`].
    pub async fn own_name(&self, unit: &str) -> Result<String, SystemdError> {
        let connection = self.line().await?.connection;
        let path = path_of(&connection, unit).await?;
        let name = property(&connection, unit, &path, UNIT, "Id").await?;
        Ok(or_default(name))
    }

    /// Starts a unit and waits until its job is over: for as long as the unit itself
    /// allows, so give it a deadline.
    ///
    /// # Errors
    ///
    /// Why it is not up, or that the line broke.
    pub async fn start_unit(&self, unit: &str) -> Result<(), SystemdError> {
        let line = self.line().await?;
        // What failed too often of late would not even be tried (StartLimitBurst=). systemd
        // takes one message after the other, so the answer need not be waited for.
        let (bus, body) = (&line.connection, (unit,));
        let forget = call(bus, "forget failures of", unit, "ResetFailedUnit", &body);
        let start = job(&line, "start", unit, "StartUnit");
        let (_, started) = tokio::join!(biased; forget, start);
        started
    }

    /// Stops a unit and waits until its job is over: for as long as the unit itself
    /// allows, so give it a deadline.
    ///
    /// # Errors
    ///
    /// Why it is not down, or that the line broke.
    pub async fn stop_unit(&self, unit: &str) -> Result<(), SystemdError> {
        job(&self.line().await?, "stop", unit, "StopUnit").await
    }

    /// Sends a signal to all processes of a unit's control group.
    ///
    /// # Errors
    ///
    /// That there are none, or that the line is broken.
    pub async fn kill_unit(&self, unit: &str, signal: i32) -> Result<(), SystemdError> {
        let line = self.line().await?.connection;
        let body = (unit, "all", signal);
        call(&line, "kill", unit, "KillUnit", &body).await.map(drop)
    }

    /// The line, as soon as there is one, within the time of an answer.
    async fn line(&self) -> Result<Connected, SystemdError> {
        let mut line = self.line.clone();
        let up = line.wait_for(|line| matches!(line, Line::Up(_)));
        let up = tokio::time::timeout(ANSWER_MAX, up).await;
        let reason = match up.map(|up| up.map(|line| line.clone())) {
            Ok(Ok(Line::Up(connected))) => return Ok(connected),
            Ok(Ok(Line::Down(reason))) => reason,
            Ok(Err(_)) => "this program is ending".to_owned(),
            Err(_) => match &*self.line.borrow() {
                Line::Down(reason) => reason.clone(),
                Line::Up(_) => "it came back just now".to_owned(),
            },
        };
        Err(SystemdError::Lost(reason))
    }
}

/// Connects, waits for the end of the connection, and so on.
async fn keep_line(address: String, lines: watch::Sender<Line>) {
    let mut pause = RECONNECT_MIN;
    loop {
        match connect(&address).await {
            Ok((connection, signals)) => {
                pause = RECONNECT_MIN;
                let (ended, _) = broadcast::channel(ENDED_MAX);
                lines.send_replace(Line::Up(Connected {
                    connection: connection.clone(),
                    ended: ended.downgrade(),
                }));
                tokio::select! {
                    () = connection.closed() => {}
                    () = pass_on(signals, ended) => {}
                }
                lines.send_replace(Line::Down("the bus closed the connection".to_owned()));
            }
            Err(reason) => {
                lines.send_replace(Line::Down(reason));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

/// Tells whoever waits for a job of every job that is over, until the line breaks.
async fn pass_on(mut signals: MessageStream, ended: broadcast::Sender<Ended>) {
    while let Some(signal) = next(&mut signals).await {
        let Ok((_, job, _, result)) = read::<(u32, OwnedObjectPath, String, String)>(&signal)
        else {
            continue;
        };
        // Mostly nobody waits.
        let _ = ended.send(Ended { job, result });
    }
}

/// A connection, and the ends of jobs that it is told.
async fn connect(address: &str) -> Result<(Connection, MessageStream), String> {
    let connecting = async {
        let connection = zbus::connection::Builder::address(address)
            .method_timeout(ANSWER_MAX)
            .build()
            .await
            .map_err(|error| format!("no connection to the bus at {address}: {error}"))?;
        // Without it systemd tells nobody of its jobs and units.
        call(&connection, "subscribe to", "units", "Subscribe", &())
            .await
            .map_err(|error| match error {
                SystemdError::Lost(reason) => reason,
                error => error.to_string(),
            })?;
        let signals = job_signals(&connection)
            .await
            .map_err(|error| format!("the bus at {address} tells of no signals: {error}"))?;
        Ok((connection, signals))
    };
    tokio::time::timeout(ANSWER_MAX, connecting)
        .await
        .unwrap_or_else(|_| Err(format!("the bus at {address} does not answer")))
}

async fn watch_unit(mut line: watch::Receiver<Line>, unit: String, out: watch::Sender<Seen>) {
    loop {
        let now = line.borrow_and_update().clone();
        let reason = match now {
            Line::Down(reason) => reason,
            Line::Up(line) => {
                let followed = async {
                    let followed = follow(&line.connection, &unit, &out).await;
                    followed
                        .err()
                        .map_or_else(|| "it is gone".to_owned(), |error| error.to_string())
                };
                tokio::select! {
                    reason = followed => reason,
                    () = out.closed() => return,
                }
            }
        };
        tell(&out, Seen::Unknown(reason));
        tokio::select! {
            changed = line.changed() => if changed.is_err() { return },
            // It did not answer although the line is up: it is asked again.
            () = tokio::time::sleep(RECONNECT_MAX) => {}
            () = out.closed() => return,
        }
    }
}

/// Publishes a unit at every event, until something fails.
async fn follow(
    connection: &Connection,
    unit: &str,
    out: &watch::Sender<Seen>,
) -> Result<(), SystemdError> {
    let path = path_of(connection, unit).await?;
    let lost = |error: zbus::Error| SystemdError::Lost(error.to_string());
    let rule = MatchRule::builder()
        .msg_type(MessageType::Signal)
        .sender(SYSTEMD)
        .path(path.as_str())
        .interface(PROPERTIES)
        .member("PropertiesChanged")
        .build()
        .map_err(lost)?;
    let mut signals = listen(rule, connection).await.map_err(lost)?;
    loop {
        // The signals carry parts and invalidations; all of it is asked for again.
        tell(out, Seen::Known(look_at(connection, unit, &path).await?));
        match tokio::time::timeout(LOOK_AGAIN, next_of_all(&mut signals)).await {
            Ok(Some(())) | Err(_) => {}
            Ok(None) => return Ok(()),
        }
    }
}

fn tell(out: &watch::Sender<Seen>, seen: Seen) {
    out.send_if_modified(|before| {
        let changed = *before != seen;
        *before = seen;
        changed
    });
}

async fn look(connection: &Connection, unit: &str) -> Result<Unit, SystemdError> {
    let path = path_of(connection, unit).await?;
    look_at(connection, unit, &path).await
}

/// The object of a unit, which systemd makes if it has to.
async fn path_of(connection: &Connection, unit: &str) -> Result<OwnedObjectPath, SystemdError> {
    let answer = call(connection, "look at", unit, "LoadUnit", &(unit,)).await?;
    read(&answer)
}

async fn look_at(
    connection: &Connection,
    unit: &str,
    path: &OwnedObjectPath,
) -> Result<Unit, SystemdError> {
    let one = |interface, name| property(connection, unit, path, interface, name);
    // Sockets, mounts and others have no main process.
    let is_service = unit.ends_with(".service");
    let of_service = |name| async move {
        match is_service {
            true => one(SERVICE, name).await,
            false => Ok(None),
        }
    };
    let (load, active, sub, invocation, main_pid, result, control_group) = tokio::try_join!(
        one(UNIT, "LoadState"),
        one(UNIT, "ActiveState"),
        one(UNIT, "SubState"),
        one(UNIT, "InvocationID"),
        of_service("MainPID"),
        of_service("Result"),
        of_service("ControlGroup"),
    )?;
    Ok(Unit {
        load: or_default(load),
        active: or_default(active),
        sub: or_default(sub),
        main_pid: or_default(main_pid),
        invocation: or_default(invocation),
        result: or_default(result),
        control_group: or_default(control_group),
    })
}

/// What a property says; the default for one that this systemd does not have.
fn or_default<T: TryFrom<OwnedVariant> + Default>(property: Option<OwnedVariant>) -> T {
    let said = property.and_then(|property| T::try_from(property).ok());
    said.unwrap_or_default()
}

/// One property, if there is such a one.
async fn property(
    connection: &Connection,
    unit: &str,
    path: &OwnedObjectPath,
    interface: &str,
    name: &str,
) -> Result<Option<OwnedVariant>, SystemdError> {
    let body = (interface, name);
    let answer = connection
        .call_method(Some(SYSTEMD), path, Some(PROPERTIES), "Get", &body)
        .await;
    match answer {
        Ok(answer) => read(&answer).map(Some),
        Err(zbus::Error::FDO(known)) if matches!(*known, zbus::fdo::Error::UnknownProperty(_)) => {
            Ok(None)
        }
        Err(error) => Err(explain(error, "look at", unit)),
    }
}

/// The ends of jobs.
async fn job_signals(connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(MessageType::Signal)
        .sender(SYSTEMD)
        .interface(MANAGER)
        .member("JobRemoved")
        .build()?;
    listen(rule, connection).await
}

/// Gives an order and waits for the end of its job.
async fn job(
    line: &Connected,
    attempt: &'static str,
    unit: &str,
    method: &'static str,
) -> Result<(), SystemdError> {
    let broken = || SystemdError::Lost("the bus closed the connection".to_owned());
    let ended = line.ended.upgrade().ok_or_else(broken)?;
    let mut over = ended.subscribe();
    drop(ended);
    let body = (unit, "replace");
    let queued = call(&line.connection, attempt, unit, method, &body).await?;
    let queued: OwnedObjectPath = read(&queued)?;
    loop {
        let ended = over.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Closed => broken(),
            broadcast::error::RecvError::Lagged(missed) => {
                SystemdError::Lost(format!("{missed} of its signals were missed"))
            }
        })?;
        if ended.job != queued {
            continue;
        }
        return match ended.result.as_str() {
            "done" => Ok(()),
            _ => Err(SystemdError::Job {
                attempt,
                unit: unit.to_owned(),
                result: ended.result,
            }),
        };
    }
}

pub(crate) async fn listen(
    rule: MatchRule<'_>,
    connection: &Connection,
) -> zbus::Result<MessageStream> {
    let most = std::num::NonZeroUsize::new(QUEUED_MAX);
    MessageStream::for_match_rule(rule, connection, most).await
}

/// The next signal; nothing once the connection is broken.
pub(crate) async fn next(signals: &mut MessageStream) -> Option<Message> {
    poll_fn(|context| Pin::new(&mut *signals).poll_next(context))
        .await?
        .ok()
}

/// The next signal, and all that have come with it: they are answered by one look. Nothing once
/// the connection is broken.
async fn next_of_all(signals: &mut MessageStream) -> Option<()> {
    next(signals).await?;
    poll_fn(|context| {
        loop {
            match Pin::new(&mut *signals).poll_next(context) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Ready(Some(())),
            }
        }
    })
    .await
}

async fn call<B>(
    connection: &Connection,
    attempt: &'static str,
    unit: &str,
    method: &'static str,
    body: &B,
) -> Result<Message, SystemdError>
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    let answer = connection.call_method(Some(SYSTEMD), OBJECT, Some(MANAGER), method, body);
    answer.await.map_err(|error| explain(error, attempt, unit))
}

fn read<T>(message: &Message) -> Result<T, SystemdError>
where
    T: for<'d> zbus::export::serde::Deserialize<'d> + zbus::Type,
{
    let content = message.body().deserialize::<T>();
    content.map_err(|error| SystemdError::Lost(format!("its answer makes no sense: {error}")))
}

/// Tells systemd's word about a unit from a bus that does not work.
fn explain(error: zbus::Error, attempt: &'static str, unit: &str) -> SystemdError {
    match error {
        zbus::Error::MethodError(name, text, _) if name.as_str().starts_with(SYSTEMD) => {
            SystemdError::Refused {
                attempt,
                unit: unit.to_owned(),
                reason: text.unwrap_or_else(|| name.to_string()),
            }
        }
        other => match other {
            zbus::Error::FDO(known) => match *known {
                zbus::fdo::Error::InvalidArgs(reason) | zbus::fdo::Error::AccessDenied(reason) => {
                    SystemdError::Refused {
                        attempt,
                        unit: unit.to_owned(),
                        reason,
                    }
                }
                known => SystemdError::Lost(known.to_string()),
            },
            other => SystemdError::Lost(other.to_string()),
        },
    }
}
