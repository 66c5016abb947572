//! Where to connect or listen: `host:port`, `[v6]:port`, a bare host, or `unix:/path`.
//!
//! Parsing touches nothing outside; [`Endpoint::resolve`] asks the resolver and may block. A Unix
//! path is absolute: a relative one would name another socket after a change of the working
//! directory, and a server would leave its own behind.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::ConnectError;

/// The port of an endpoint that names none.
pub const DEFAULT_PORT: u16 = 7411;

/// Longest path of a Unix socket: `sun_path` without its terminator, unix(7).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// A parsed endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP, by host name or address.
    Tcp {
        /// Host name, IPv4 address, or IPv6 address without brackets.
        host: String,
        /// Port; 0 asks the kernel for a free one when listening, and can not be connected to.
        port: u16,
    },
    /// A Unix stream socket.
    Unix {
        /// Path of the socket.
        path: PathBuf,
    },
}

/// An address the kernel understands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// Which part of an endpoint is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Nothing there.
    #[error("the endpoint is empty: expected host:port, [v6]:port, host or unix:/path")]
    Empty,
    /// A URL.
    #[error(
        "endpoint {text:?}: a scheme such as {scheme:?} is not part of an endpoint: \
         expected host:port, [v6]:port, host or unix:/path"
    )]
    Scheme {
        /// The endpoint.
        text: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// No host before the port.
    #[error("endpoint {text:?}: the host before the port is missing")]
    HostMissing {
        /// The endpoint.
        text: String,
    },
    /// A host that cannot be a name or an address.
    #[error("endpoint {text:?}: {host:?} is neither a host name nor an address")]
    Host {
        /// The endpoint.
        text: String,
        /// Its host part.
        host: String,
    },
    /// Numbers and dots that are not an IPv4 address. The resolver would take them for one, in the
    /// forms of inet_aton(3): `1.2.3` for 1.2.0.3, `010` for 8.
    #[error(
        "endpoint {text:?}: the IPv4 part {host:?} is not four decimal numbers, as in 10.0.0.7"
    )]
    Ipv4 {
        /// The endpoint.
        text: String,
        /// Its host part.
        host: String,
    },
    /// A port without a host.
    #[error("endpoint {text:?} has no host: write host:{text}, as in localhost:{text}")]
    PortAlone {
        /// The endpoint.
        text: String,
    },
    /// The part in brackets is not an IPv6 address, or there are no brackets around it.
    #[error("endpoint {text:?}: the IPv6 part must be an address in brackets, as in [::1]:7411")]
    Ipv6 {
        /// The endpoint.
        text: String,
    },
    /// Something else than a port behind the bracket.
    #[error("endpoint {text:?}: {rest:?} after the bracket is not a port, as in [::1]:7411")]
    AfterBracket {
        /// The endpoint.
        text: String,
        /// What stands behind the bracket.
        rest: String,
    },
    /// The port is not a number from 0 to 65535.
    #[error("endpoint {text:?}: the port {port:?} is not a number from 0 to 65535")]
    Port {
        /// The endpoint.
        text: String,
        /// Its port part.
        port: String,
    },
    /// Port 0 of a server: only who listens can leave the choice to the kernel.
    #[error("endpoint {text:?}: port 0 can not be connected to, only listened on")]
    PortZero {
        /// The endpoint.
        text: String,
    },
    /// The path of a Unix socket depends on the working directory.
    #[error("endpoint {text:?}: a Unix path must be absolute, as in unix:/run/ringwire.sock")]
    UnixPathRelative {
        /// The endpoint.
        text: String,
    },
    /// The path of a Unix socket is empty or too long, or has a zero byte in it.
    #[error(
        "endpoint {text:?}: a Unix path has 1 to {UNIX_PATH_BYTES_MAX} bytes, none of them zero; \
         this one has {bytes}"
    )]
    UnixPath {
        /// The endpoint.
        text: String,
        /// Length of its path.
        bytes: usize,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.trim().is_empty() {
            return Err(EndpointError::Empty);
        }
        // Without the colon too: a host of that name would print as `unix:7411`, which is a path.
        if text == "unix" {
            return Err(EndpointError::UnixPath { text: text.into(), bytes: 0 });
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let bytes = path.len();
            if !(1..=UNIX_PATH_BYTES_MAX).contains(&bytes) || path.contains('\0') {
                return Err(EndpointError::UnixPath { text: text.into(), bytes });
            }
            if !path.starts_with('/') {
                return Err(EndpointError::UnixPathRelative { text: text.into() });
            }
            return Ok(Self::Unix { path: path.into() });
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(EndpointError::Scheme { text: text.into(), scheme: scheme.into() });
        }
        if let Some(rest) = text.strip_prefix('[') {
            return parse_bracketed(text, rest);
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self::Tcp { host: text.into(), port: DEFAULT_PORT });
        }
        let (host, port) = match text.split_once(':') {
            None => (text, DEFAULT_PORT),
            Some((_, port)) if port.contains(':') => {
                return Err(EndpointError::Ipv6 { text: text.into() });
            }
            Some((host, port)) => (host, parse_port(text, port)?),
        };
        if host.is_empty() {
            return Err(EndpointError::HostMissing { text: text.into() });
        }
        if !is_host(host) {
            return Err(EndpointError::Host { text: text.into(), host: host.into() });
        }
        if host == text && parse_port(text, text).is_ok() {
            return Err(EndpointError::PortAlone { text: text.into() });
        }
        if is_numeric(host) && host.parse::<Ipv4Addr>().is_err() {
            return Err(EndpointError::Ipv4 { text: text.into(), host: host.into() });
        }
        Ok(Self::Tcp { host: host.into(), port })
    }
}

