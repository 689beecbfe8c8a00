//! Who is who: the certificate authority, certificates of the server and of devices, operators.

pub mod authority;
pub mod csr;
pub mod operators;
pub mod peer;
pub mod server;

pub use authority::{Authority, TrustError};
pub use csr::{CsrError, DeviceRequest};
pub use operators::{Operator, OperatorError, Operators};
pub use peer::{PeerVerifier, TlsIdentity};
