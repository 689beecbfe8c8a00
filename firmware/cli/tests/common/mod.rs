//! A manager to talk to: the real API on a real socket, with answers that a test sets.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod pty;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_api::token::{CaFingerprint, Envelope, TokenId, TokenSecret};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a condition may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) status: Value,
    pub(crate) plan: Value,
    pub(crate) health: Value,
    pub(crate) refuse_token: Option<Problem>,
    /// What was put to `/v1/token`.
    pub(crate) tokens: Vec<Value>,
    /// Kubernetes as it is; a problem is answered where there is none.
    pub(crate) kubernetes: Value,
    /// What it becomes after something was begun: one state per look, the last one stays.
    pub(crate) then: VecDeque<Value>,
    /// What was posted below `/v1/kubernetes`: path and body.
    pub(crate) posted: Vec<(String, Value)>,
    pub(crate) refuse_post: Option<Problem>,
    /// What the site's storage has; a refusal where it is none.
    pub(crate) stored: Value,
}

/// A root directory with a manager's socket in it.
pub(crate) struct FakeManager {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) answers: Arc<Mutex<Answers>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakeManager {
    /// A root without a manager.
    pub(crate) fn away() -> Self {
        let answers = Answers { status: data("status-online.json"), ..Answers::default() };
        let dir = tempfile::tempdir().unwrap();
        FakeManager { dir, answers: Arc::new(Mutex::new(answers)), runtime: None }
    }

    pub(crate) fn with(status: &str) -> Self {
        let mut manager = FakeManager::away();
        manager.set(|answers| answers.status = data(&format!("status-{status}.json")));
        manager.start();
        manager
    }

    pub(crate) fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let socket = self.dir.path().join("run/holdfast/holdfastd.sock");
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(socket).unwrap() });
        let router =
            Router::new()
                .route(
                    "/v1/status",
                    get(|State(a): Shared| async move { Json(a.lock().unwrap().status.clone()) }),
                )
                .route(
                    "/v1/plan",
                    get(|State(a): Shared| async move { Json(a.lock().unwrap().plan.clone()) }),
                )
                .route(
                    "/v1/health",
                    get(|State(a): Shared| async move { Json(a.lock().unwrap().health.clone()) }),
                )
                .route(
                    "/v1/tunnels",
                    get(|State(a): Shared| async move {
                        Json(a.lock().unwrap().status["tunnels"].clone())
                    }),
                )
                .route("/v1/token", put(put_token))
                .route("/v1/kubernetes", get(kubernetes))
                .route("/v1/kubernetes/{what}", post(post_kubernetes).get(get_stored))
                .with_state(self.answers.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.runtime = Some(runtime);
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
    }

    pub(crate) fn tokens(&self) -> Vec<Value> {
        self.answers.lock().unwrap().tokens.clone()
    }

    pub(crate) fn posted(&self) -> Vec<(String, Value)> {
        self.answers.lock().unwrap().posted.clone()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command(self.dir.path(), args)
    }

    /// Runs the command with `input` on standard input.
    pub(crate) fn run(&self, args: &[&str], input: &str) -> Output {
        run(self.command(args), input)
    }
}

pub(crate) fn command(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--root").arg(root).args(args).env_remove("HOLDFAST_LOG");
    command
}

pub(crate) fn run(mut command: Command, input: &str) -> Output {
    use std::io::Write;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that never reads its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub(crate) fn data(name: &str) -> Value {
    serde_json::from_str(&text(name)).unwrap()
}

pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

pub(crate) fn token() -> Envelope {
    Envelope {
        tenant: "acme".into(),
        ca: CaFingerprint([7; 16]),
        id: TokenId([1; 5]),
        secret: TokenSecret::new([2; 10]),
    }
}

/// Polls until `done` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, done: impl FnMut() -> bool) {
    holdfast_poll::holds(what, DEADLINE, done);
}

type Shared = State<Arc<Mutex<Answers>>>;

/// Takes a token as the manager does: the node is registering from then on.
async fn put_token(State(answers): Shared, Json(input): Json<Value>) -> Response {
    let mut answers = answers.lock().unwrap();
    answers.tokens.push(input);
    if let Some(problem) = &answers.refuse_token {
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(problem.clone())).into_response();
    }
    answers.status["stage"] = json!("Registering");
    answers.status["reason"] = Value::Null;
    StatusCode::NO_CONTENT.into_response()
}

/// After something was begun, each look finds Kubernetes one state further.
async fn kubernetes(State(answers): Shared) -> Response {
    let mut answers = answers.lock().unwrap();
    if !answers.posted.is_empty()
        && let Some(next) = answers.then.pop_front()
    {
        answers.kubernetes = next;
    }
    match &answers.kubernetes {
        Value::Null => {
            let problem = Problem::new(Reason::KubernetesAbsent, "nobody asks for it");
            (StatusCode::NOT_FOUND, Json(problem)).into_response()
        }
        state => Json(state.clone()).into_response(),
    }
}

async fn get_stored(State(answers): Shared) -> Response {
    match &answers.lock().unwrap().stored {
        Value::Null => {
            let problem = Problem::new(Reason::SnapshotUpload, "the site has none");
            (StatusCode::CONFLICT, Json(problem)).into_response()
        }
        stored => Json(stored.clone()).into_response(),
    }
}

async fn post_kubernetes(State(answers): Shared, uri: Uri, body: Bytes) -> Response {
    let mut answers = answers.lock().unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    answers.posted.push((uri.path().to_owned(), body));
    if let Some(problem) = &answers.refuse_post {
        return (StatusCode::CONFLICT, Json(problem.clone())).into_response();
    }
    match uri.path() {
        "/v1/kubernetes/plan" => Json(answers.plan.clone()).into_response(),
        _ => StatusCode::ACCEPTED.into_response(),
    }
}
