//! Listening, connections and an orderly end.
//!
//! Written on hyper's HTTP/1 connection rather than `axum::serve`, which has no time limit for a
//! request's head. Bounds here: connections, time for a head, time for a client to read.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use milpa_base::{StopFlag, TextModel};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    chat::ChatFormat,
    config::{ServeConfig, ServeError},
    connection::{First, StallingStream, first},
    routes::{App, router},
};

/// Largest request head in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long generations that were broken off may take to notice.
const CANCEL_GRACE: Duration = Duration::from_secs(3);

/// A server that listens and has not yet begun to answer.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
}

impl Server {
    /// Checks the configuration and takes the address.
    ///
    /// # Errors
    /// What [`ServeConfig::validate`] refuses, before anything is opened, and an address that
    /// cannot be listened on.
    pub fn bind(
        config: ServeConfig,
        model: Arc<dyn TextModel>,
        format: ChatFormat,
    ) -> Result<Self, ServeError> {
        config.validate()?;
        let bind = config.bind;
        let bind_error = |source| ServeError::Bind { bind, source };
        let listener = TcpListener::bind(bind).map_err(bind_error)?;
        listener.set_nonblocking(true).map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        Ok(Self { listener, address, app: Arc::new(App::new(config, model, format)) })
    }

    /// The address listened on, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where this machine reaches the server, without a slash at the end; the chat page is there.
    pub fn url(&self) -> String {
        match self.address.ip() {
            ip if ip.is_unspecified() => format!("http://127.0.0.1:{}", self.address.port()),
            _ => format!("http://{}", self.address),
        }
    }

    /// Answers until `shutdown` is ready, then lets running requests finish for
    /// [`ServeConfig::shutdown_grace`] and breaks off the rest. Needs a Tokio run time with
    /// timers and input/output.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let bind = self.address;
        let listener = tokio::net::TcpListener::from_std(self.listener)
            .map_err(|source| ServeError::Bind { bind, source })?;
        let config = &self.app.config;
        let acceptor = Acceptor {
            router: router(self.app.clone()),
            places: Arc::new(Semaphore::new(config.max_connections)),
            header_timeout: config.header_timeout,
            stall_timeout: config.stall_timeout,
        };
        let (closing, is_closing) = watch::channel(false);
        let mut connections = JoinSet::new();
        {
            let mut shutdown = pin!(shutdown);
            loop {
                let accepting = pin!(acceptor.accept(&listener));
                match first(shutdown.as_mut(), accepting).await {
                    First::Left(()) => break,
                    First::Right((stream, place)) => {
                        connections.spawn(acceptor.serve(stream, place, is_closing.clone()));
                    }
                }
                while connections.try_join_next().is_some() {}
            }
        }
        drop(listener);
        closing.send_replace(true);
        if timeout(config.shutdown_grace, join_all(&mut connections)).await.is_err() {
            self.app.engine.stop();
            let _ = timeout(CANCEL_GRACE, join_all(&mut connections)).await;
            connections.abort_all();
        }
        self.app.engine.stop();
        Ok(())
    }

    /// Answers on threads of its own until `stop` is set; returns after the orderly end.
    pub fn run_blocking(self, stop: &StopFlag) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_io()
            .enable_time()
            .thread_name("milpa-serve")
            .build()
            .map_err(ServeError::Runtime)?;
        let outcome = runtime.block_on(self.run(async {
            while !stop.is_set() {
                sleep(Duration::from_millis(50)).await;
            }
        }));
        runtime.shutdown_timeout(CANCEL_GRACE);
        outcome
    }
}

async fn join_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

struct Acceptor {
    router: Router,
    places: Arc<Semaphore>,
    header_timeout: Duration,
    stall_timeout: Duration,
}

impl Acceptor {
    /// Waits for a free place and a connection.
    async fn accept(
        &self,
        listener: &tokio::net::TcpListener,
    ) -> (TcpStream, OwnedSemaphorePermit) {
        let place =
            self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, place),
                // The client left before it was accepted.
                Err(error) if is_connection_error(&error) => {}
                // Out of file descriptors or memory: others may free some.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// The future that serves one connection until it ends or the server closes.
    fn serve(
        &self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        mut is_closing: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(
                TokioIo::new(StallingStream::new(stream, self.stall_timeout)),
                TowerToHyperService::new(self.router.clone()),
            );
        async move {
            let _place = place;
            let mut connection = pin!(connection);
            let closed = pin!(async { is_closing.wait_for(|closing| *closing).await.is_ok() });
            let is_open = matches!(first(connection.as_mut(), closed).await, First::Right(_));
            if is_open {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
