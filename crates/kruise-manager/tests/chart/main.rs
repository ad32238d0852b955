//! The chart, `charts/kruise`: that it knows of this binary what is so, what it renders, and what it refuses.
//!
//! `UPDATE_CHART=1 cargo test -p kruise-manager --test chart` rewrites the generated parts of the chart and the golden
//! files. Rendering needs helm, which `e2e/cluster/cluster helm` builds; without it those tests say so and end, unless
//! `HELM_REQUIRED` is set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests end a test where they cannot go on"
)]

mod gates;
mod helm;
mod knowledge;
mod nulls;
mod pages;
mod refusals;
mod renders;
mod security;

use std::fs;
use std::path::{Path, PathBuf};

/// The directory of the chart.
fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/kruise")
}

/// Whether files are to be rewritten instead of compared.
fn updating() -> bool {
    std::env::var_os("UPDATE_CHART").is_some()
}

/// The first line in which a file is not as it should be, and how to mend it; none when it is.
fn differs(path: &Path, wanted: &str) -> Option<String> {
    let present = fs::read_to_string(path).unwrap_or_default();
    if present == wanted {
        return None;
    }
    if updating() {
        fs::write(path, wanted).unwrap();
        return None;
    }
    let (mut old, mut new, mut number) = (present.lines(), wanted.lines(), 1);
    loop {
        let lines = (old.next(), new.next());
        if lines.0 != lines.1 || lines.0.is_none() {
            let line = |line: Option<&str>| line.map_or("(end)".to_owned(), str::to_owned);
            let (path, old, new) = (path.display(), line(lines.0), line(lines.1));
            return Some(format!(
                "{path}:{number}\n  is      {old}\n  must be {new}\n  to accept: UPDATE_CHART=1 cargo test -p kruise-manager --test chart"
            ));
        }
        number += 1;
    }
}
