//! `token create`: through the API, like any operator.

use super::client::Client;
use crate::trust::{Operator, Operators};
use anyhow::Context;
use clap::ValueEnum;
use holdfast_api::paths::Root;
use holdfast_api::resources::{self, ApprovalRule, Kind, Role, Token, TokenSpec};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Life of the credential with which the command speaks to the server.
const ERRAND: SignedDuration = SignedDuration::from_secs(60);

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token and print it; it is shown this once.
    Create(Arguments),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Node,
    RegionalEdge,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Json,
}

/// Options of `token create`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The server's data directory.
    #[arg(long)]
    data: PathBuf,
    /// URL of the server; that of the running one when absent.
    #[arg(long)]
    server: Option<String>,
    /// Tenant.
    #[arg(long)]
    namespace: String,
    /// What its bearers become.
    #[arg(long, value_enum, default_value = "node")]
    role: RoleName,
    /// Admit its bearers without asking an operator.
    #[arg(long)]
    auto_approve: bool,
    /// How many devices may register with it.
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// When it ends, such as 1h; never when absent.
    #[arg(long, value_parser = super::duration)]
    expires_in: Option<SignedDuration>,
    /// Site that nodes join (or name of the edge).
    #[arg(long)]
    site: Option<String>,
    /// Label given to the site, NAME=VALUE; may be repeated.
    #[arg(long = "label", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Print the object instead of the bare token.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

pub(super) async fn create(arguments: Arguments, root: &Root) -> anyhow::Result<()> {
    let data = super::place(root, &arguments.data);
    let expires_at =
        arguments.expires_in.map(|life| Timestamp::now().saturating_add(life)).transpose()?;
    let spec = TokenSpec {
        uses: arguments.uses,
        expires_at: expires_at.map(|end| end.round(jiff::Unit::Second)).transpose()?,
        role: match arguments.role {
            RoleName::Node => Role::Node,
            RoleName::RegionalEdge => Role::RegionalEdge,
        },
        approval: if arguments.auto_approve {
            ApprovalRule::Automatic
        } else {
            ApprovalRule::Manual
        },
        site: arguments.site.clone(),
        labels: arguments.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let mut token = Token::new(Some(&arguments.namespace), "", spec);
    token.metadata.generate_name = Some("token-".into());
    let made = errand(&data, &arguments, &token).await?;
    match arguments.output {
        Some(Output::Json) => println!("{}", serde_json::to_string_pretty(&made)?),
        None => {
            let text = made["status"]["token"].as_str().context("the server showed no token")?;
            println!("{text}");
        }
    }
    Ok(())
}

/// Makes a credential for this one request and takes it back afterwards.
async fn errand(
    data: &Path,
    arguments: &Arguments,
    token: &Token,
) -> anyhow::Result<serde_json::Value> {
    let tenant = match arguments.role {
        RoleName::Node => Some(arguments.namespace.clone()),
        RoleName::RegionalEdge => None,
    };
    let operator = Operator { name: "token-create".into(), tenant };
    let end = Timestamp::now().checked_add(ERRAND)?;
    let (bearer, file) = Operators::new(data).issue(&operator, Some(end))?;
    let result = async {
        let client = Client::new(data, arguments.server.as_deref())?;
        let path = resources::path(Kind::Token, Some(&arguments.namespace), None);
        client.post(&path, &bearer, &serde_json::to_vec(token)?).await
    }
    .await;
    if let Err(error) = holdfast_durable::remove(&file) {
        tracing::warn!(%error, "the command's credential stays until it expires");
    }
    result
}
