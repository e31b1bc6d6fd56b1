//! Shutdown and reboot of this machine, heard of before they happen: systemd-logind tells
//! them beforehand, and waits for whoever holds a *delay lock* (org.freedesktop.login1(5)).
//!
//! | what is seen                           | what it means                               |
//! |----------------------------------------|---------------------------------------------|
//! | unknown                                | no bus, no logind, or it does not answer    |
//! | known, the lock held                   | a shutdown will wait for us, `delay` at most |
//! | known, not held, refused               | it would not wait; why                      |
//! | preparing                              | it goes down; it waits while we hold the lock |
//! | preparing no more                      | it was called off                           |
//!
//! The bus and logind may go away and come back: that says nothing about a shutdown. The lock
//! goes with the connection of neither (it is a descriptor), and is taken anew from a logind
//! that was started anew. Nothing here waits longer than [`ANSWER_MAX`] for an answer, and
//! where there is no logind it is looked for ever more seldom, every [`RETRY_MAX`] at last.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::watch;
use zbus::export::serde::de::DeserializeOwned;
use zbus::message::Type as MessageType;
use zbus::wire::OwnedVariant;
use zbus::{Connection, MatchRule, Message};

use crate::systemd::{SYSTEM_BUS, listen, next};

/// How long logind may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How soon a lost bus or logind is tried again, and how seldom where there seems to be none.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// It is asked again after so long without a signal, should one have been lost.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Where programs are told another address of the system's bus (D-Bus specification).
const BUS_VARIABLE: &str = "DBUS_SYSTEM_BUS_ADDRESS";

const LOGIN: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const BUS: &str = "org.freedesktop.DBus";

/// Where the system's bus is: as the environment says, or where it always is.
pub fn system_bus() -> String {
    std::env::var(BUS_VARIABLE)
        .ok()
        .filter(|address| !address.is_empty())
        .unwrap_or_else(|| SYSTEM_BUS.to_owned())
}

/// What is known of a shutdown of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, and why.
    Unknown(String),
    /// This.
    Known(Told),
}

/// What logind has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The machine is about to go down.
    pub preparing: bool,
    /// How long it waits for locks at most (`InhibitDelayMaxSec`).
    pub delay: Duration,
    /// Whether it waits for us; or why it would not.
    pub lock: Lock,
}

/// Whether a shutdown waits for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// It does.
    Held,
    /// We do not ask it to.
    NotWanted,
    /// We did, and it said this.
    Refused(String),
}

