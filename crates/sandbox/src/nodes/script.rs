//! When a simulated container exits by itself, and with which code.
//!
//! Annotations of the pod say so, `<container>` being the container's name:
//!
//! - `sandbox.kruise.io/<container>.exit-after: 5s`: it exits that long after its start; `0s` at once.
//! - `sandbox.kruise.io/<container>.exit-code: "1"`: with this code; 0 when absent. Without `exit-after` it exits at once.
//! - `sandbox.kruise.io/<container>.ready-after: 2s`: it becomes ready that long after its start, instead of when the
//!   settings say.
//!
//! Without them a command that can be understood is: `sleep 5`, `true`, `false`, `exit 3`, alone or joined by `;` or
//! `&&` in `sh -c "sleep 2; exit 1"`. Init containers whose command says nothing exit with 0 at once; any other container runs
//! until it is stopped.

use std::time::Duration;

use super::wire::{ContainerSpec, PodView};

/// How a container ends by itself: how long after its start, with which code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct End {
    pub(crate) after: Duration,
    pub(crate) code: i32,
}

/// How the container ends by itself; `None` when it runs until it is stopped.
pub(crate) fn end(pod: &PodView, container: &ContainerSpec, init: bool) -> Option<End> {
    let after = setting(pod, container, "exit-after").and_then(duration);
    let code = setting(pod, container, "exit-code").and_then(|code| code.parse().ok());
    if after.is_some() || code.is_some() {
        return Some(End { after: after.unwrap_or_default(), code: code.unwrap_or_default() });
    }
    match command(&container.command, &container.args) {
        Command::Ends(end) => Some(end),
        Command::Stays => None,
        Command::Unknown => init.then_some(End { after: Duration::ZERO, code: 0 }),
    }
}

/// How long after its start the container becomes ready, when the pod says so.
pub(crate) fn ready_after(pod: &PodView, container: &ContainerSpec) -> Option<Duration> {
    setting(pod, container, "ready-after").and_then(duration)
}

fn setting<'a>(pod: &'a PodView, container: &ContainerSpec, what: &str) -> Option<&'a str> {
    pod.annotation(&format!("sandbox.kruise.io/{}.{what}", container.name))
}

/// `5s`, `200ms`, `2m`, `1h` or plain seconds.
fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Command {
    Ends(End),
    Stays,
    Unknown,
}

fn command(command: &[String], args: &[String]) -> Command {
    let words: Vec<&str> = command.iter().chain(args).map(String::as_str).collect();
    let shell = |program: &str| matches!(program.rsplit('/').next(), Some("sh" | "bash" | "ash"));
    match words.as_slice() {
        [program, "-c", script, ..] if shell(program) => {
            run(script.split([';', '\n']).flat_map(|part| part.split("&&")))
        }
        [] => Command::Unknown,
        words => run([words.join(" ").as_str()].into_iter()),
    }
}

/// Adds up steps until one ends the script; a step that is not understood makes the whole one unknown.
fn run<'a>(steps: impl Iterator<Item = &'a str>) -> Command {
    let mut end = End { after: Duration::ZERO, code: 0 };
    for step in steps.map(str::trim).filter(|step| !step.is_empty()) {
        let words: Vec<&str> = step.split_whitespace().collect();
        match words.as_slice() {
            ["sleep", "infinity" | "inf"] => return Command::Stays,
            ["sleep" | "/bin/sleep", time] => match duration(time) {
                Some(time) => (end.after, end.code) = (end.after.saturating_add(time), 0),
                None => return Command::Unknown,
            },
            ["exit", code] => match code.parse() {
                Ok(code) => return Command::Ends(End { code, ..end }),
                Err(_) => return Command::Unknown,
            },
            ["exit"] => return Command::Ends(end),
            ["true" | "/bin/true"] | ["echo", ..] => end.code = 0,
            ["false" | "/bin/false"] => end.code = 1,
            _ => return Command::Unknown,
        }
    }
    Command::Ends(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn simple_commands_say_when_a_container_ends() {
        let ends = |seconds, code| Command::Ends(End { after: Duration::from_secs(seconds), code });
        let rows: [(&[&str], Command); 8] = [
            (&["sleep", "5"], ends(5, 0)),
            (&["sh", "-c", "sleep 2; exit 3"], ends(2, 3)),
            (&["/bin/sh", "-c", "echo hello && exit 1"], ends(0, 1)),
            (&["sh", "-c", "sleep 1 && sleep 2"], ends(3, 0)),
            (&["false"], ends(0, 1)),
            (&["sleep", "infinity"], Command::Stays),
            (&["nginx", "-g"], Command::Unknown),
            (&[], Command::Unknown),
        ];
        for (given, expected) in rows {
            assert_eq!(command(&words(given), &[]), expected, "{given:?}");
        }
    }

    #[test]
    fn annotations_win_over_the_command_and_init_containers_end_by_default() {
        let container =
            ContainerSpec { name: "a".into(), command: words(&["sleep", "9"]), ..Default::default() };
        let mut pod = PodView::default();
        let annotations = [("sandbox.kruise.io/a.exit-after", "2s"), ("sandbox.kruise.io/a.exit-code", "4")];
        pod.metadata.annotations =
            Some(annotations.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
        assert_eq!(end(&pod, &container, false), Some(End { after: Duration::from_secs(2), code: 4 }));
        let plain = ContainerSpec { name: "b".into(), ..Default::default() };
        assert_eq!(end(&pod, &plain, false), None);
        assert_eq!(end(&pod, &plain, true), Some(End { after: Duration::ZERO, code: 0 }));
    }
}
