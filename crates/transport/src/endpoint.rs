//! The door of the room: one endpoint per node, a link to every peer.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use evenkeel_core::{NodeId, NodeName};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{interval, timeout};

use crate::certificate::Fingerprint;
use crate::dial::{self, Target};
use crate::event::{Alarmed, DownReason, EventQueue, Events, PeerEvent, RefusedBy};
use crate::hello::{Admitted, Close, HELLO_MAX};
use crate::link::{self, Link};
use crate::pki::Identity;
use crate::stream::{
    self, BODY_MAX, Class, Inbox, Messages, Newest, ONE_WAY_MAX, Outgoing, Request, Requests,
    TransportError,
};
use crate::tls::{self, Directory, SharedDirectory};
use crate::tuning::Tuning;

/// How often the dates of certificates in use are looked at.
const ALARM_INTERVAL: Duration = Duration::from_secs(3600);
/// Streams of each kind that a peer may have open: requests beyond wait on its side.
const STREAMS_MAX: u32 = 64;
/// What one peer may make us hold of unread bytes.
const RECEIVE_WINDOW: u32 = 8 << 20;

/// Decides whether a peer that has proved its name is let in, from what its daemon says
/// in its hello. The reason of a refusal is told to the other side. Called on the
/// transport's runtime: it must not wait.
pub type Admission = Arc<dyn Fn(NodeId, &[u8]) -> Result<(), String> + Send + Sync>;

/// Where a peer is dialled. It may call from elsewhere: its certificate says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name in the file.
    pub name: NodeName,
    /// Its address in the file.
    pub address: SocketAddr,
}

/// What an endpoint starts with.
pub struct Settings {
    /// Times.
    pub tuning: Tuning,
    /// The other nodes of the file.
    pub peers: Vec<PeerAddress>,
    /// Certificates that do not count any more.
    pub revoked: Vec<Fingerprint>,
    /// What this daemon says of itself, at most 4096 bytes.
    pub hello: Bytes,
    /// Judges what the others say.
    pub admission: Admission,
}

/// Why no endpoint could be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// No runtime of tokio around the call.
    #[error("start the endpoint from within a tokio runtime: {0}")]
    NoRuntime(#[from] tokio::runtime::TryCurrentError),
    /// The socket is unusable.
    #[error("cannot use the control socket: {0}")]
    Socket(#[from] io::Error),
    /// TLS refused what the identity holds.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// No random numbers from the kernel.
    #[error("the kernel gives no random numbers")]
    Random,
    /// A renewed certificate must be of the same node.
    #[error("the certificate is of {0}, which is another node")]
    OtherNode(NodeName),
    /// The hello is too long.
    #[error("a hello of {0} bytes is longer than 4096")]
    HelloTooLong(usize),
}

/// What arrives, in three parts that may be given to different tasks.
pub struct Incoming {
    /// News of peers.
    pub events: Events,
    /// Requests to be answered.
    pub requests: Requests,
    /// One-way messages.
    pub messages: Messages,
}

/// The endpoint of this node. Clones are the same endpoint; when the last one is
/// dropped it closes.
#[derive(Clone)]
pub struct Endpoint(Arc<Owner>);

/// Closes the endpoint when nobody holds it any more; its tasks hold only [`Shared`].
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What the tasks of an endpoint share.
pub(crate) struct Shared {
    pub(crate) quinn: quinn::Endpoint,
    pub(crate) tuning: Tuning,
    pub(crate) admission: Admission,
    pub(crate) directory: SharedDirectory,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) runtime: Handle,
    /// Drawn at each start: a peer that comes back with another one has forgotten us.
    pub(crate) life: u64,
    own: NodeId,
    identity: RwLock<Identity>,
    hello: Mutex<Bytes>,
    events: Arc<EventQueue>,
    state: Mutex<State>,
    /// What a prepared endpoint begins with.
    waiting: Mutex<Option<(Vec<PeerAddress>, Vec<Fingerprint>)>>,
    sequence: AtomicU64,
    alarms: Mutex<Option<AbortHandle>>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeId, Peer>,
    serial: u64,
    closed: bool,
}

/// One other node of the file.
struct Peer {
    target: watch::Sender<Target>,
    link: Option<Link>,
    newest: Arc<Newest>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can leave its value half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// Starts on `control`, a bound UDP socket on which only QUIC arrives, within the
    /// current tokio runtime, and dials all peers at once.
    pub fn start(
        settings: Settings,
        control: UdpSocket,
        identity: Identity,
    ) -> Result<(Self, Incoming), StartError> {
        let (endpoint, incoming) = Self::prepare(settings, control, identity)?;
        endpoint.begin();
        Ok((endpoint, incoming))
    }

