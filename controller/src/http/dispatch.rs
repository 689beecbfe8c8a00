//! The way from a request to its answer.

use super::authorize::{Verb, authorize};
use super::body::{self, Answer};
use super::caller::{Caller, Identity};
use super::form::Strictness;
use super::negotiate::{self, Query, View};
use super::read::Selection;
use super::watch::Guard;
use super::write::{Writing, Written};
use super::{ApiError, Route, Target, discovery, openapi, read, watch};
use crate::Clock;
use crate::fleet::Fleet;
use crate::store::{Key, Store};
use crate::trust::{Operators, TlsIdentity};
use holdfast_api::Reason;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, IF_NONE_MATCH, WARNING,
};
use hyper::{Method, Request};
use std::sync::Arc;
use tokio::sync::watch as signal;

/// What answering takes.
pub(super) struct App {
    pub(super) store: Store,
    pub(super) fleet: Arc<Fleet>,
    pub(super) operators: Operators,
    pub(super) clock: Clock,
    pub(super) shutdown: signal::Receiver<bool>,
}

pub(super) async fn respond(
    app: &Arc<App>,
    tls: &TlsIdentity,
    request: Request<Incoming>,
) -> Answer {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let answer = match handle(app, tls, request).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%method, path, code = error.code(), %error, "refused");
            body::failure(&error)
        }
    };
    tracing::trace!(%method, path, code = answer.status().as_u16(), "answered");
    answer
}

fn header(request: &Request<Incoming>, name: HeaderName) -> Option<String> {
    request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

async fn handle(
    app: &Arc<App>,
    tls: &TlsIdentity,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let now = (app.clock)();
    let authorization = header(&request, AUTHORIZATION);
    let caller = Caller::resolve(tls, authorization.as_deref(), &app.store, &app.operators, now)?;
    let route = Route::parse(request.uri().path());
    if let Route::Objects(target) = route {
        return objects(app, tls, caller, target, request).await;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return match route {
            Route::Unknown => Err(ApiError::no_such_path()),
            _ => Err(ApiError::method_not_allowed(request.method().as_str())),
        };
    }
    let accept = header(&request, ACCEPT);
    let document = match route {
        Route::Health => return Ok(body::answer(200, "text/plain", "ok")),
        Route::Version => discovery::version(),
        Route::CoreVersions => discovery::core_versions(),
        Route::CoreResources => discovery::core_resources(),
        Route::Namespaces(name) => return namespaces(app, &caller, name, accept.as_deref()),
        Route::Groups => discovery::groups(),
        Route::Group => discovery::group(),
        Route::Resources => discovery::resources(),
        Route::OpenApiV2 => return Ok(openapi::v2_answer(accept.as_deref())),
        Route::OpenApiV3Index => openapi::v3_index(),
        Route::OpenApiV3 => openapi::v3(),
        Route::Objects(_) | Route::Unknown => return Err(ApiError::no_such_path()),
    };
    Ok(body::json_value(200, &document))
}

fn namespaces(
    app: &App,
    caller: &Caller,
    name: Option<String>,
    accept: Option<&str>,
) -> Result<Answer, ApiError> {
    let Identity::Operator(operator) = &caller.identity else {
        return Err(ApiError::forbidden(format!(
            "{} may not see namespaces",
            caller.identity.name()
        )));
    };
    if let Some(name) = name {
        if operator.tenant.as_ref().is_some_and(|tenant| *tenant != name) {
            return Err(ApiError::forbidden(format!("namespace {name:?} is not yours")));
        }
        return Ok(body::json_value(200, &discovery::namespace(&name)));
    }
    let (names, version) = app.store.read(|state, version| {
        let names = match &operator.tenant {
            Some(tenant) => vec![tenant.clone()],
            None => state.namespaces().into_iter().map(str::to_owned).collect::<Vec<_>>(),
        };
        (names, version)
    });
    let table = negotiate::view(accept)? == View::Table;
    Ok(body::json_value(200, &discovery::namespaces(&names, version, table)))
}

fn verb_of(method: &Method, target: &Target, query: &Query) -> Result<Verb, ApiError> {
    Ok(match (method.as_str(), &target.name) {
        ("GET" | "HEAD", None) if query.flag("watch") => Verb::Watch,
        ("GET" | "HEAD", None) => Verb::List,
        ("GET" | "HEAD", Some(_)) => Verb::Get,
        ("POST", None) => Verb::Create,
        ("PUT", Some(_)) => Verb::Update,
        ("PATCH", Some(_)) => Verb::Patch,
        ("DELETE", Some(_)) if !target.status => Verb::Delete,
        ("DELETE", None) => Verb::DeleteCollection,
        (other, _) => return Err(ApiError::method_not_allowed(other)),
    })
}

async fn objects(
    app: &Arc<App>,
    tls: &TlsIdentity,
    caller: Caller,
    target: Target,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let query = Query::parse(request.uri().query());
    let verb = verb_of(request.method(), &target, &query)?;
    heard(app, &caller.identity);
    let sight = authorize(&caller, verb, &target).map_err(|_| denied(&caller, verb, &target))?;
    // Objects of a kind with namespaces are made in one.
    if matches!(verb, Verb::Create) && target.kind.namespaced() && target.namespace.is_none() {
        return Err(ApiError::bad_request("a namespace is required here"));
    }
    let accept = header(&request, ACCEPT);
    let view = negotiate::view(accept.as_deref())?;
    let namespace = target.namespace.clone().unwrap_or_default();
    match verb {
        Verb::Get => {
            let key = Key::new(target.kind, &namespace, target.name.as_deref().unwrap_or_default());
            let known = header(&request, IF_NONE_MATCH);
            return read::get(&app.store, &key, &sight, view, known.as_deref());
        }
        Verb::List => {
            let selection = Selection::new(&target, sight, &query)?;
            return read::list(&app.store, &selection, &query, view);
        }
        Verb::Watch => {
            let selection = Selection::new(&target, sight, &query)?;
            let authorization = header(&request, AUTHORIZATION);
            let guard = WatchGuard {
                app: app.clone(),
                tls: tls.clone(),
                authorization,
                was: caller.identity,
            };
            let (revoked, shutdown) = (app.fleet.revoked.subscribe(), app.shutdown.clone());
            return watch::watch(&app.store, selection, &query, view, guard, revoked, shutdown);
        }
        Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection => {}
    }
    let media = header(&request, CONTENT_TYPE).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_owned();
    let writing = Writing {
        store: app.store.clone(),
        fleet: app.fleet.clone(),
        strictness: Strictness::of(&query, &caller)?,
        dry_run: match query.text("dryRun") {
            "" => false,
            "All" => true,
            other => return Err(ApiError::bad_request(format!("dryRun: {other:?} is not known"))),
        },
        manager: query.text("fieldManager").to_owned(),
        force: query.flag("force"),
        caller,
        target,
        sight,
    };
    let bytes = body::read(request.into_body()).await?;
    let written = match verb {
        Verb::Create => writing.create(&bytes, &media).await?,
        Verb::Update => writing.update(&bytes, &media).await?,
        Verb::Patch => writing.patch(&bytes, &media).await?,
        Verb::Delete => writing.delete(&bytes).await?,
        Verb::DeleteCollection => writing.delete_collection(&query).await?,
        Verb::Get | Verb::List | Verb::Watch => return Err(ApiError::no_such_path()),
    };
    Ok(written_answer(&written))
}

fn written_answer(written: &Written) -> Answer {
    let mut answer = body::json_value(written.code, &written.object);
    for warning in &written.warnings {
        let text: String = warning.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            answer.headers_mut().append(WARNING, value);
        }
    }
    answer
}

