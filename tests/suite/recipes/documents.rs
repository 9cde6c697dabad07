//! Reads what the documents tell an operator to type: commands, in the order and place in which they are shown, and the
//! lines of a file that go with them.
//!
//! A command is a line of a block of shell, a line after a prompt, or text in code or bold that begins with the name of
//! a program and has an argument. Documents are README.md, the man pages, the catalog, and the comments of settings,
//! units and drop-ins.

use std::path::Path;

/// The commands of one place in a document.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) document: &'static str,
    /// The first cell of a table's row, the subject of a catalog's entry, or the heading, whose blocks are numbered.
    pub(super) place: String,
    pub(super) commands: Vec<String>,
}

const PAGES: [&str; 3] = ["packaging/man/echo-udp.1", "packaging/man/echo-udpd.8", "packaging/man/echo-udpd.toml.5"];
const CATALOG: &str = "packaging/systemd/echo-udpd.catalog";
const COMMENTED: [&str; 6] = [
    "config/echo-udpd.toml",
    "packaging/sysctl.d/echo-udpd.conf",
    "packaging/systemd/echo-udpd.service",
    "packaging/systemd/echo-udpd.socket",
    "packaging/systemd/port-7.conf",
    "packaging/systemd/socket-only.conf",
];

/// What operators are told to run.
const PROGRAMS: &[&str] = &[
    "apt-get",
    "cargo",
    "cat",
    "chmod",
    "dpkg",
    "echo",
    "echo-udp",
    "echo-udpd",
    "editor",
    "install",
    "journalctl",
    "kill",
    "mkdir",
    "nc",
    "nping",
    "printf",
    "rm",
    "ss",
    "sysctl",
    "systemctl",
    "systemd-analyze",
    "systemd-run",
    "tc",
];

/// A document of this source.
pub(super) fn read(document: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All recipes of all documents.
pub(super) fn recipes() -> Vec<Recipe> {
    let mut found = readme("README.md", &read("README.md"));
    found.extend(PAGES.iter().flat_map(|page| man_page(page, &read(page))));
    found.extend(catalog(CATALOG, &read(CATALOG)));
    found.extend(COMMENTED.iter().map(|file| comments(file, &read(file))));
    found.retain(|recipe| !recipe.commands.is_empty());
    found
}

/// The lines that a document shows from this one on, without what makes them a comment or a block: what an operator is
/// told to add to a file.
pub(super) fn shown_lines(document: &str, first: &str, second: &str) -> String {
    let text = read(document);
    let plain = |line: &str| unescape(line.trim_start().strip_prefix('#').unwrap_or(line.trim_start()));
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with(['.', '`']);
    // In a unit the comment ends where the unit goes on.
    let commented = |line: &&str| !document.starts_with("packaging/systemd/echo-udpd.s") || line.starts_with('#');
    let lines: Vec<_> = text.lines().collect();
    let begin = lines.windows(2).position(|pair| plain(pair[0]) == first && plain(pair[1]).starts_with(second));
    let begin = begin.unwrap_or_else(|| panic!("{document} does not show {first} and {second}"));
    let shown = lines[begin..].iter().copied().take_while(is_code).take_while(commented).map(plain);
    shown.collect::<Vec<_>>().join("\n")
}

/// The line that a document shows which begins like this.
pub(super) fn shown_line(document: &str, start: &str) -> String {
    let text = read(document);
    let line = text.lines().map(unescape).find(|line| line.starts_with(start));
    line.unwrap_or_else(|| panic!("{document} does not show {start}"))
}

/// What README shows in its blocks of this language below a heading, a string each.
pub(super) fn blocks(heading: &str, language: &str) -> Vec<String> {
    let text = read("README.md");
    let section = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("README has no {heading}")).1;
    let section = section.split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    section.split(&fence).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Whether this is a command, not just a name.
fn is_command(text: &str) -> bool {
    // Not a reference to a page of the manual, nor a line of Cargo.toml.
    let is_argument = |rest: &str| !rest.is_empty() && !rest.starts_with(['(', '=']);
    text.split_once(' ').is_some_and(|(program, rest)| PROGRAMS.contains(&program) && is_argument(rest))
}

/// Collects commands by place.
#[derive(Default)]
struct Collector {
    document: &'static str,
    heading: String,
    blocks: usize,
    recipes: Vec<Recipe>,
}

impl Collector {
    fn new(document: &'static str) -> Self {
        Self { document, ..Self::default() }
    }

    fn heading(&mut self, heading: &str) {
        self.heading = heading.to_owned();
        self.blocks = 0;
    }

    fn add(&mut self, place: &str, commands: Vec<String>) {
        match self.recipes.iter_mut().find(|recipe| recipe.place == place) {
            Some(recipe) => recipe.commands.extend(commands),
            None => self.recipes.push(Recipe { document: self.document, place: place.to_owned(), commands }),
        }
    }

    fn prose(&mut self, text: &str) {
        let heading = self.heading.clone();
        self.add(&heading, in_code(text));
    }

    fn block(&mut self, commands: Vec<String>) {
        self.blocks += 1;
        let place = format!("{}, block {}", self.heading, self.blocks);
        self.add(&place, commands);
    }
}

/// Commands between backticks.
fn in_code(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).filter(|code| is_command(code)).map(str::to_owned).collect()
}