    /// The same, but nobody is dialled or let in before [`Endpoint::begin`]: for a node that
    /// does not yet know what to say of itself.
    pub fn prepare(
        settings: Settings,
        control: UdpSocket,
        identity: Identity,
    ) -> Result<(Self, Incoming), StartError> {
        let Settings {
            tuning,
            peers,
            revoked,
            hello,
            admission,
        } = settings;
        if hello.len() > HELLO_MAX {
            return Err(StartError::HelloTooLong(hello.len()));
        }
        let runtime = Handle::try_current()?;
        let directory = SharedDirectory::default();
        let first = tls::server(&identity, &directory)?;
        let server = server_config(&tuning, first.config);
        let mut config = EndpointConfig::default();
        // The kernel tells QUIC from lease datagrams by this bit.
        config.grease_quic_bit(false);
        let quinn =
            quinn::Endpoint::new(config, Some(server), control, Arc::new(quinn::TokioRuntime))?;
        let mut life = [0; 8];
        SystemRandom::new()
            .fill(&mut life)
            .map_err(|_| StartError::Random)?;
        let (requests, received) = mpsc::channel(stream::REQUESTS_MAX);
        let events = Arc::new(EventQueue::new());
        let inbox = Arc::new(Inbox::new());
        let incoming = Incoming {
            events: Events(Arc::clone(&events)),
            requests: Requests(received),
            messages: Messages(Arc::clone(&inbox)),
        };
        let shared = Arc::new(Shared {
            quinn,
            tuning,
            admission,
            directory,
            requests,
            inbox,
            runtime,
            life: u64::from_le_bytes(life),
            own: identity.id(),
            identity: RwLock::new(identity),
            hello: Mutex::new(hello),
            events,
            state: Mutex::default(),
            waiting: Mutex::new(Some((peers, revoked))),
            sequence: AtomicU64::new(1),
            alarms: Mutex::default(),
        });
        let watching = shared.runtime.spawn(watch_dates(Arc::clone(&shared)));
        *locked(&shared.alarms) = Some(watching.abort_handle());
        Ok((Self(Arc::new(Owner(shared))), incoming))
    }

    /// Lets peers in and dials them. Once; later calls change nothing.
    pub fn begin(&self) {
        let shared = &self.0.0;
        let Some((peers, revoked)) = locked(&shared.waiting).take() else {
            return;
        };
        shared.runtime.spawn(dial::accept(Arc::clone(shared)));
        self.set_peers(peers, revoked);
    }

    /// Replaces the other nodes of the file and the list of revoked certificates. Links
    /// to nodes that are gone, and links proved by a certificate that is revoked now, are
    /// closed; their lease keys are the caller's to leave behind ([`crate::LeaseKeys::proof`]).
    pub fn set_peers(&self, peers: Vec<PeerAddress>, revoked: Vec<Fingerprint>) {
        Shared::set_peers(&self.0.0, peers, revoked);
    }

    /// What this daemon says of itself on connections made from now on.
    pub fn set_hello(&self, hello: Bytes) -> Result<(), StartError> {
        if hello.len() > HELLO_MAX {
            return Err(StartError::HelloTooLong(hello.len()));
        }
        *locked(&self.0.0.hello) = hello;
        Ok(())
    }

    /// Uses a renewed certificate of the same node on connections made from now on.
    pub fn set_identity(&self, identity: Identity) -> Result<(), StartError> {
        if identity.id() != self.0.0.own {
            return Err(StartError::OtherNode(identity.name().clone()));
        }
        let mut current = self
            .0
            .0
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = identity;
        Ok(())
    }

    /// Asks `to` and waits for its answer, at most for `deadline`.
    pub async fn request(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        stream::check_length(&body, BODY_MAX)?;
        let connection = locked(&self.0.0.state)
            .link(to)
            .map(|link| link.connection.clone())
            .ok_or(TransportError::NotConnected)?;
        match timeout(deadline, stream::ask(&connection, class, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(TransportError::Deadline(deadline)),
        }
    }

    /// Tells `to` something. Never waits: what has not gone out when a newer message of
    /// the same class comes is replaced by it, and the receiver drops what was overtaken.
    /// An error means that it will certainly not arrive; success promises nothing.
    pub fn send(&self, to: NodeId, class: Class, body: Bytes) -> Result<(), TransportError> {
        stream::check_length(&body, ONE_WAY_MAX)?;
        let shared = &self.0.0;
        let state = locked(&shared.state);
        let link = state.link(to).ok_or(TransportError::NotConnected)?;
        // Under the lock, so that the order of the numbers is the order in the outbox.
        let sequence = shared.sequence.fetch_add(1, Ordering::Relaxed);
        link.outbox.put(class, Outgoing { sequence, body });
        Ok(())
    }

    /// The smoothed round trip to a connected peer.
    pub fn rtt(&self, peer: NodeId) -> Option<Duration> {
        let connection = locked(&self.0.0.state).link(peer)?.connection.clone();
        Some(connection.rtt())
    }

    /// The peers that are connected.
    pub fn up(&self) -> Vec<NodeId> {
        let state = locked(&self.0.0.state);
        state
            .peers
            .iter()
            .filter(|(_, peer)| peer.link.is_some())
            .map(|(id, _)| *id)
            .collect()
    }

    /// Where the endpoint listens.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.0.quinn.local_addr()
    }

