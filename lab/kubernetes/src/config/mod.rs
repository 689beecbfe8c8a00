//! k3s' configuration: files, fragments and the command line, in k3s' order.
//!
//! `config.yaml` first, then `config.yaml.d/*.yaml` by name, then the command line. A later value
//! replaces an earlier one, lists too, unless the key ends with `+`; values on the command line
//! are added to lists. A key that is not known is refused by its name, for a test that mistypes
//! one would otherwise pass: [`ConfigError`]. Pure but for reading the files.

mod keys;
mod settings;

pub use keys::{KEYS, Key, Kind, Role};
pub use settings::Settings;

use serde_yaml_ng::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A file is not YAML.
    #[error("{} is not a YAML mapping", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// A key that nobody knows.
    #[error("{origin}: unknown option {name:?}")]
    Unknown {
        /// The file, or the command line.
        origin: String,
        /// The key.
        name: String,
    },
    /// A key of servers on an agent.
    #[error("{origin}: option {name:?} is for servers only")]
    NotForAgents {
        /// The file, or the command line.
        origin: String,
        /// The key.
        name: String,
    },
    /// A value of the wrong kind.
    #[error("{origin}: option {name:?} takes {wanted}")]
    Value {
        /// The file, or the command line.
        origin: String,
        /// The key.
        name: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// Something that is no option.
    #[error("unexpected argument {0:?}")]
    Argument(String),
    /// An option that another one needs, or that a joining node needs.
    #[error("option {0:?} is missing")]
    Missing(&'static str),
    /// A reset makes a server alone, and this one is to join another (k3s' words).
    #[error(
        "cannot perform cluster-reset while server URL is set - remove server from configuration before resetting"
    )]
    ResetJoins,
}

/// Options by name, each with its values.
pub type Options = BTreeMap<&'static str, Vec<String>>;

/// Reads everything for a command: `role` is [`Role::Both`] for an agent. `default` is the file
/// that is read when the command line names none; that one may be absent.
///
/// # Errors
/// [`ConfigError`] names the file and the key.
pub fn read(role: Role, arguments: &[String], default: &Path) -> Result<Options, ConfigError> {
    let (named, typed) = command_line(role, arguments)?;
    let (file, must_exist) = match named {
        Some(file) => (PathBuf::from(file), true),
        None => (default.to_path_buf(), false),
    };
    let mut options = Options::new();
    for path in std::iter::once(file.clone()).chain(fragments(&file)) {
        match std::fs::read_to_string(&path) {
            Ok(text) => merge(role, &path, &text, &mut options)?,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && !(must_exist && path == file) => {}
            Err(source) => return Err(ConfigError::Read { path, source }),
        }
    }
    for (key, values) in typed {
        match key.kind {
            Kind::List => options.entry(key.name).or_default().extend(values),
            Kind::Text | Kind::Flag => {
                options.insert(key.name, values);
            }
        }
    }
    Ok(options)
}

fn fragments(file: &Path) -> Vec<PathBuf> {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml"));
    paths.sort();
    paths
}

fn known(role: Role, origin: &str, name: &str) -> Result<&'static Key, ConfigError> {
    let key = keys::find(name)
        .ok_or_else(|| ConfigError::Unknown { origin: origin.into(), name: name.into() })?;
    if role == Role::Both && key.role == Role::Server {
        return Err(ConfigError::NotForAgents { origin: origin.into(), name: name.into() });
    }
    Ok(key)
}

fn merge(role: Role, path: &Path, text: &str, options: &mut Options) -> Result<(), ConfigError> {
    let yaml = |source| ConfigError::Yaml { path: path.to_path_buf(), source };
    let origin = path.display().to_string();
    let mapping: Option<BTreeMap<String, Value>> = serde_yaml_ng::from_str(text).map_err(yaml)?;
    for (name, value) in mapping.unwrap_or_default() {
        let (name, adds) = match name.strip_suffix('+') {
            Some(name) => (name, true),
            None => (name.as_str(), false),
        };
        let key = known(role, &origin, name)?;
        let values = values(key, &value).ok_or_else(|| ConfigError::Value {
            origin: origin.clone(),
            name: name.into(),
            wanted: wanted(key),
        })?;
        if adds && key.kind == Kind::List {
            options.entry(key.name).or_default().extend(values);
        } else {
            options.insert(key.name, values);
        }
    }
    Ok(())
}

fn wanted(key: &Key) -> &'static str {
    match key.kind {
        Kind::Flag => "true or false",
        Kind::Text => "one value",
        Kind::List => "a value or a list of values",
    }
}

fn values(key: &Key, value: &Value) -> Option<Vec<String>> {
    match (key.kind, value) {
        (Kind::Flag, Value::Bool(_))
        | (Kind::Text | Kind::List, Value::String(_) | Value::Number(_) | Value::Bool(_)) => {
            scalar(value).map(|one| vec![one])
        }
        (Kind::Flag, Value::String(text)) if text == "true" || text == "false" => {
            Some(vec![text.clone()])
        }
        (Kind::List, Value::Sequence(items)) => items.iter().map(scalar).collect(),
        _ => None,
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

type Typed = Vec<(&'static Key, Vec<String>)>;

/// `--key value`, `--key=value`, `--flag`, and the file that `--config` names.
fn command_line(role: Role, arguments: &[String]) -> Result<(Option<String>, Typed), ConfigError> {
    let (mut file, mut typed) = (None, Typed::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
        let name = name.ok_or_else(|| ConfigError::Argument(argument.clone()))?;
        let (name, attached) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let is_file = name == "config" || name == "c";
        let key = if is_file { None } else { Some(known(role, "command line", name)?) };
        let value = match (key.map(|key| key.kind), attached) {
            (_, Some(value)) => value,
            (Some(Kind::Flag), None) => "true".to_owned(),
            (_, None) => arguments.next().cloned().ok_or_else(|| ConfigError::Value {
                origin: "command line".into(),
                name: name.into(),
                wanted: "a value",
            })?,
        };
        match key {
            None => file = Some(value),
            Some(key) => typed.push((key, vec![value])),
        }
    }
    Ok((file, typed))
}

#[cfg(test)]
mod tests;
