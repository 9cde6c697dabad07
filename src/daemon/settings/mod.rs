//! The settings file: from TOML to settings that are valid by construction, and back.
//!
//! Every table refuses unknown keys; each kind of value is a type that cannot hold an invalid one. The defaults are in
//! the `Default` of each table; a test compares the shipped file with them. [`Fixed`] settings need a restart to
//! change, [`Reloadable`] ones take effect on reload.

mod diagnosis;
mod faults;
mod file;
mod in_force;
mod keys;
mod listen;
mod listen_address;
pub(super) mod source;
mod syntax;
mod values;

pub use self::faults::{Fault, Faults};
pub use self::file::{Access, BufferSize, Log, RateLimit, Reply, Settings};
pub use self::in_force::{Fixed, Reloadable};
pub use self::listen::{Listen, ListenEntry, ListenError};
pub use self::listen_address::{ListenAddress, ListenAddressError};
pub use self::values::*;