fn readme(document: &'static str, text: &str) -> Vec<Recipe> {
    let mut found = Collector::new(document);
    let mut lines = text.lines();
    let mut paragraph = String::new();
    while let Some(line) = lines.next() {
        if !line.is_empty() && !line.starts_with(['#', '|']) && !line.starts_with("```") {
            paragraph.push_str(line);
            paragraph.push(' ');
            continue;
        }
        found.prose(&std::mem::take(&mut paragraph));
        if let Some(heading) = line.strip_prefix('#') {
            found.heading(heading.trim_start_matches(['#', ' ']));
        } else if let Some(row) = line.strip_prefix("| ") {
            found.add(row.split(" | ").next().unwrap(), in_code(row));
        } else if let Some(language) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            let commands = match language {
                "sh" => block.iter().map(|line| line.split(" # ").next().unwrap().trim_end().to_owned()).collect(),
                _ => block.iter().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect(),
            };
            found.block(commands);
        }
    }
    found.prose(&paragraph);
    found.recipes
}

fn man_page(document: &'static str, text: &str) -> Vec<Recipe> {
    let mut found = Collector::new(document);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let (request, rest) = line.split_once(' ').unwrap_or((line, ""));
        match request {
            ".SH" | ".SS" => found.heading(&unescape(rest)),
            ".EX" => {
                let block = lines.by_ref().take_while(|line| *line != ".EE").map(unescape);
                let typed = block.map(|line| line.strip_prefix("$ ").unwrap_or(&line).to_owned());
                found.block(typed.filter(|line| is_command(line)).collect());
            }
            ".B" | ".BR" => {
                // A quoted first word is one word.
                let word = rest.strip_prefix('"').map_or(rest, |quoted| quoted.split('"').next().unwrap());
                let heading = found.heading.clone();
                found.add(&heading, Some(unescape(word)).filter(|word| is_command(word)).into_iter().collect());
            }
            _ => {}
        }
    }
    found.recipes
}

/// Text as a reader of the page sees it.
fn unescape(text: &str) -> String {
    text.replace("\\(aq", "'").replace("\\(dq", "\"").replace("\\-", "-").replace("\\e", "\\")
}

fn catalog(document: &'static str, text: &str) -> Vec<Recipe> {
    let mut found = Collector::new(document);
    for entry in text.split("\n-- ").skip(1) {
        let subject = entry.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap();
        found.heading(subject);
        found.prose(&entry.replace('\n', " "));
    }
    found.recipes
}

/// Commands of a file's comments: lines of their own that are set in, and what is in code.
fn comments(document: &'static str, text: &str) -> Recipe {
    let comments = text.lines().filter_map(|line| line.strip_prefix('#'));
    let (set_in, prose): (Vec<_>, Vec<_>) = comments.partition(|line| line.starts_with("   "));
    let mut commands: Vec<_> = set_in.into_iter().map(|line| line.trim().to_owned()).collect();
    commands.extend(in_code(&prose.join(" ")));
    Recipe { document, place: "comments".into(), commands }
}
