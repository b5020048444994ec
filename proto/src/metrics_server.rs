//! The address at which a process shows its metrics: a few connections at once, each for one request
//! and a short time.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::gauge;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::guests::{Guest, Guests};
use crate::listen::Listen;
use crate::observe::ObserveError;

crate::metric_names! {
    gauge BUILD_INFO = "ashlar_build_info": "1, with the version of the program as a label";
}

/// Connections at once.
const CONNECTIONS: usize = 32;
/// From a connection to the end of its answer.
const WHOLE: Duration = Duration::from_secs(10);
/// How often histograms are brought up to date.
const UPKEEP: Duration = Duration::from_secs(5);

/// Seconds, as histogram bounds: from 10 us, a cached metadata operation, to the 10 s that no wait
/// may exceed.
const BUCKETS: [f64; 19] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// As Prometheus reads them.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// Those of this process, once it counts.
static METRICS: OnceLock<Metrics> = OnceLock::new();

/// Begins to count, unless this process does. Must be called within a tokio runtime.
///
/// # Errors
/// When something else counts already.
pub fn count() -> Result<Metrics, ObserveError> {
    if let Some(metrics) = METRICS.get() {
        return Ok(metrics.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|e| ObserveError::Count { why: e.to_string() })?;
    describe();
    crate::tls::describe();
    gauge!(BUILD_INFO, "version" => crate::VERSION).set(1.0);
    let upkept = recorder.clone();
    tokio::spawn(async move {
        let mut upkeep = tokio::time::interval(UPKEEP);
        loop {
            upkeep.tick().await;
            upkept.run_upkeep();
        }
    });
    Ok(METRICS.get_or_init(|| Metrics(recorder)).clone())
}

/// Serves Prometheus metrics of this process at `http://ADDRESS/metrics`. Must be called within a
/// tokio runtime.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve_metrics(address: &Listen) -> Result<(), ObserveError> {
    let failed = |why: String| ObserveError::Metrics { address: address.clone(), why };
    let bound = std::net::TcpListener::bind(address.addresses());
    let listener = bound.map_err(|e| failed(e.to_string()))?;
    listener.set_nonblocking(true).map_err(|e| failed(e.to_string()))?;
    let listener = TcpListener::from_std(listener).map_err(|e| failed(e.to_string()))?;
    tokio::spawn(accept(listener, count()?));
    Ok(())
}

async fn accept(listener: TcpListener, metrics: Metrics) {
    let guests = Guests::new(CONNECTIONS);
    loop {
        let (stream, guest) = guests.accept(&listener).await;
        tokio::spawn(attend(TokioIo::new(stream), Arc::new(guest), metrics.clone()));
    }
}

async fn attend(stream: TokioIo<tokio::net::TcpStream>, guest: Arc<Guest>, metrics: Metrics) {
    let answer = |request: Request<Incoming>| {
        let under_way = guest.begin();
        let answer = answer(&request, &metrics);
        async move {
            drop(under_way);
            Ok::<_, Infallible>(answer)
        }
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(WHOLE)
        .keep_alive(false)
        .serve_connection(stream, service_fn(answer));
    tokio::select! {
        // Whatever went wrong, the connection is closed.
        _ = timeout(WHOLE, serving) => {}
        () = guest.leave() => {}
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, body) = match request.uri().path() {
        "/metrics" | "/" => (StatusCode::OK, metrics.render()),
        _ => (StatusCode::NOT_FOUND, "see /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
