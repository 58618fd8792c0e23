//! The routes and the asking of cores.
//!
//! One question at a time goes to each core ([`Asker`] is behind an async mutex): answers are
//! cheap, and a scraper that opens many connections must not multiply work on the cores.

use super::{ANSWER_MAX, Parts, Question};
use crate::metrics::{Snapshot, text};
use crate::status::{self, CoreReport, Identity, Phase, PhaseCell, Status};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Mutex, oneshot};

struct Asker {
    cores: Vec<ioring::Outbox<Question>>,
}

/// The cores' reports, and the numbers of the cores that did not answer in time.
struct Answers {
    reports: Vec<CoreReport>,
    silent: Vec<usize>,
}

#[derive(Clone)]
struct Shared {
    identity: Arc<OnceLock<Identity>>,
    phase: PhaseCell,
    asker: Arc<Mutex<Asker>>,
}

/// Serves until told to stop.
pub(super) fn run(listener: std::net::TcpListener, parts: Parts, stop: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the control plane cannot start");
            return;
        }
    };
    let result = runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let serve = axum::serve(listener, router(parts)).with_graceful_shutdown(async move {
            // A dropped sender means the same as a sent word.
            let _ = stop.await;
        });
        serve.await
    });
    if let Err(error) = result {
        tracing::error!(%error, "the control plane stopped");
    }
}

fn router(parts: Parts) -> Router {
    let shared = Shared {
        identity: parts.identity,
        phase: parts.phase,
        asker: Arc::new(Mutex::new(Asker { cores: parts.cores })),
    };
    tokio::spawn(pass_signals(shared.asker.clone()));
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(node_status))
        .route("/scrub", post(scrub))
        .with_state(shared)
}

impl Asker {
    /// Asks every core, then waits for all answers together.
    async fn ask(&mut self) -> Answers {
        let mut pending = Vec::with_capacity(self.cores.len());
        for core in &mut self.cores {
            let (answer, answered) = oneshot::channel();
            let sent = core.try_send(Question::Report(answer)).is_ok();
            pending.push(sent.then_some(answered));
        }
        let mut answers = Answers { reports: Vec::new(), silent: Vec::new() };
        let deadline = tokio::time::Instant::now() + ANSWER_MAX;
        for (core, answered) in pending.into_iter().enumerate() {
            let report = match answered {
                Some(answered) => tokio::time::timeout_at(deadline, answered).await.ok(),
                None => None,
            };
            match report {
                Some(Ok(report)) => answers.reports.push(report),
                Some(Err(_)) | None => answers.silent.push(core),
            }
        }
        answers
    }
}

async fn live(State(shared): State<Shared>) -> Response {
    // Before it serves and while it stops a node is busy with one long task: alive, not stuck.
    if shared.phase.get() != Phase::Serving {
        return "live\n".into_response();
    }
    let silent = shared.asker.lock().await.ask().await.silent;
    if silent.is_empty() {
        return "live\n".into_response();
    }
    let text = format!("cores that did not answer within {ANSWER_MAX:?}: {silent:?}\n");
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.phase.get() {
        Phase::Serving => "ready\n".into_response(),
        Phase::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading\n").into_response(),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let answers = shared.asker.lock().await.ask().await;
    let mut sum = Snapshot::default();
    for report in &answers.reports {
        sum.merge(&report.metrics);
    }
    let gauges = status::gauges(shared.phase.get(), &answers.reports);
    let body = text::write(&sum, &gauges);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], body).into_response()
}

async fn node_status(State(shared): State<Shared>) -> Response {
    let answers = shared.asker.lock().await.ask().await;
    let Some(identity) = shared.identity.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "opening the data directory\n").into_response();
    };
    let status = Status::new(identity, shared.phase.get(), &answers.reports);
    ([(header::CONTENT_TYPE, "application/json")], status.to_json()).into_response()
}

async fn scrub(State(shared): State<Shared>) -> Response {
    if shared.phase.get() != Phase::Serving {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node does not serve\n").into_response();
    }
    let mut asker = shared.asker.lock().await;
    // All of them, also when one has too many questions waiting.
    let told = asker.cores.iter_mut().filter_map(|core| core.try_send(Question::Scrub).ok());
    if told.count() < asker.cores.len() {
        return (StatusCode::SERVICE_UNAVAILABLE, "a core does not answer\n").into_response();
    }
    (StatusCode::ACCEPTED, "a scrub of every shard has begun; see /status\n").into_response()
}

/// Passes on what the operating system asks of the process.
async fn pass_signals(asker: Arc<Mutex<Asker>>) {
    use tokio::signal::unix::{SignalKind, signal};
    let streams = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = streams.map(signal) else {
        tracing::error!("signals cannot be received: the process can only be killed");
        return;
    };
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: logs go to standard error, there is nothing to reopen");
                continue;
            }
        };
        tracing::info!(signal = name, "told to stop");
        // A core that has ended already needs no telling.
        let _ = asker.lock().await.cores[0].try_send(Question::Stop);
    }
}
