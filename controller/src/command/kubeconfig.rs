//! `kubeconfig`: an ordinary kubeconfig with a credential made for it.

use super::client;
use super::failure::{Failure, label};
use crate::trust::{Operator, Operators};
use base64::Engine;
use holdfast_api::paths::Root;
use jiff::SignedDuration;
use std::path::PathBuf;

/// Options of `kubeconfig`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The server's data directory
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    data: PathBuf,
    /// Tenant: the credential is for this namespace only, and the kubeconfig begins in it
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Make the credential for all tenants although a namespace is given
    #[arg(long)]
    all_tenants: bool,
    /// Where operators reach the server; where it listens when absent
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    server: Option<String>,
    /// Name of the operator, for logs
    #[arg(long, value_name = "NAME", default_value = "operator", value_hint = clap::ValueHint::Username)]
    user: String,
    /// When the credential ends, such as 8h; never when absent
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    expires_in: Option<SignedDuration>,
}

pub(super) fn run(arguments: &Arguments, root: &Root) -> Result<(), Failure> {
    if let Some(namespace) = &arguments.namespace {
        label("--namespace", namespace)?;
    }
    label("--user", &arguments.user)?;
    let data = super::place(root, &arguments.data);
    let ca = client::read_ca(&data)?;
    let server = client::server_url(&data, arguments.server.as_deref())?;
    let tenant = arguments.namespace.clone().filter(|_| !arguments.all_tenants);
    let operator = Operator { name: arguments.user.clone(), tenant };
    let end = super::end(arguments.expires_in)?;
    let (token, _) = Operators::new(&data).issue(&operator, end)?;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let namespace = arguments.namespace.as_deref().unwrap_or("default");
    // JSON is YAML; written by hand for people who look into it.
    super::say(&format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: holdfast\n\
         clusters:\n- name: holdfast\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n\
         users:\n- name: {user}\n  user:\n    token: {token}\n\
         contexts:\n- name: holdfast\n  context:\n    cluster: holdfast\n    user: {user}\n    namespace: {namespace}\n",
        user = arguments.user,
        token = *token,
    ))
}
