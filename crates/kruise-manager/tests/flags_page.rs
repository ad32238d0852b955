//! `docs/flags.md` tells every flag of both binaries. It is made from them: `UPDATE_DOCS=1` writes it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this is a test")]

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _};
use kruise_manager::commands::CommandLine;

const ABOUT: &str = "# Flags

Made from the binaries, which tell the same with `--help`. Durations are written as in Go: `90s`, `1h30m`. A flag that is on
or off may be given without a value, which is on, or as `--flag=false`.
";

/// One line of a table.
fn row(arg: &Arg) -> String {
    let name = match arg.get_long() {
        Some(long) => format!("`--{long}`"),
        None => format!("`<{}>`", arg.get_id().as_str().to_uppercase()),
    };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match defaults.join(",") {
        none if none.is_empty() => String::new(),
        default => format!("`{default}`"),
    };
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    assert!(!help.is_empty(), "{name} says nothing of itself");
    let choices: Vec<_> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    // Of a switch they say nothing.
    let choices = if choices.len() > 1 && choices.first().is_some_and(|first| first != "`true`") {
        format!(". One of {}", choices.join(", "))
    } else {
        String::new()
    };
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    format!("| {name} | {default} | {help}{choices} |\n")
}

/// The flags of a command, then those of its subcommands.
fn section(command: &Command, title: &str, level: usize, page: &mut String) {
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    writeln!(page, "\n{} {title}\n\n{}", "#".repeat(level), about.replace('\n', " ")).unwrap();
    let ours = |arg: &&Arg| !["help", "version"].contains(&arg.get_id().as_str());
    let (hidden, shown): (Vec<_>, Vec<_>) =
        command.get_arguments().filter(ours).partition(|arg| arg.is_hide_set());
    if !shown.is_empty() {
        page.push_str("\n| Flag | Default | |\n|---|---|---|\n");
        page.extend(shown.into_iter().map(row));
    }
    if !hidden.is_empty() {
        let names: Vec<_> =
            hidden.iter().filter_map(|arg| arg.get_long()).map(|long| format!("`--{long}`")).collect();
        writeln!(page, "\nAccepted, and without effect: {}.", names.join(", ")).unwrap();
    }
    for subcommand in command.get_subcommands() {
        section(subcommand, &format!("{title} {}", subcommand.get_name()), level + 1, page);
    }
}

#[test]
fn the_page_tells_every_flag_there_is() {
    let mut page = ABOUT.to_owned();
    section(&CommandLine::command(), "kruise-manager", 2, &mut page);
    section(&kruise_daemon::flags::Flags::command(), "kruise-daemon", 2, &mut page);
    for flag in
        ["--rate-limiter-qps", "--cloneset-workers", "--max-workers-for-pull-image", "--before-install"]
    {
        assert!(page.contains(&format!("| `{flag}` |")), "{flag}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flags.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == page, "docs/flags.md is stale: run this test with UPDATE_DOCS=1");
}
