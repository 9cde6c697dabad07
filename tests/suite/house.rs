//! The rooms of src/ as lib.rs lists them, against the paths in their code; and files that a reader can hold in mind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::style::{root, sources};

/// A room by its name, with those that it uses.
type Rooms = BTreeMap<String, BTreeSet<String>>;

/// Longer, and why.
const LONG_FILES: [(&str, &str); 1] =
    [("tests/suite/library_server.rs", "one set of handlers for all that a server promises")];

const MOST_LINES: usize = 500;
/// What a `mod.rs` says is what its room is; what the room does is in files beside it.
const MOST_LINES_OF_A_DOOR: usize = 250;

/// The list in lib.rs, from the top down: a line for each room, continued where the next one is indented.
fn listed() -> Vec<(String, BTreeSet<String>)> {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let (_, list) = text.split_once("//! # The rooms").unwrap();
    let (_, list) = list.split_once("//! ```text\n").unwrap();
    let (list, _) = list.split_once("//! ```").unwrap();
    let lines = list.replace("\n//!      ", "").replace("//!", "");
    let rooms = lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let (room, uses) = line.split_once("->").unwrap_or((line, ""));
        let uses = uses.split(',').map(str::trim).filter(|room| !room.is_empty());
        (room.trim().to_owned(), uses.map(str::to_owned).collect())
    });
    rooms.collect()
}

/// What the compiler sees of a file outside its unit tests.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split_once("\n#[cfg(test)]\n").map_or(&*text, |(code, _)| code);
    let lines = code.lines().map(|line| line.split_once("// ").map_or(line, |(code, _)| code));
    lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The names that follow `crate::` (in a program: the library's name) in a file's code.
fn paths<'a>(code: &'a str, from: &'a str) -> impl Iterator<Item = &'a str> {
    let follows = |(at, _)| {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let whole = !code[..at].ends_with(is_name);
        let name = code[at + from.len()..].split(|c| !is_name(c)).next().unwrap_or_default();
        whole.then_some(name)
    };
    code.match_indices(from).filter_map(follows)
}

/// The rooms in src/ and those that their code uses.
fn built() -> Rooms {
    let (src, mut rooms) = (root().join("src"), Rooms::new());
    for file in sources(&src) {
        let inside = file.strip_prefix(&src).unwrap().with_extension("");
        let mut names: Vec<_> = inside.iter().map(|name| name.to_str().unwrap()).collect();
        let (room, from) = match names[..] {
            ["lib"] => continue,
            ["bin", program] => (format!("bin/{program}"), "echo_udpd::"),
            [room, ..] => (room.to_owned(), "crate::"),
            [] => unreachable!("a file has a name"),
        };
        names.retain(|&name| name != "mod");
        let code = code(&file);
        assert!(!code.contains(&"super::".repeat(names.len())), "{}: leaves its room by super::", file.display());
        let uses = paths(&code, from).filter(|&used| used != room).map(str::to_owned);
        rooms.entry(room.clone()).or_default().extend(uses);
    }
    rooms
}

/// What is wrong with a list of rooms.
fn faults(listed: &[(String, BTreeSet<String>)], built: &Rooms) -> Vec<String> {
    let mut faults = Vec::new();
    let place = |wanted: &str| listed.iter().position(|(room, _)| room == wanted);
    faults.extend(built.keys().filter(|room| place(room).is_none()).map(|room| format!("{room} is not listed")));
    for (at, (room, drawn)) in listed.iter().enumerate() {
        let Some(used) = built.get(room) else {
            faults.push(format!("{room} is listed and does not exist"));
            continue;
        };
        faults.extend(used.difference(drawn).map(|used| format!("{room} -> {used} is not listed")));
        faults.extend(drawn.difference(used).map(|drawn| format!("{room} -> {drawn} is listed and not used")));
        let up = used.union(drawn).filter(|used| place(used).is_none_or(|below| below <= at));
        faults.extend(up.map(|used| format!("{room} -> {used} does not lead down")));
    }
    faults
}

#[test]
fn the_rooms_are_as_listed_and_use_only_those_below() {
    let built = built();
    assert!(built.len() > 10 && built["server"].contains("handler"), "{built:#?}");
    let faults = faults(&listed(), &built);
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_wrong_list_of_rooms_is_noticed() {
    let room = |name: &str, uses: &[&str]| (name.to_owned(), uses.iter().map(|&used| used.to_owned()).collect());
    let built: Rooms = [room("server", &["socket"]), room("socket", &[])].into();
    let right = [room("server", &["socket"]), room("socket", &[])];
    assert_eq!(faults(&right, &built), [""; 0]);
    for (wrong, fault) in [
        (vec![right[0].clone()], "socket is not listed"),
        (vec![room("server", &[]), right[1].clone()], "server -> socket is not listed"),
        (vec![right[0].clone(), room("socket", &["server"])], "socket -> server is listed and not used"),
        (vec![right[1].clone(), right[0].clone()], "server -> socket does not lead down"),
        (vec![right[0].clone(), right[1].clone(), room("cellar", &[])], "cellar is listed and does not exist"),
    ] {
        let faults = faults(&wrong, &built);
        assert!(faults.contains(&fault.to_owned()), "{fault}: {faults:?}");
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let code =
        "use crate::admission::Policy;\nfn f() -> Result<crate::stats::Stats, $crate::Error> { mycrate::other() }";
    assert_eq!(paths(code, "crate::").collect::<Vec<_>>(), ["admission", "stats", "Error"]);
    // A group is written as lines of their own, which any reader can search for.
    assert_eq!(paths("use crate::{a, b};", "crate::").collect::<Vec<_>>(), [""]);
}

#[test]
fn no_file_is_too_long_to_hold_in_mind() {
    let root = root();
    let mut long = BTreeMap::new();
    for file in ["src", "tests", "examples"].iter().flat_map(|folder| sources(&root.join(folder))) {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().take_while(|&line| line != "#[cfg(test)]").count();
        let most = if file.ends_with("mod.rs") { MOST_LINES_OF_A_DOOR } else { MOST_LINES };
        if lines > most {
            long.insert(file.strip_prefix(&root).unwrap().display().to_string(), lines);
        }
    }
    let allowed: BTreeSet<_> = LONG_FILES.into_iter().map(|(file, _)| file.to_owned()).collect();
    assert_eq!(long.keys().cloned().collect::<BTreeSet<_>>(), allowed, "{long:#?}");
}
