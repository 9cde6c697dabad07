//! The commands of one place, typed one after the other in a container; a script stands in for the editor.

use super::documents::Recipe;
use crate::harness::container::Container;
use crate::harness::{Finished, wait_for};

/// The settings file of the service.
pub(super) const FILE: &str = "/etc/echo-udpd/echo-udpd.toml";

/// Stands in for the editor: puts the lines below the heading that `systemctl edit` gives an empty drop-in, or into an
/// empty file. A line number may come before the name of the file.
const EDITOR: &str = r#"#!/bin/sh
for file; do :; done
if grep -q "^### Anything between" "$file"; then
    sed -i "/^### Anything between/r /tmp/lines" "$file"
else
    cat /tmp/lines > "$file"
fi
"#;

/// A recipe that is being followed.
pub(super) struct Steps<'a> {
    pub(super) container: &'a Container,
    recipe: Recipe,
    typed: usize,
}

impl<'a> Steps<'a> {
    /// Begins where the package is installed, with its own settings, and nothing runs.
    pub(super) fn new(container: &'a Container, recipe: Recipe) -> Self {
        let clean = format!(
            "systemctl disable --now echo-udpd.socket echo-udpd.service 2>&1
             rm -rf /etc/systemd/system/echo-udpd.* /etc/sysctl.d/echo-udpd.conf /etc/echo-udpd/other.toml
             systemctl daemon-reload; systemctl reset-failed; journalctl --quiet --rotate --vacuum-time=1us
             mkdir -p /srv/clone; cd /srv/clone; rm -rf *; : > {FILE}; chmod 644 {FILE}"
        );
        container.sh(&clean);
        Self { container, recipe, typed: 0 }
    }

    /// Which recipe this is, for messages.
    pub(super) fn place(&self) -> String {
        format!("{}, {}, {}", self.container.release, self.recipe.document, self.recipe.place)
    }

    pub(super) fn document(&self) -> &'static str {
        self.recipe.document
    }

    /// What the next command is.
    pub(super) fn next(&self) -> Option<&str> {
        self.recipe.commands.get(self.typed).map(String::as_str)
    }

    /// Types the next command; it may fail.
    pub(super) fn attempt(&mut self) -> Finished {
        let command = self.next().unwrap_or_else(|| panic!("{}: no more commands", self.place())).to_owned();
        self.typed += 1;
        // systemctl edits nothing without a terminal.
        let typed = match command.strip_prefix("systemctl edit ") {
            Some(unit) => {
                format!(
                    "SYSTEMD_EDITOR=/usr/local/bin/editor script -qec 'systemctl edit {unit}' /dev/null < /dev/null"
                )
            }
            None => command,
        };
        self.container.shell(&format!("cd /srv/clone; {typed}"))
    }

    /// Types the next command, which succeeds, and returns what it prints.
    pub(super) fn run(&mut self) -> String {
        let (place, command) = (self.place(), self.next().unwrap_or_default().to_owned());
        let finished = self.attempt();
        let journal = || self.container.shell("journalctl -q -o cat -u echo-udpd.socket -u echo-udpd.service").out;
        assert!(finished.status.success(), "{place}: {command}: {finished:?}\n{}", journal());
        finished.out
    }

    /// Types all that is left.
    pub(super) fn run_all(&mut self) {
        while self.next().is_some() {
            self.run();
        }
    }

    /// What the operator writes in the editor that opens next.
    pub(super) fn editor_writes(&self, lines: &str) {
        self.container.write("/tmp/lines", lines);
        self.container.write("/usr/local/bin/editor", EDITOR);
        self.container.sh("chmod +x /usr/local/bin/editor");
    }

    /// Whether units are active: "active inactive" of the service and the socket unit.
    pub(super) fn states(&self) -> String {
        self.container.shell("systemctl is-active echo-udpd.service echo-udpd.socket").out.trim_end().replace('\n', " ")
    }

    /// The UDP ports that are open, in order.
    pub(super) fn open_ports(&self) -> String {
        self.container.sh("ss -Hlun | grep -o ':[0-9]* ' | sort -u | tr -d ':\\n'").trim_end().to_owned()
    }

    /// Waits for these states: a reply may come before systemd knows that the service is ready.
    pub(super) fn wait_for_states(&self, wanted: &str) {
        wait_for(&format!("{wanted}: {}", self.place()), || (self.states() == wanted).then_some(()));
    }

    /// Every command was typed.
    pub(super) fn finish(self) {
        assert_eq!(self.next(), None, "{}: not typed", self.place());
    }
}