fn denied(caller: &Caller, verb: Verb, target: &Target) -> ApiError {
    if caller.identity == Identity::Anonymous && caller.credential.is_none() {
        return ApiError::unauthorized();
    }
    let place = match (&target.namespace, target.kind.namespaced()) {
        (Some(namespace), _) => format!("in the namespace {namespace:?}"),
        (None, true) => "in all namespaces".into(),
        (None, false) => "at the cluster scope".into(),
    };
    let name = target.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
    let error = ApiError::forbidden(format!(
        "{}{name} is forbidden: {:?} cannot {} resource {:?} {place}",
        target.kind.plural(),
        caller.identity.name(),
        verb.word(),
        target.kind.plural(),
    ));
    if caller.retired { error.because(Reason::RegistrationRetired) } else { error }
}

fn heard(app: &App, identity: &Identity) {
    if let Identity::Node { tenant, node, .. } = identity {
        app.fleet.presence.heard(tenant, node, (app.clock)());
    }
}

/// Looks at the credentials again whenever a watch wakes: they may have been taken back.
struct WatchGuard {
    app: Arc<App>,
    tls: TlsIdentity,
    authorization: Option<String>,
    was: Identity,
}

impl Guard for WatchGuard {
    fn goes_on(&mut self) -> bool {
        heard(&self.app, &self.was);
        let (store, operators) = (&self.app.store, &self.app.operators);
        let now = (self.app.clock)();
        let is = Caller::resolve(&self.tls, self.authorization.as_deref(), store, operators, now);
        is.is_ok_and(|is| is.identity == self.was)
    }
}
