//! What rustfmt leaves alone: comments and texts stay within the width of the house.

use std::path::{Path, PathBuf};

/// As in .rustfmt.toml.
const COLUMNS: usize = 120;

/// The folder of Cargo.toml.
pub(crate) fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The Rust files below a folder.
pub(crate) fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Of the fuzz targets' own build.
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn no_line_is_wider_than_the_house_allows() {
    let root = root();
    let files: Vec<_> = ["src", "tests", "examples"].iter().flat_map(|folder| sources(&root.join(folder))).collect();
    assert!(files.len() > 50, "{files:?}");
    let mut wide = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().enumerate().filter(|(_, line)| line.chars().count() > COLUMNS);
        wide.extend(lines.map(|(number, _)| format!("{}:{}", file.strip_prefix(&root).unwrap().display(), number + 1)));
    }
    assert!(wide.is_empty(), "wider than {COLUMNS} columns: {wide:#?}");
}
