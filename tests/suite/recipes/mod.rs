//! What the documents tell an operator to type works when it is typed as it is shown: each command is read out of its
//! document, run in containers of Debian 12 and 13, and its effect looked at.
//!
//! [`PROOFS`] says which proof belongs to which place; a place without one is an error, and so is a proof without a
//! place.

mod documents;
mod proofs;
mod sessions;
mod steps;

use std::collections::BTreeSet;

use self::documents::{Recipe, recipes};
use self::steps::Steps;
use crate::harness::container::{Container, releases};

const README: &str = "README.md";
const SERVICE_PAGE: &str = "packaging/man/echo-udpd.8";
const CLIENT_PAGE: &str = "packaging/man/echo-udp.1";
const SETTINGS_PAGE: &str = "packaging/man/echo-udpd.toml.5";
const CATALOG: &str = "packaging/systemd/echo-udpd.catalog";
const SERVICE: &str = "packaging/systemd/echo-udpd.service";
const SOCKET: &str = "packaging/systemd/echo-udpd.socket";
const PORT_7: &str = "packaging/systemd/port-7.conf";
const SOCKET_ONLY: &str = "packaging/systemd/socket-only.conf";
const SYSCTL: &str = "packaging/sysctl.d/echo-udpd.conf";
const SETTINGS: &str = "config/echo-udpd.toml";

/// How the commands of a place are proved.
enum Proof {
    /// Run in a container where the package is installed and nothing runs.
    InContainer(fn(&mut Steps)),
    /// With what they print, by a test of `sessions`.
    Session,
}
use Proof::{InContainer, Session};

/// The proof of each place, by document and place.
const PROOFS: &[(&str, &str, Proof)] = &[
    (README, "A session with netcat, block 1", Session),
    (README, "A session with netcat, block 2", Session),
    (README, "Install, block 1", InContainer(proofs::install)),
    (README, "Install, block 2", InContainer(proofs::install_by_hand)),
    (README, "As a service of systemd", InContainer(proofs::readable_and_secure)),
    (README, "As a service of systemd, block 1", Session),
    (README, "change a setting", InContainer(proofs::reload)),
    (README, "change the port", InContainer(proofs::other_port)),
    (README, "use port 7, echo's own", InContainer(proofs::port_seven)),
    (README, "read the settings from another file", InContainer(proofs::other_file)),
    (README, "read the log", InContainer(proofs::read_log)),
    (README, "log all counters", InContainer(proofs::counters)),
    (README, "get the whole buffers", InContainer(proofs::whole_buffers)),
    (README, "let systemd hold the port", InContainer(proofs::socket_unit)),
    (README, "change the port of the socket unit", InContainer(proofs::port_of_socket_unit)),
    (README, "let systemd hold port 7", InContainer(proofs::socket_unit_on_port_seven)),
    (README, "take away the service's network as well", InContainer(proofs::no_network)),
    (README, "go back to the service's own sockets", InContainer(proofs::own_sockets_again)),
    (README, "stop it", InContainer(proofs::stop)),
    (README, "Nothing comes back: why?", InContainer(proofs::counters)),
    (README, "nc ends at once, or \"connection refused\"", InContainer(proofs::who_listens)),
    (README, "Settings, block 1", Session),
    (README, "The client", Session),
    (SERVICE_PAGE, "EXAMPLES, block 1", InContainer(proofs::first_use)),
    (SERVICE_PAGE, "EXAMPLES, block 2", InContainer(proofs::reload)),
    (SERVICE_PAGE, "EXAMPLES, block 3", InContainer(proofs::foreground)),
    (SERVICE_PAGE, "SERVICE", InContainer(proofs::other_file)),
    (SERVICE_PAGE, "Its own sockets", InContainer(proofs::stop)),
    (SERVICE_PAGE, "Its own sockets, block 1", InContainer(proofs::whole_buffers)),
    (SERVICE_PAGE, "A port below 1024", InContainer(proofs::port_seven)),
    (SERVICE_PAGE, "The socket unit, block 1", InContainer(proofs::socket_unit)),
    (SERVICE_PAGE, "The socket unit", InContainer(proofs::port_of_socket_unit)),
    (SERVICE_PAGE, "The socket unit, block 3", InContainer(proofs::socket_unit_on_port_seven)),
    (SERVICE_PAGE, "The socket unit, block 4", InContainer(proofs::no_network)),
    (SERVICE_PAGE, "RELOAD", InContainer(proofs::reload)),
    (SERVICE_PAGE, "SIGNALS", InContainer(proofs::counters)),
    (SERVICE_PAGE, "LOG", InContainer(proofs::read_log)),
    (CLIENT_PAGE, "EXAMPLES, block 1", InContainer(proofs::say_hello)),
    (CLIENT_PAGE, "EXAMPLES, block 2", InContainer(proofs::send_file)),
    (SETTINGS_PAGE, "DESCRIPTION", InContainer(proofs::reload)),
    (CATALOG, "The port could not be bound again", InContainer(proofs::port_seven)),
    (CATALOG, "The socket unit listens elsewhere than the settings say", InContainer(proofs::port_of_socket_unit)),
    (CATALOG, "There are fewer sockets than workers", InContainer(proofs::more_workers)),
    (CATALOG, "The receive buffer is smaller than asked for", InContainer(proofs::whole_buffers)),
    (CATALOG, "The send buffer is smaller than asked for", InContainer(proofs::whole_buffers)),
    (CATALOG, "The service could not run", InContainer(proofs::why_it_failed)),
    (CATALOG, "The settings could not be reloaded", InContainer(proofs::reload)),
    (CATALOG, "Some changed settings need a restart", InContainer(proofs::other_port)),
    (CATALOG, "Counters", InContainer(proofs::counters)),
    (SETTINGS, "comments", InContainer(proofs::reload)),
    (SYSCTL, "comments", InContainer(proofs::whole_buffers)),
    (SERVICE, "comments", InContainer(proofs::port_seven)),
    (SOCKET, "comments", InContainer(proofs::port_of_socket_unit)),
    (PORT_7, "comments", InContainer(proofs::socket_unit_on_port_seven)),
    (SOCKET_ONLY, "comments", InContainer(proofs::no_network)),
];