    /// Closes all links, tells the peers why, and waits until they can know it.
    pub async fn close(&self) {
        self.0.0.close();
        self.0.0.quinn.wait_idle().await;
    }
}

impl State {
    fn link(&self, peer: NodeId) -> Option<&Link> {
        self.peers.get(&peer)?.link.as_ref()
    }
}

impl Shared {
    pub(crate) fn id(&self) -> NodeId {
        self.own
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn hello(&self) -> Bytes {
        locked(&self.hello).clone()
    }

    pub(crate) fn server_config(&self, tls: QuicServerConfig) -> ServerConfig {
        server_config(&self.tuning, tls)
    }

    pub(crate) fn client_config(&self, tls: QuicClientConfig) -> ClientConfig {
        let mut config = ClientConfig::new(Arc::new(tls));
        let mut transport = transport_config(&self.tuning);
        transport.keep_alive_interval(Some(self.tuning.keep_alive));
        config.transport_config(Arc::new(transport));
        config
    }

    /// The peer whose address in the file this is: a hint for reports, proof of nothing.
    pub(crate) fn peer_at(&self, remote: SocketAddr) -> Option<NodeId> {
        let state = locked(&self.state);
        let is_there = |peer: &Peer| peer.target.borrow().peer.address == remote;
        state
            .peers
            .iter()
            .find(|(_, peer)| is_there(peer))
            .map(|(id, _)| *id)
    }

    pub(crate) fn refused(
        &self,
        peer: Option<NodeId>,
        remote: SocketAddr,
        by: RefusedBy,
        reason: String,
    ) {
        tracing::debug!(?peer, %remote, ?by, reason, "refused");
        self.events.push(PeerEvent::Refused {
            peer,
            remote,
            by,
            reason,
        });
    }

    /// Makes an admitted connection the link to its peer, or retires it.
    pub(crate) fn install(shared: &Arc<Self>, admitted: Admitted) {
        let id = admitted.presented.id();
        let mut state = locked(&shared.state);
        state.serial += 1;
        let serial = state.serial;
        let wanted = !state.closed && shared.is_permitted(&admitted);
        let Some(peer) = state.peers.get_mut(&id).filter(|_| wanted) else {
            admitted.connection.close(
                Close::Removed.code(),
                b"not a node of this cluster any more",
            );
            return;
        };
        let yields = peer
            .link
            .as_ref()
            .is_none_or(|old| old.yields_to(shared, &admitted));
        let serve = |serial| {
            let (newest, connection) = (Arc::clone(&peer.newest), admitted.connection.clone());
            let serving = link::serve(
                Arc::clone(shared),
                id,
                admitted.life,
                newest,
                connection,
                serial,
            );
            shared.runtime.spawn(serving);
        };
        if !yields {
            // The other side may have sent something on it already.
            serve(None);
            link::retire(shared, admitted.connection);
            return;
        }
        serve(Some(serial));
        let link = Link::new(&admitted, serial);
        shared.runtime.spawn(stream::drain(
            Arc::clone(&link.outbox),
            link.connection.clone(),
        ));
        if let Some(old) = peer.link.replace(link) {
            old.outbox.close();
            link::retire(shared, old.connection);
        }
        peer.target.send_modify(|target| target.linked = true);
        shared.announce(admitted);
    }

    /// Called under the lock of the state, so that events keep the order of what happened.
    fn announce(&self, admitted: Admitted) {
        let Admitted {
            connection,
            presented,
            keys,
            hello,
            ..
        } = admitted;
        let peer = presented.id();
        let rtt = connection.rtt();
        self.events.push(PeerEvent::Up {
            peer,
            keys,
            rtt,
            hello,
        });
        if let Some(days_left) = presented.validity.alarm(SystemTime::now()) {
            let whose = Alarmed::Node(peer);
            self.events
                .push(PeerEvent::CertificateAlarm { whose, days_left });
        }
    }

    /// The file may have changed while the handshake was under way.
    fn is_permitted(&self, admitted: &Admitted) -> bool {
        let directory = self
            .directory
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let ours = self.identity();
        tls::permit(
            &admitted.presented,
            ours.name(),
            &tls::Expected::Peer,
            &directory,
        )
        .is_ok()
    }

    /// A connection has ended: if it was the link, there is none now.
    pub(crate) fn lost(&self, peer: NodeId, serial: u64, reason: DownReason) {
        let mut state = locked(&self.state);
        let Some(entry) = state.peers.get_mut(&peer) else {
            return;
        };
        if entry
            .link
            .as_ref()
            .is_some_and(|link| link.serial == serial)
        {
            entry.drop_link();
            self.events.push(PeerEvent::Down { peer, reason });
        }
    }

    fn set_peers(shared: &Arc<Self>, peers: Vec<PeerAddress>, revoked: Vec<Fingerprint>) {
        let peers: BTreeMap<NodeId, PeerAddress> = peers
            .into_iter()
            .map(|peer| (NodeId::of(&peer.name), peer))
            .filter(|(id, _)| *id != shared.own)
            .collect();
        let names = peers
            .iter()
            .map(|(id, peer)| (*id, peer.name.clone()))
            .collect();
        let directory = Directory {
            names,
            revoked: revoked.into_iter().collect(),
        };
        let mut state = locked(&shared.state);
        if state.closed {
            return;
        }
        let gone: Vec<NodeId> = state
            .peers
            .keys()
            .filter(|id| !peers.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            if let Some(mut peer) = state.peers.remove(&id) {
                shared.cut(id, &mut peer, "not a node of this cluster any more");
            }
        }
        for (id, peer) in &mut state.peers {
            let link = peer.link.as_ref();
            if link.is_some_and(|link| directory.revoked.contains(&link.admitted.fingerprint)) {
                shared.cut(*id, peer, "the certificate has been revoked");
            }
        }
        // Before anybody is dialled, whose answer is judged by it.
        *shared
            .directory
            .write()
            .unwrap_or_else(PoisonError::into_inner) = directory;
        for (id, address) in peers {
            match state.peers.get(&id) {
                Some(peer) => peer.target.send_modify(|target| target.peer = address),
                None => {
                    state.peers.insert(id, Peer::new(shared, address));
                }
            }
        }
    }

    /// Ends the link to a peer for a reason that both sides hear.
    fn cut(&self, id: NodeId, peer: &mut Peer, why: &str) {
        if let Some(link) = peer.drop_link() {
            link.connection.close(Close::Removed.code(), why.as_bytes());
            let reason = DownReason::ClosedHere(why.to_owned());
            self.events.push(PeerEvent::Down { peer: id, reason });
        }
    }

    fn close(&self) {
        let mut state = locked(&self.state);
        state.closed = true;
        for peer in std::mem::take(&mut state.peers).into_values() {
            if let Some(link) = peer.link {
                link.outbox.close();
            }
        }
        drop(state);
        self.quinn
            .close(Close::Shutdown.code(), b"the node is stopping");
        if let Some(watching) = locked(&self.alarms).take() {
            watching.abort();
        }
        self.events.close();
        self.inbox.close();
    }
}

impl Peer {
    /// Starts dialling; it ends when this peer is dropped.
    fn new(shared: &Arc<Shared>, address: PeerAddress) -> Self {
        let (target, watched) = watch::channel(Target {
            peer: address,
            linked: false,
        });
        shared
            .runtime
            .spawn(dial::keep(Arc::clone(shared), watched));
        Self {
            target,
            link: None,
            newest: Arc::default(),
        }
    }

