//! `holdfast token`: gives the node a token, checked group by group before anything is sent.

use crate::console::prompt;
use crate::failure::Failure;
use crate::output::Context;
use crate::token_entry::TokenEntry;
use crate::units::clean;
use holdfast_api::local::TokenInput;
use holdfast_api::token::{Envelope, TokenError};
use serde_json::json;
use std::io::{self, IsTerminal, Read};
use zeroize::{Zeroize, Zeroizing};

/// Longest standard input that is read, bytes.
const INPUT_MAX: u64 = 64 * 1024;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check a token and hand it to the manager, which registers with it.
    Set {
        #[command(flatten)]
        given: Given,
        /// Address of the controller, when the node does not know it: `https://host[:port]`.
        #[arg(long, value_name = "URL")]
        controller: Option<String>,
    },
    /// Check a token and say what is in it, without sending anything.
    Check {
        #[command(flatten)]
        given: Given,
    },
}

/// Where the token comes from.
#[derive(clap::Args)]
pub(crate) struct Given {
    /// The token, or `-` for standard input; asked for on a terminal when left out. On the command
    /// line it can be seen in the list of processes and stays in the shell's history.
    #[arg(value_name = "TOKEN|-")]
    token: Option<String>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Check { given } => {
            let token = read(given)?;
            let raw = json!({
                "tenant": token.tenant,
                "caFingerprint": token.ca.to_string(),
                "id": token.id.to_string(),
            });
            context.show(&raw, |paint| {
                format!(
                    "{}\n  Tenant          {}\n  Token id        {}\n  CA fingerprint  {}\n",
                    paint.good("The token is well typed."),
                    token.tenant,
                    token.id,
                    token.ca,
                )
            })?;
        }
        Command::Set { given, controller } => {
            let token = read(given)?;
            send(context, &token, controller).await?;
            let raw = json!({ "tenant": token.tenant, "id": token.id.to_string() });
            context.show(&raw, |_| {
                let tenant = clean(&token.tenant);
                format!(
                    "The token of tenant {tenant} was taken; the node registers with it now.\n  \
                     Next: holdfast status --wait online\n"
                )
            })?;
        }
    }
    Ok(0)
}

async fn send(
    context: &Context,
    token: &Envelope,
    controller: Option<String>,
) -> Result<(), Failure> {
    let mut input = TokenInput { token: token.encode().to_string(), controller };
    let sent = context.manager().put_token(&input).await;
    input.token.zeroize();
    sent.map_err(|source| Failure::Manager { source })
}

fn read(given: Given) -> Result<Envelope, Failure> {
    let text = match given.token.map(Zeroizing::new) {
        Some(text) if *text == "-" => from_standard_input()?,
        Some(text) => text,
        None if io::stdin().is_terminal() => return prompt::ask(),
        None => {
            let why = "standard input is no terminal to ask on: hand the token over with `-`";
            return Err(Failure::Usage(why.into()));
        }
    };
    check(&text)
}

/// Every wrong group is named, not only the first.
fn check(text: &str) -> Result<Envelope, Failure> {
    let mut entry = TokenEntry::new();
    entry.paste(text);
    let wrong = entry.wrong();
    if wrong.len() > 1 {
        return Err(Failure::TokenGroups { groups: wrong });
    }
    Envelope::parse(text).map_err(|source| Failure::Token { source })
}

fn from_standard_input() -> Result<Zeroizing<String>, Failure> {
    let fail = |source| Failure::Terminal { attempt: "read the token from standard input", source };
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    io::stdin().lock().take(INPUT_MAX).read_to_end(&mut bytes).map_err(fail)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::Token { source: TokenError::Malformed("it is no text") })?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::Reason;
    use holdfast_api::token::{CaFingerprint, TokenId, TokenSecret};

    #[test]
    fn every_wrong_group_is_named() {
        let token = Envelope {
            tenant: "acme".into(),
            ca: CaFingerprint([7; 16]),
            id: TokenId([1; 5]),
            secret: TokenSecret::new([2; 10]),
        };
        let text = token.encode();
        assert_eq!(check(&format!(" {} \n", *text)).unwrap(), token);
        let mut groups: Vec<String> = text.split('-').map(Into::into).collect();
        let reversed = |group: &str| group.chars().rev().collect::<String>();
        groups[1] = reversed(&groups[1]);
        let one = check(&groups.join("-")).unwrap_err();
        assert!(matches!(one, Failure::Token { .. }), "{one}");
        groups[4] = reversed(&groups[4]);
        let two = check(&groups.join("-")).unwrap_err();
        assert_eq!(two.to_string(), "groups 2 and 5 of the token are mistyped");
        for failure in [one, two] {
            assert_eq!(failure.exit_code(), Reason::TokenMistypedGroup.exit_code());
        }
        let cut = check(&text[..text.len() - 6]).unwrap_err();
        assert_eq!(cut.reason(), Some(Reason::TokenMalformed));
    }
}