/// Commands that no proof runs, with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("cargo run --release", "builds; its session is proved with the program of this build"),
    ("cargo test", "is running"),
    ("cargo build --release", "builds what the package installs"),
    ("cargo doc --open", "opens a browser"),
    ("cargo deb", "makes the package that the containers install"),
    ("cargo install cargo-deb", "needs the network"),
    ("systemctl --user", "is said not to work"),
    ("systemctl reload", "names what another command does"),
    ("nping --udp", "names the habit of another program"),
    ("tc -s qdisc", "shows what is the kernel's"),
    ("echo-udp send", "is a synopsis"),
    ("echo-udp send [--host NAME] [--port PORT] [-4|-6] [-W SECONDS] WORD...", "is a synopsis"),
];

/// What is to be proved.
fn proved_recipes() -> impl Iterator<Item = Recipe> {
    let is_excepted = |recipe: &Recipe, command: &str| {
        // The session needs its first command.
        !recipe.place.starts_with("A session") && EXCEPTIONS.iter().any(|(excepted, _)| *excepted == command)
    };
    recipes().into_iter().filter_map(move |mut recipe| {
        let all = std::mem::take(&mut recipe.commands);
        recipe.commands = all.into_iter().filter(|command| !is_excepted(&recipe, command)).collect();
        (!recipe.commands.is_empty()).then_some(recipe)
    })
}

#[test]
fn every_command_of_the_documents_has_a_proof_and_every_proof_a_command() {
    let shown: BTreeSet<_> = proved_recipes().map(|recipe| (recipe.document, recipe.place)).collect();
    let proved: BTreeSet<_> = PROOFS.iter().map(|(document, place, _)| (*document, (*place).to_owned())).collect();
    assert_eq!(proved, shown);
    for (excepted, reason) in EXCEPTIONS {
        let is_shown = recipes().iter().any(|recipe| recipe.commands.iter().any(|command| command == excepted));
        assert!(is_shown, "no document shows `{excepted}`, which {reason}");
    }
}

#[test]
fn what_the_documents_tell_to_type_works_as_typed() {
    for release in releases() {
        let container = Container::boot(&release);
        for recipe in proved_recipes() {
            let known =
                PROOFS.iter().find(|(document, place, _)| *document == recipe.document && *place == recipe.place);
            let Some((_, _, InContainer(proof))) = known else { continue };
            let mut steps = Steps::new(&container, recipe);
            proof(&mut steps);
            steps.finish();
        }
    }
}
