//! The client's side of FleetLock: how a node asks for its reboot. Agents have no rights in the
//! cluster, so their manager asks a server of the site; servers ask themselves the same way.
//!
//! One call is one round through the servers until one of them answers; what it answers counts.
//! How often a node asks, and when it gives up, is [`super::reboot`]'s. Fails with a [`Refusal`]:
//! `api_unavailable` when no server answers. On the network it goes by HTTPS
//! ([`super::outside`]).

use super::fleetlock::{Body, ClientParams, Key, PROTOCOL_HEADER, Problem};
use super::outside::Server;
use super::refusal::{Kind, Refusal};
use bytes::Bytes;
use holdfast_api::chain;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// How long one server may take; it waits two seconds for a quick drain itself.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Longest answer that is read.
const ANSWER_LIMIT: usize = 64 * 1024;

/// One of FleetLock's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// May I reboot?
    PreReboot,
    /// I am back.
    SteadyState,
}

impl Call {
    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Call::PreReboot => "/v1/pre-reboot",
            Call::SteadyState => "/v1/steady-state",
        }
    }
}

/// Why a server could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{server} does not answer: {said}")]
pub struct NoAnswer {
    /// The server.
    pub server: String,
    /// What went wrong.
    pub said: String,
}

/// Carries a request to one server and its answer back.
pub trait Transport: Send + Sync {
    /// Sends `body` to `path`; status and body of the answer.
    fn post(
        &self,
        path: &str,
        body: Bytes,
    ) -> impl Future<Output = Result<(u16, Bytes), NoAnswer>> + Send;
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The manager on this machine.
    Unix(PathBuf),
    /// The manager of a server of the site.
    Tcp(Server),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp(server) => server.address.fmt(f),
        }
    }
}

/// HTTP/1.1, one connection per request.
#[derive(Debug, Clone)]
pub struct Http {
    /// The server.
    pub address: Address,
    /// The key of the site; needed on a network address.
    pub key: Option<Key>,
}

impl Http {
    async fn exchange(&self, path: &str, body: Bytes) -> Result<(u16, Bytes), String> {
        match &self.address {
            Address::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|e| e.to_string())?;
                self.over(stream, path, body).await
            }
            Address::Tcp(server) => {
                let stream = server.connect().await.map_err(|e| e.to_string())?;
                self.over(stream, path, body).await
            }
        }
    }

    async fn over<S>(&self, stream: S, path: &str, body: Bytes) -> Result<(u16, Bytes), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| chain(&error))?;
        let connection = tokio::spawn(connection);
        let mut request = Request::post(path)
            .header(header::HOST, "holdfast")
            .header(header::CONTENT_TYPE, "application/json")
            .header(PROTOCOL_HEADER, "true");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", key.text()));
        }
        let request = request.body(Full::new(body)).map_err(|error| chain(&error))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, body))
        }
        .await;
        connection.abort();
        answer
    }
}

impl Transport for Http {
    async fn post(&self, path: &str, body: Bytes) -> Result<(u16, Bytes), NoAnswer> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.exchange(path, body)).await;
        let late = || Err(format!("nothing within {} s", ANSWER_WITHIN.as_secs()));
        answer
            .unwrap_or_else(|_| late())
            .map_err(|said| NoAnswer { server: self.address.to_string(), said })
    }
}

/// A node that asks.
#[derive(Debug, Clone)]
pub struct Client<T> {
    id: String,
    group: String,
    servers: Vec<T>,
}

impl<T: Transport> Client<T> {
    /// The node `id` of `group`; `servers` are asked in this order.
    pub fn new(id: &str, group: &str, servers: Vec<T>) -> Self {
        Client { id: id.into(), group: group.into(), servers }
    }

