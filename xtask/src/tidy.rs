//! Rules of this repository that neither the compiler nor clippy knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Longest source file, in lines.
const MAX_LINES: usize = 900;
/// What product code must not contain, and why.
const FORBIDDEN: [(&str, &str); 3] = [
    ("json!(", "build a serialisable struct; json! is for tests"),
    ("todo!(", "finish it or leave it out"),
    ("unimplemented!(", "finish it or leave it out"),
];
/// Of several ready branches `select!` draws one, from a seed that cannot be given.
const DRAWN: &str =
    "select!: say which branch goes first with `biased;`, or a simulated history cannot be replayed";
/// The crates whose objects are JSON values throughout, so that `json!` is how they say things.
const DYNAMIC: [&str; 3] = ["load", "sandbox", "simulator"];
/// Crates everybody builds on, lowest first. A crate may depend on lower ones only.
const LAYERS: [&str; 4] = ["kruise-api", "kruise-common", "kruise-runtime", "kruise-webhook"];
/// Crates on top of everything, lowest first.
const BINARIES: [&str; 7] = [
    "kruise-manager",
    "kruise-daemon",
    "kruise-playground",
    "kruise-load",
    "kruise-simulator",
    "kruise-e2e",
    "xtask",
];

/// Every breach of a rule in the repository, as `file:line: what to do`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut complaints = Vec::new();
    for directory in ["crates", "xtask", "e2e"] {
        for path in files(&root.join(directory))? {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let read = || fs::read_to_string(&path).with_context(|| format!("cannot read {name}"));
            if path.file_name().is_some_and(|file| file == "Cargo.toml") {
                complaints.extend(upward(&read()?).into_iter().map(|what| format!("{name}: {what}")));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = read()?;
                complaints.extend(too_long(&text).map(|what| format!("{name}: {what}")));
                if directory == "crates" && !is_test(&path) {
                    let mut found = forbidden(&text);
                    if path.components().any(|part| DYNAMIC.iter().any(|name| part.as_os_str() == *name)) {
                        found.retain(|(_, what)| !what.contains("json!"));
                    }
                    complaints.extend(found.into_iter().map(|(line, what)| format!("{name}:{line}: {what}")));
                }
            }
        }
    }
    Ok(complaints)
}

/// All files below a directory, in order.
fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether a file is test code as a whole.
fn is_test(path: &Path) -> bool {
    let directory = |name: &str| path.components().any(|part| part.as_os_str() == name);
    directory("tests") || directory("benches") || path.file_stem().is_some_and(|stem| stem == "tests")
}

/// Lines, counted from 1, that hold something forbidden before the file's tests begin.
fn forbidden(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("#[cfg(test)]") {
            // A test module in a file of its own, or an item used by tests, ends nothing.
            let rest: Vec<&str> = text.lines().skip(index + 1).map(str::trim).collect();
            let item = rest.iter().find(|line| !line.is_empty() && !line.starts_with("#["));
            if !item.is_some_and(|item| item.ends_with(';')) {
                break;
            }
        }
        if code.starts_with("//") {
            continue;
        }
        for (what, why) in FORBIDDEN {
            if holds(code, what) {
                found.push((index + 1, format!("{}: {why}", what.trim_end_matches('('))));
            }
        }
        if holds(code, "select! {") && text.lines().nth(index + 1).map(str::trim) != Some("biased;") {
            found.push((index + 1, DRAWN.to_owned()));
        }
    }
    found
}

/// Whether code calls the macro: preceded by nothing that would make it another name.
fn holds(code: &str, what: &str) -> bool {
    code.match_indices(what).any(|(at, _)| {
        let before = code.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|character| character.is_alphanumeric() || character == '_' || character == '"')
    })
}

/// A complaint if the file is too long to read.
fn too_long(text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_LINES).then(|| format!("{lines} lines, more than {MAX_LINES}: split it"))
}

