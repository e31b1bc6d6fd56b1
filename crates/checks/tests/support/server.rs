//! Servers that do what they are told, right or wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server that treats every connection the same way.
pub struct Server {
    pub at: SocketAddr,
    pub accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start<F>(treat: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        Self::on(listener, treat)
    }

    /// The same on a listener that is there already.
    pub fn on<F>(listener: TcpListener, treat: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let at = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(treat(stream));
            }
        });
        Self { at, accepted, task }
    }

    /// Reads the request, says `text`, then closes.
    pub async fn saying(text: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(text.as_bytes()).await;
        })
        .await
    }

    /// The same at this address.
    pub async fn saying_at(at: SocketAddr, text: &'static str) -> Self {
        let listener = TcpListener::bind(at).await.expect("a free port");
        Self::on(listener, move |mut stream| async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(text.as_bytes()).await;
        })
    }

    /// Says `text` without a question, then closes.
    pub async fn saying_once(text: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            let _ = stream.write_all(text.as_bytes()).await;
        })
        .await
    }

    /// Says `more` without a question until nobody listens any more.
    pub async fn saying_for_ever_at_once(more: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            while stream.write_all(more.as_bytes()).await.is_ok() {}
        })
        .await
    }

    /// Reads the request, says `text`, then `more` until nobody listens any more.
    pub async fn saying_for_ever(text: &'static str, more: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(text.as_bytes()).await;
            while stream.write_all(more.as_bytes()).await.is_ok() {}
        })
        .await
    }
}

pub async fn read_request(stream: &mut TcpStream) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await;
}

pub async fn hold(stream: TcpStream) {
    let _stream = stream;
    std::future::pending().await
}