    /// Asks once; a server that does not answer, or cannot reach its API server, is passed over.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn ask(&self, call: Call) -> Result<(), Refusal> {
        let who = ClientParams { id: self.id.clone(), group: self.group.clone() };
        let body = serde_json::to_vec(&Body { client_params: who }).unwrap_or_default();
        let body = Bytes::from(body);
        let mut last = Refusal::new(Kind::Unavailable, "the node knows no server of its site");
        for server in &self.servers {
            match server.post(call.path(), body.clone()).await {
                Ok((status, body)) => match read(status, &body) {
                    Err(refusal) if refusal.kind == Kind::Unavailable => last = refusal,
                    answer => return answer,
                },
                Err(error) => last = Refusal::new(Kind::Unavailable, error.to_string()),
            }
        }
        Err(last)
    }
}

/// Reads an answer; a word that we do not know (another implementation's, or a newer one's) is
/// one after which it is asked again.
fn read(status: u16, body: &[u8]) -> Result<(), Refusal> {
    if status == StatusCode::OK.as_u16() {
        return Ok(());
    }
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        let message = format!("the server answers {status} without a reason");
        return Err(Refusal::new(Kind::Unavailable, message));
    };
    let kind = Kind::from_code(&problem.kind).unwrap_or(match status {
        409 | 423 => Kind::Locked,
        _ => Kind::Unavailable,
    });
    let message = match problem.value.is_empty() {
        true => format!("the server answers {status}"),
        false => problem.value,
    };
    Err(Refusal::new(kind, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Mutex;

    /// Answers in turn; nothing when none are left.
    struct Script(Mutex<VecDeque<(u16, String)>>, Mutex<Vec<String>>);

    impl Script {
        fn new(answers: &[(u16, &str)]) -> Self {
            let answers = answers.iter().map(|(status, text)| (*status, (*text).to_owned()));
            Script(Mutex::new(answers.collect()), Mutex::default())
        }
    }

    impl Transport for &Script {
        async fn post(&self, path: &str, body: Bytes) -> Result<(u16, Bytes), NoAnswer> {
            let said = format!("{path} {}", String::from_utf8_lossy(&body));
            self.1.lock().unwrap().push(said);
            match self.0.lock().unwrap().pop_front() {
                Some((status, text)) => Ok((status, Bytes::from(text))),
                None => Err(NoAnswer { server: "s".into(), said: "refused".into() }),
            }
        }
    }

    #[tokio::test]
    async fn the_first_server_that_answers_counts() {
        let (away, cut_off) =
            (Script::new(&[]), Script::new(&[(503, r#"{"kind":"api_unavailable","value":"x"}"#)]));
        let good = Script::new(&[(200, "")]);
        let unasked = Script::new(&[]);
        let client = Client::new("n1", "default", vec![&away, &cut_off, &good, &unasked]);
        client.ask(Call::PreReboot).await.unwrap();
        assert_eq!(
            *good.1.lock().unwrap(),
            [r#"/v1/pre-reboot {"client_params":{"id":"n1","group":"default"}}"#]
        );
        assert!(unasked.1.lock().unwrap().is_empty());
        let refusal = client.ask(Call::SteadyState).await.unwrap_err();
        assert_eq!(refusal.to_string(), "s does not answer: refused");
        assert!(refusal.retryable());
    }

    #[tokio::test]
    async fn a_refusal_is_not_asked_of_the_next_server() {
        let locked =
            Script::new(&[(409, r#"{"kind":"failed_lock_semaphore_full","value":"n2 has it"}"#)]);
        let other = Script::new(&[(200, "")]);
        let client = Client::new("n1", "default", vec![&locked, &other]);
        let refusal = client.ask(Call::PreReboot).await.unwrap_err();
        assert_eq!(refusal, Refusal::new(Kind::Locked, "n2 has it"));
        assert!(other.1.lock().unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn only_200_is_a_grant(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let answer = read(status, &body);
            prop_assert_eq!(answer.is_ok(), status == 200);
            if let Err(refusal) = answer {
                prop_assert!(!refusal.message.is_empty());
            }
        }

        #[test]
        fn every_refusal_of_ours_is_read_back(kind in prop::sample::select(Kind::ALL), value in ".{1,20}") {
            let body = serde_json::to_vec(&Problem { kind: kind.code().into(), value: value.clone() }).unwrap();
            prop_assert_eq!(read(kind.status(), &body), Err(Refusal::new(kind, value)));
        }
    }
}