    fn drop_link(&mut self) -> Option<Link> {
        let link = self.link.take()?;
        link.outbox.close();
        self.target.send_modify(|target| target.linked = false);
        Some(link)
    }
}

/// What both sides of a connection share of the settings.
fn transport_config(tuning: &Tuning) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = u32::try_from(tuning.idle.as_millis()).unwrap_or(u32::MAX);
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .initial_rtt(tuning.initial_rtt)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(u64::from(RECEIVE_WINDOW))
        // Small messages gain nothing from longer packets, which some paths swallow.
        .mtu_discovery_config(None)
        .datagram_receive_buffer_size(None);
    config
}

fn server_config(tuning: &Tuning, tls: QuicServerConfig) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport_config(tuning)));
    config
}

/// Tells people of certificates that end soon, ours and the authority's first.
async fn watch_dates(shared: Arc<Shared>) {
    let mut told = BTreeMap::new();
    let mut clock = interval(ALARM_INTERVAL);
    loop {
        clock.tick().await;
        let now = SystemTime::now();
        let identity = shared.identity();
        let mut all = vec![
            (Alarmed::Node(identity.id()), identity.validity()),
            (Alarmed::Authority, identity.authority_validity()),
        ];
        for (id, peer) in &locked(&shared.state).peers {
            if let Some(link) = &peer.link {
                all.push((Alarmed::Node(*id), link.admitted.validity));
            }
        }
        for (whose, validity) in all {
            let Some(days_left) = validity.alarm(now) else {
                continue;
            };
            if told.insert(whose, days_left) != Some(days_left) {
                shared
                    .events
                    .push(PeerEvent::CertificateAlarm { whose, days_left });
            }
        }
    }
}