/// Dependencies of a manifest that point upwards or sideways. Only the plain form of manifests this repository
/// uses is understood: one dependency a line, or a table of its own.
fn upward(manifest: &str) -> Vec<String> {
    let (mut section, mut package, mut dependencies) = ("", "", Vec::new());
    for line in manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            if let Some((before, name)) = section.rsplit_once("dependencies.") {
                dependencies.extend((before != "dev-").then_some(name));
            }
        } else if let Some((key, value)) = line.split_once('=') {
            let key = key.trim().trim_end_matches(".workspace");
            if section == "package" && key == "name" {
                package = value.trim().trim_matches('"');
            } else if section.ends_with("dependencies") && section != "dev-dependencies" {
                dependencies.push(key);
            }
        }
    }
    let ours = |name: &&str| name.starts_with("kruise-") || BINARIES.contains(name);
    let upwards = |name: &&str| layer(name) >= layer(package);
    let complaints = dependencies.into_iter().filter(ours).filter(upwards);
    complaints.map(|name| format!("{package} must not depend on {name}")).collect()
}

/// How high a crate stands: the shared ones by [`LAYERS`], then controllers, then binaries.
fn layer(name: &str) -> usize {
    if let Some(at) = BINARIES.iter().position(|known| *known == name) {
        return LAYERS.len() + 1 + at;
    }
    LAYERS.iter().position(|known| *known == name).unwrap_or(LAYERS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        forbidden(text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn the_repository_is_tidy() {
        assert_eq!(check(&crate::root().unwrap()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn json_macros_are_for_tests_only() {
        assert_eq!(lines("fn a() {\n let x = json!({});\n serde_json::json!([]);\n}\n"), [2, 3]);
        assert_eq!(lines("fn a() {}\n#[cfg(test)]\nmod tests {\n json!({});\n}\n"), Vec::<usize>::new());
        assert_eq!(lines("#[cfg(test)]\nmod tests;\nfn a() { json!({}); }\n"), [3]);
        assert_eq!(lines("/// Not json!({}).\nfn a() { my_json!({}); \"json!(\" }\n"), Vec::<usize>::new());
    }

    #[test]
    fn what_is_ready_at_once_is_taken_in_an_order() {
        assert_eq!(lines("tokio::select! {\n () = a => {}\n}\n"), [1]);
        assert_eq!(lines("tokio::select! {\n    biased;\n () = a => {}\n}\n"), Vec::<usize>::new());
    }

    #[test]
    fn unfinished_code_is_refused() {
        assert_eq!(lines("fn a() { todo!() }\nfn b() { unimplemented!(\"x\") }\n"), [1, 2]);
    }

    #[test]
    fn whole_files_of_tests_are_known_by_where_they_are() {
        for (path, expected) in [
            ("crates/a/tests/x.rs", true),
            ("crates/a/src/b/tests.rs", true),
            ("crates/a/benches/x.rs", true),
            ("crates/a/src/b.rs", false),
        ] {
            assert_eq!(is_test(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn files_may_be_900_lines_long() {
        assert_eq!(too_long(&"\n".repeat(900)), None);
        assert!(too_long(&"\n".repeat(901)).is_some());
    }

    #[test]
    fn crates_depend_downwards_only() {
        for (own, dependency, allowed) in [
            ("kruise-common", "kruise-api", true),
            ("kruise-api", "kruise-common", false),
            ("kruise-runtime", "kruise-webhook", false),
            ("kruise-webhook", "kruise-runtime", true),
            ("kruise-cloneset", "kruise-webhook", true),
            ("kruise-cloneset", "kruise-statefulset", false),
            ("kruise-webhook", "kruise-cloneset", false),
            ("kruise-manager", "kruise-cloneset", true),
            ("kruise-cloneset", "kruise-manager", false),
            ("kruise-api", "serde", true),
        ] {
            for form in [
                format!("[dependencies]\n{dependency} = {{ workspace = true }}"),
                format!("[build-dependencies]\n{dependency}.workspace = true"),
                format!("[dependencies.{dependency}]\nworkspace = true"),
                format!("[target.'cfg(unix)'.dependencies]\n{dependency} = {{ workspace = true }}"),
            ] {
                let manifest = format!("[package]\nname = \"{own}\"\n\n{form}\n");
                assert_eq!(upward(&manifest).is_empty(), allowed, "{own} on {dependency}: {form}");
            }
        }
    }

    #[test]
    fn tests_may_depend_on_any_crate() {
        for form in
            ["[dev-dependencies]\nkruise-common = { workspace = true }", "[dev-dependencies.kruise-common]"]
        {
            assert!(upward(&format!("[package]\nname = \"kruise-api\"\n{form}\n")).is_empty());
        }
    }
}
