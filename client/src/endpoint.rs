//! Where the controller is: `https://host[:port]`.

use crate::ClientError;
use hyper::Uri;
use rustls::pki_types::ServerName;
use std::fmt;
use std::str::FromStr;

/// A controller's address. Only `https`, no path, no credentials; the port is 443 when absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

impl Endpoint {
    /// The host: a DNS name or an IP address (IPv6 without brackets).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server's certificate must be made out to.
    pub(crate) fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// `host:port`, as in a URL.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl FromStr for Endpoint {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let bad = |why| ClientError::Endpoint { text: text.into(), why };
        let uri: Uri = text.trim().parse().map_err(|_| bad("it is not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("it must begin with https://"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("it must not have a path"));
        }
        let authority = uri.authority().ok_or(bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it must not carry credentials"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_string();
        let name = ServerName::try_from(host.clone())
            .map_err(|_| bad("its host is neither a DNS name nor an IP address"))?;
        let port = match (authority.port_u16(), authority.port()) {
            (Some(0), _) | (None, Some(_)) => return Err(bad("its port is not 1 to 65535")),
            (Some(port), _) => port,
            (None, None) if authority.as_str().ends_with(':') => {
                return Err(bad("its port is missing"));
            }
            (None, None) => 443,
        };
        Ok(Endpoint { host, port, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_addresses_and_prints_them_back() {
        for (text, host, port, printed) in [
            ("https://c.example:6443", "c.example", 6443, "https://c.example:6443"),
            ("https://c.example/", "c.example", 443, "https://c.example:443"),
            (" https://192.0.2.1:1 ", "192.0.2.1", 1, "https://192.0.2.1:1"),
            ("https://[2001:db8::1]:6443", "2001:db8::1", 6443, "https://[2001:db8::1]:6443"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port));
            assert_eq!(endpoint.to_string(), printed);
            assert_eq!(printed.parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, want) in [
            ("http://c.example", "https"),
            ("c.example:6443", "https"),
            ("", "URL"),
            ("https://c.example/api", "path"),
            ("https://c.example?x", "path"),
            ("https://user:pw@c.example", "credentials"),
            ("https://c.example:0", "port"),
            ("https://c.example:", "port"),
            ("https://-", "host"),
        ] {
            match text.parse::<Endpoint>() {
                Err(ClientError::Endpoint { why, .. }) => {
                    assert!(why.contains(want), "{text}: {why}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
