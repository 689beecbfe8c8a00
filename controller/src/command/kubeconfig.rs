//! `kubeconfig`: an ordinary kubeconfig with a credential made for it.

use super::client;
use crate::trust::{Operator, Operators};
use base64::Engine;
use holdfast_api::meta::is_dns_label;
use holdfast_api::paths::Root;
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;

/// Options of `kubeconfig`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The server's data directory.
    #[arg(long)]
    data: PathBuf,
    /// Tenant: the credential is for this namespace only, and the kubeconfig begins in it.
    #[arg(long)]
    namespace: Option<String>,
    /// Make the credential for all tenants although a namespace is given.
    #[arg(long)]
    all_tenants: bool,
    /// URL of the server; that of the running one when absent.
    #[arg(long)]
    server: Option<String>,
    /// Name of the operator, for logs.
    #[arg(long, default_value = "operator")]
    user: String,
    /// When the credential ends, such as 8h; never when absent.
    #[arg(long, value_parser = super::duration)]
    expires_in: Option<SignedDuration>,
}

pub(super) fn run(arguments: &Arguments, root: &Root) -> anyhow::Result<()> {
    for (option, name) in
        [("--namespace", arguments.namespace.as_deref()), ("--user", Some(arguments.user.as_str()))]
    {
        if let Some(name) = name {
            anyhow::ensure!(is_dns_label(name), "{option}: {name:?} is not a DNS label (RFC 1123)");
        }
    }
    let data = super::place(root, &arguments.data);
    let ca = client::read_ca(&data)?;
    let server = client::server_url(&data, arguments.server.as_deref())?;
    let tenant = arguments.namespace.clone().filter(|_| !arguments.all_tenants);
    let operator = Operator { name: arguments.user.clone(), tenant };
    let end = arguments.expires_in.map(|life| Timestamp::now().saturating_add(life)).transpose()?;
    let (token, _) = Operators::new(&data).issue(&operator, end)?;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let namespace = arguments.namespace.as_deref().unwrap_or("default");
    // JSON is YAML; written by hand for people who look into it.
    print!(
        "apiVersion: v1\nkind: Config\ncurrent-context: holdfast\n\
         clusters:\n- name: holdfast\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n\
         users:\n- name: {user}\n  user:\n    token: {token}\n\
         contexts:\n- name: holdfast\n  context:\n    cluster: holdfast\n    user: {user}\n    namespace: {namespace}\n",
        user = arguments.user,
        token = *token,
    );
    Ok(())
}
