//! The socket of journald, in a daemon's own view of the file system: what the daemon would tell the journal.

use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::{DEADLINE, DaemonCommand, has_program, is_root, retry, temporary_folder};

/// An entry's fields.
pub(crate) type Fields = HashMap<String, String>;

/// A journal that nobody but one test reads.
pub(crate) struct Journal {
    socket: UnixDatagram,
    folder: PathBuf,
}

impl Journal {
    /// Returns whether a socket can be put where journald's is.
    pub(crate) fn possible() -> bool {
        is_root() && has_program("unshare")
    }

    pub(crate) fn new() -> Self {
        let folder = temporary_folder();
        let socket = UnixDatagram::bind(folder.join("socket")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, folder }
    }

    /// The command, with this in place of journald; its settings must name the target.
    pub(crate) fn read_by(&self, command: DaemonCommand) -> DaemonCommand {
        let mount = format!(
            "mount -t tmpfs none /run; mkdir -p /run/systemd/journal; mount --bind {} /run/systemd/journal; \
             exec \"$@\"",
            self.folder.display()
        );
        command.wrapped(&["unshare", "--mount", "sh", "-ec", &mount, "sh"])
    }

    /// The next entry.
    pub(crate) fn next(&self) -> Fields {
        let mut buffer = vec![0; 1 << 16];
        let length = retry(|| self.socket.recv(&mut buffer)).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
    }

    /// The next entry whose message has this in it; those before it are forgotten.
    pub(crate) fn find(&self, text: &str) -> Fields {
        std::iter::repeat_with(|| self.next()).find(|entry| entry["MESSAGE"].contains(text)).unwrap()
    }
}