/// A line to logind that is made anew whenever it breaks. Dropped, it gives the lock back.
#[derive(Debug)]
pub struct Logind {
    seen: watch::Receiver<Seen>,
    wanted: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Logind {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Logind {
    /// Starts to keep a line to the logind at the bus at `address`, and a delay lock for
    /// `who`, because of `why` (both are shown to people: `systemd-inhibit --list`). Returns
    /// at once, whether or not there is any. Must be called within a tokio runtime.
    pub fn start(address: &str, who: &str, why: &str) -> Self {
        let (out, seen) = watch::channel(Seen::Unknown("not asked yet".to_owned()));
        let (wanted, wants) = watch::channel(true);
        let asking = Asking {
            address: address.to_owned(),
            who: who.to_owned(),
            why: why.to_owned(),
            wants,
            out,
        };
        Self {
            seen,
            wanted,
            task: tokio::spawn(asking.run()),
        }
    }

    /// What is known, now and at every event.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }

    /// Whether a shutdown is to wait for us from now on: gives the lock back, or takes it.
    pub fn hold(&self, wanted: bool) {
        self.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }
}

/// How long a shutdown waits for locks at most, asked once.
///
/// # Errors
///
/// Why it is not known.
pub async fn delay_max(address: &str) -> Result<Duration, String> {
    let connection = connect(address).await?;
    delay(&connection).await
}

/// The task behind [`Logind`].
struct Asking {
    address: String,
    who: String,
    why: String,
    wants: watch::Receiver<bool>,
    out: watch::Sender<Seen>,
}

impl Asking {
    async fn run(mut self) {
        let mut pause = RETRY_MIN;
        loop {
            let reason = match connect(&self.address).await {
                Ok(connection) => match self.follow(&connection, &mut pause).await {
                    Ok(()) => return,
                    Err(reason) => reason,
                },
                Err(reason) => reason,
            };
            self.tell(Seen::Unknown(reason));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.out.closed() => return,
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn tell(&self, seen: Seen) {
        self.out.send_if_modified(|before| {
            let changed = *before != seen;
            *before = seen;
            changed
        });
    }

    /// Keeps the lock and tells what is known, until something fails, or nobody listens.
    async fn follow(
        &mut self,
        connection: &Connection,
        pause: &mut Duration,
    ) -> Result<(), String> {
        // Listening first: what happens between the questions is heard.
        let mut prepare = listen(prepares()?, connection).await.map_err(words)?;
        let mut owners = listen(owners()?, connection).await.map_err(words)?;
        let mut lock: Option<OwnedFd> = None;
        loop {
            let told = self.look(connection, &mut lock).await?;
            *pause = RETRY_MIN;
            let mut shown = told.clone();
            self.tell(Seen::Known(told));
            tokio::select! {
                signal = next(&mut prepare) => {
                    let signal = signal.ok_or("the bus closed the connection")?;
                    // Told at once, since a logind that hangs now must not keep it from us.
                    shown.preparing = read(&signal)?;
                    self.tell(Seen::Known(shown));
                }
                signal = next(&mut owners) => {
                    let signal = signal.ok_or("the bus closed the connection")?;
                    let (_, _, owner): (String, String, String) = read(&signal)?;
                    if owner.is_empty() {
                        return Err("logind has gone".to_owned());
                    }
                    // Another process: what it knows of our lock is not certain.
                    lock = None;
                }
                changed = self.wants.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.out.closed() => return Ok(()),
            }
        }
    }

    /// Takes the lock or gives it back, and asks for the rest.
    async fn look(
        &mut self,
        connection: &Connection,
        lock: &mut Option<OwnedFd>,
    ) -> Result<Told, String> {
        let wanted = *self.wants.borrow_and_update();
        let state = match (wanted, &lock) {
            (false, _) => {
                *lock = None;
                Lock::NotWanted
            }
            (true, Some(_)) => Lock::Held,
            (true, None) => match self.inhibit(connection).await? {
                Ok(taken) => {
                    *lock = Some(taken);
                    Lock::Held
                }
                Err(refused) => Lock::Refused(refused),
            },
        };
        let preparing = property(connection, "PreparingForShutdown").await?;
        Ok(Told {
            preparing: bool::try_from(preparing).map_err(words)?,
            delay: delay(connection).await?,
            lock: state,
        })
    }

    /// The lock, or why logind refuses it; an error if it does not answer.
    async fn inhibit(&self, connection: &Connection) -> Result<Result<OwnedFd, String>, String> {
        let body = ("shutdown", &*self.who, &*self.why, "delay");
        let answer = connection.call_method(Some(LOGIN), OBJECT, Some(MANAGER), "Inhibit", &body);
        match answer.await {
            Ok(answer) => {
                let lock: zbus::OwnedFd = read(&answer)?;
                Ok(Ok(lock.into()))
            }
            Err(error) if is_refusal(&error) => Ok(Err(words(error))),
            Err(error) => Err(words(error)),
        }
    }
}

/// Whether logind has spoken, and not the bus about its absence.
fn is_refusal(error: &zbus::Error) -> bool {
    use zbus::fdo::Error as Known;
    match error {
        zbus::Error::MethodError(..) => true,
        zbus::Error::FDO(known) => matches!(
            **known,
            Known::Failed(_)
                | Known::AccessDenied(_)
                | Known::AuthFailed(_)
                | Known::InteractiveAuthorizationRequired(_)
                | Known::InvalidArgs(_)
                | Known::LimitsExceeded(_)
                | Known::NotSupported(_)
        ),
        _ => false,
    }
}

async fn connect(address: &str) -> Result<Connection, String> {
    let connecting = async {
        zbus::connection::Builder::address(address)
            .method_timeout(ANSWER_MAX)
            .build()
            .await
    };
    match tokio::time::timeout(ANSWER_MAX, connecting).await {
        Ok(connection) => {
            connection.map_err(|error| format!("no connection to the bus at {address}: {error}"))
        }
        Err(_) => Err(format!("the bus at {address} does not answer")),
    }
}

fn prepares() -> Result<MatchRule<'static>, String> {
    let rule = MatchRule::builder()
        .msg_type(MessageType::Signal)
        .sender(LOGIN)
        .interface(MANAGER)
        .member("PrepareForShutdown");
    rule.build().map_err(words)
}

fn owners() -> Result<MatchRule<'static>, String> {
    let rule = MatchRule::builder()
        .msg_type(MessageType::Signal)
        .sender(BUS)
        .interface(BUS)
        .member("NameOwnerChanged")
        .add_arg(LOGIN);
    rule.build().map_err(words)
}

async fn delay(connection: &Connection) -> Result<Duration, String> {
    let delay = property(connection, "InhibitDelayMaxUSec").await?;
    let delay = u64::try_from(delay).map_err(words)?;
    Ok(Duration::from_micros(delay))
}

async fn property(connection: &Connection, name: &str) -> Result<OwnedVariant, String> {
    let body = (MANAGER, name);
    let answer = connection.call_method(Some(LOGIN), OBJECT, Some(PROPERTIES), "Get", &body);
    read(&answer.await.map_err(words)?)
}

fn read<T: DeserializeOwned + zbus::Type>(message: &Message) -> Result<T, String> {
    let content = message.body().deserialize::<T>();
    content.map_err(|error| format!("the answer of logind makes no sense: {error}"))
}

fn words(error: impl Into<zbus::Error>) -> String {
    match error.into() {
        zbus::Error::MethodError(name, text, _) => text.unwrap_or_else(|| name.to_string()),
        other => other.to_string(),
    }
}
