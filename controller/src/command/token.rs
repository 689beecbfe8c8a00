//! `token create`: through the API, like any operator.

use super::client::Client;
use super::failure::{Failure, label};
use crate::select::{is_label_key, is_label_value};
use crate::trust::{Operator, Operators};
use clap::ValueEnum;
use holdfast_api::meta::Status;
use holdfast_api::paths::Root;
use holdfast_api::resources::{self, ApprovalRule, Kind, Role, Token, TokenSpec};
use jiff::SignedDuration;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Life of the credential with which the command speaks to the server.
const ERRAND: SignedDuration = SignedDuration::from_secs(60);

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token and print it; it is shown this once
    Create(Arguments),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    /// A node of a site
    Node,
    /// A regional edge
    RegionalEdge,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// The whole object
    Json,
}

/// Options of `token create`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The server's data directory
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    data: PathBuf,
    /// Where to reach the server; where it listens when absent
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    server: Option<String>,
    /// Tenant
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// What its bearers become
    #[arg(long, value_enum, value_name = "ROLE", default_value = "node")]
    role: RoleName,
    /// Admit its bearers without asking an operator
    #[arg(long)]
    auto_approve: bool,
    /// How many devices may register with it, at least 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// When it ends, such as 1h; never when absent
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    expires_in: Option<SignedDuration>,
    /// Site that nodes join (or name of the edge); one of its own for each when absent
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Node of that site whose place and role its bearer takes; it is retired then
    #[arg(long, value_name = "NODE", requires = "site")]
    replaces: Option<String>,
    /// Label given to the site; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Print the object instead of the bare token
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
}

impl Arguments {
    /// The token to ask for. What the server would refuse is refused here, where it has the name
    /// that the person typed.
    fn token(&self) -> Result<Token, Failure> {
        label("--namespace", &self.namespace)?;
        if let Some(site) = &self.site {
            label("--site", site)?;
        }
        if self.uses == 0 {
            return Err(Failure::argument("--uses", "0 devices could register; at least 1 must"));
        }
        let spec = TokenSpec {
            uses: self.uses,
            expires_at: super::end(self.expires_in)?,
            role: match self.role {
                RoleName::Node => Role::Node,
                RoleName::RegionalEdge => Role::RegionalEdge,
            },
            approval: match self.auto_approve {
                true => ApprovalRule::Automatic,
                false => ApprovalRule::Manual,
            },
            site: self.site.clone(),
            replaces: self.replaces.clone(),
            labels: self.labels.iter().map(|text| site_label(text)).collect::<Result<_, _>>()?,
        };
        let mut token = Token::new(Some(&self.namespace), "", spec);
        token.metadata.generate_name = Some("token-".into());
        Ok(token)
    }
}

fn site_label(text: &str) -> Result<(String, String), Failure> {
    let wrong = |why: &str| Failure::argument("--label", format!("{text:?} {why}"));
    let (name, value) = text.split_once('=').ok_or_else(|| wrong("is not NAME=VALUE"))?;
    if !is_label_key(name) {
        return Err(wrong("has no name that a label can have"));
    }
    if !is_label_value(value) {
        return Err(wrong("has no value that a label can have"));
    }
    Ok((name.into(), value.into()))
}

pub(super) async fn create(arguments: Arguments, root: &Root) -> Result<(), Failure> {
    let token = arguments.token()?;
    let data = super::place(root, &arguments.data);
    let client = Client::new(&data, arguments.server.as_deref())?;
    let made = errand(&client, &data, &arguments, &token).await.map_err(in_own_words)?;
    let text = match (arguments.output, made["status"]["token"].as_str()) {
        (Some(Output::Json), _) => format!("{made:#}\n"),
        (None, Some(text)) => format!("{text}\n"),
        (None, None) => {
            let to = arguments.server.unwrap_or_else(|| "this data directory".into());
            return Err(Failure::Answer { to, what: "it shows no token".into() });
        }
    };
    super::say(&text)
}

/// Makes a credential for this one request and takes it back afterwards.
async fn errand(
    client: &Client,
    data: &Path,
    arguments: &Arguments,
    token: &Token,
) -> Result<Value, Failure> {
    let tenant = match arguments.role {
        RoleName::Node => Some(arguments.namespace.clone()),
        RoleName::RegionalEdge => None,
    };
    let operator = Operator { name: "token-create".into(), tenant };
    let (bearer, file) = Operators::new(data).issue(&operator, super::end(Some(ERRAND))?)?;
    let path = resources::path(Kind::Token, Some(&arguments.namespace), None);
    // The types here have text keys only, which serde_json never refuses.
    let body = serde_json::to_vec(token).unwrap_or_default();
    let result = client.post(&path, &bearer, &body).await;
    if let Err(error) = holdfast_durable::remove(&file) {
        tracing::warn!(%error, "the command's credential stays until it expires");
    }
    result
}

/// Fields that the server does not like, by the arguments that they come from.
fn in_own_words(failure: Failure) -> Failure {
    let Failure::Refused { status } = &failure else { return failure };
    first_argument(status).unwrap_or(failure)
}

fn first_argument(status: &Status) -> Option<Failure> {
    let causes = &status.details.as_ref()?.causes;
    causes.iter().find_map(|cause| {
        let argument = match cause.field.as_str() {
            "metadata.namespace" => "--namespace",
            "spec.role" => "--role",
            "spec.uses" => "--uses",
            "spec.expiresAt" => "--expires-in",
            "spec.site" => "--site",
            "spec.replaces" => "--replaces",
            field if field.starts_with("spec.labels") => "--label",
            _ => return None,
        };
        Some(Failure::argument(argument, cause.message.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn arguments_are_called_by_their_names() {
        let complaint = |more: &[&str]| {
            let line = [&["x", "--data", "/d"], more].concat();
            Line::parse_from(line).arguments.token().unwrap_err()
        };
        for (line, argument) in [
            (&["--namespace", "BAD/ns"][..], "--namespace"),
            (&["--namespace", ""], "--namespace"),
            (&["--namespace", "acme", "--site", "No Site"], "--site"),
            (&["--namespace", "acme", "--uses", "0"], "--uses"),
            (&["--namespace", "acme", "--label", "x"], "--label"),
            (&["--namespace", "acme", "--label=-x=y"], "--label"),
            (&["--namespace", "acme", "--label", "x=no good"], "--label"),
            (&["--namespace", "acme", "--expires-in", "7000000d"], "--expires-in"),
        ] {
            let error = complaint(line);
            assert!(matches!(&error, Failure::Argument { argument: a, .. } if *a == argument));
            assert!(
                error.line().starts_with(argument) && error.line().ends_with(" [config.invalid]")
            );
        }
    }

    #[test]
    fn what_the_server_refuses_is_said_of_the_argument() {
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "message": "no",
            "details": {"causes": [{"reason": "x", "message": "is too much", "field": "spec.uses"}]},
        });
        let status: Box<Status> = serde_json::from_value(status).unwrap();
        let error = in_own_words(Failure::Refused { status: status.clone() });
        assert_eq!(error.line(), "--uses: is too much [config.invalid]");
        let status = Box::new(Status { details: None, ..*status });
        let error = in_own_words(Failure::Refused { status });
        assert_eq!(error.line(), "the server refused: no [controller.refused]");
    }
}