impl Endpoint {
    /// The addresses behind the endpoint, in the resolver's order. Never empty.
    ///
    /// Blocks on the resolver (getaddrinfo(3)) when the host is a name; an address resolves
    /// without any I/O.
    ///
    /// # Errors
    ///
    /// The resolver's, or `NotFound` when the name has no address.
    pub fn resolve(&self) -> io::Result<Vec<Address>> {
        match self {
            Self::Unix { path } => Ok(vec![Address::Unix(path.clone())]),
            Self::Tcp { host, port } => {
                let found: Vec<_> =
                    (host.as_str(), *port).to_socket_addrs()?.map(Address::Tcp).collect();
                if found.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
                }
                Ok(found)
            }
        }
    }

    /// As [`resolve`](Self::resolve), for whoever connects there.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>, ConnectError> {
        let host = || self.host().into_owned();
        self.resolve().map_err(|source| ConnectError::Resolve { host: host(), source })
    }

    /// Reads the endpoint of a server that is to be connected to.
    ///
    /// # Errors
    ///
    /// As parsing, and [`EndpointError::PortZero`].
    pub(crate) fn of_server(text: &str) -> Result<Self, EndpointError> {
        match text.parse()? {
            Self::Tcp { port: 0, .. } => Err(EndpointError::PortZero { text: text.into() }),
            endpoint => Ok(endpoint),
        }
    }

    /// The host name, or the path of a Unix socket.
    #[must_use]
    pub fn host(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Tcp { host, .. } => host.into(),
            Self::Unix { path } => path.to_string_lossy(),
        }
    }
}

fn parse_bracketed(text: &str, rest: &str) -> Result<Endpoint, EndpointError> {
    let malformed = || EndpointError::Ipv6 { text: text.into() };
    let (host, rest) = rest.split_once(']').ok_or_else(malformed)?;
    // A scope (`fe80::1%eth0`) is the resolver's business; the address before it is ours.
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(malformed());
    }
    let port = match rest.strip_prefix(':') {
        Some(port) => parse_port(text, port)?,
        None if rest.is_empty() => DEFAULT_PORT,
        None => {
            return Err(EndpointError::AfterBracket { text: text.into(), rest: rest.into() });
        }
    };
    Ok(Endpoint::Tcp { host: host.into(), port })
}

fn parse_port(text: &str, port: &str) -> Result<u16, EndpointError> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits => Ok(port),
        _ => Err(EndpointError::Port { text: text.into(), port: port.into() }),
    }
}

/// RFC 1123 letters, digits, hyphens and dots, and the underscore that real networks use.
fn is_host(host: &str) -> bool {
    let labels_are_sound = host.trim_end_matches('.').split('.').all(|label| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    });
    host.len() <= 253 && labels_are_sound
}

/// Whether inet_aton(3) would read every part of `host` as a number.
fn is_numeric(host: &str) -> bool {
    host.trim_end_matches('.').split('.').all(|part| {
        let hexadecimal = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
        match hexadecimal {
            Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => part.bytes().all(|byte| byte.is_ascii_digit()),
        }
    })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// The path of a Unix socket.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, host: &str, port: u16) {
        let expected = Endpoint::Tcp { host: host.into(), port };
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }

    #[test]
    fn tcp_forms_are_read() {
        check("localhost:80", "localhost", 80);
        check("7.drives:80", "7.drives", 80);
        check("0xcafe.lan", "0xcafe.lan", DEFAULT_PORT);
        check("10.0.0.1:0", "10.0.0.1", 0);
        check("[::1]:9", "::1", 9);
        check("[fe80::1%eth0]:9", "fe80::1%eth0", 9);
        check("[::1]", "::1", DEFAULT_PORT);
        check("::1", "::1", DEFAULT_PORT);
        check("drive-7.cell_2.lan", "drive-7.cell_2.lan", DEFAULT_PORT);
    }

    #[test]
    fn unix_path_is_read() {
        let endpoint: Endpoint = "unix:/run/ring.sock".parse().expect("well formed");
        assert_eq!(endpoint, Endpoint::Unix { path: "/run/ring.sock".into() });
    }

    #[test]
    fn printed_endpoint_reads_back() {
        for text in ["localhost:80", "[::1]:9", "unix:/run/x"] {
            let endpoint: Endpoint = text.parse().expect("well formed");
            assert_eq!(endpoint.to_string(), text);
        }
    }

    fn refuse(text: &str) -> EndpointError {
        text.parse::<Endpoint>().expect_err(text)
    }

    #[test]
    fn malformed_endpoint_names_the_part() {
        assert_eq!(refuse(" "), EndpointError::Empty);
        assert!(matches!(refuse(":80"), EndpointError::HostMissing { .. }));
        assert!(matches!(refuse("a b:80"), EndpointError::Host { .. }));
        assert!(matches!(refuse("-a:80"), EndpointError::Host { .. }));
        assert!(matches!(refuse("host:"), EndpointError::Port { .. }));
        assert!(matches!(refuse("host:65536"), EndpointError::Port { .. }));
        assert!(matches!(refuse("host:+1"), EndpointError::Port { .. }));
        assert!(matches!(refuse("[::1"), EndpointError::Ipv6 { .. }));
        assert!(matches!(refuse("[::1]9"), EndpointError::AfterBracket { .. }));
        assert!(matches!(refuse("[::1]x"), EndpointError::AfterBracket { .. }));
        assert!(matches!(refuse("http://x:1"), EndpointError::Scheme { .. }));
        assert!(matches!(refuse("tcp://[::1]:1"), EndpointError::Scheme { .. }));
        assert!(matches!(refuse("unix:rel"), EndpointError::UnixPathRelative { .. }));
        assert!(matches!(refuse("unix:@abstract"), EndpointError::UnixPathRelative { .. }));
        assert!(matches!(refuse("unix:/a\0b"), EndpointError::UnixPath { bytes: 4, .. }));
        for host in
            ["1.2.3", "0x7f000001", "2130706433", "127.0.0.01", "0x7f.1", "1.2.3.4.", "256.1.1.1"]
        {
            let error = refuse(&format!("{host}:80"));
            assert_eq!(
                error,
                EndpointError::Ipv4 { text: format!("{host}:80"), host: host.into() }
            );
        }
        let error = refuse("7411").to_string();
        assert_eq!(error, "endpoint \"7411\" has no host: write host:7411, as in localhost:7411");
        assert!(matches!(refuse("65536"), EndpointError::Ipv4 { .. }));
        assert!(matches!(refuse("[zz]:9"), EndpointError::Ipv6 { .. }));
        assert!(matches!(refuse("1:2:3"), EndpointError::Ipv6 { .. }));
        assert!(matches!(refuse("unix:"), EndpointError::UnixPath { bytes: 0, .. }));
        assert!(matches!(refuse("unix"), EndpointError::UnixPath { bytes: 0, .. }));
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(matches!(refuse(&long), EndpointError::UnixPath { bytes: 108, .. }));
    }

    #[test]
    fn port_zero_is_for_listening_only() {
        assert!("127.0.0.1:0".parse::<Endpoint>().is_ok());
        let refused =
            |text: &str| matches!(Endpoint::of_server(text), Err(EndpointError::PortZero { .. }));
        assert!(refused("127.0.0.1:0"));
        assert!(refused("[::1]:0"));
        assert!(!refused("localhost:1"));
        assert!(!refused("unix:/run/x"));
    }

    #[test]
    fn address_resolves_without_a_resolver() {
        let endpoint: Endpoint = "127.0.0.1:7".parse().expect("well formed");
        let addresses = endpoint.resolve().expect("it is an address");
        assert_eq!(addresses, [Address::Tcp(([127, 0, 0, 1], 7).into())]);
    }
}
