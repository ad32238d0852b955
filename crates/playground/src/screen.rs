//! What the demo prints: headings, commands, a table of pods that is redrawn in place on a terminal, and claims.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use jiff::Timestamp;

use crate::world::{PodRow, World};

/// Moves up and clears to the end of the screen.
const UP_AND_CLEAR: (&str, &str) = ("\x1b[", "A\x1b[J");

/// Where the demo is shown.
pub(crate) struct Screen<W> {
    out: W,
    live: bool,
    /// Lines of the table that stands at the bottom of a live screen.
    drawn: usize,
    last: Vec<Vec<String>>,
    /// How often each event was told when it was shown last.
    told: BTreeMap<String, i32>,
}

impl Screen<io::Stdout> {
    /// The terminal, or a plain log if standard output is none.
    pub(crate) fn stdout() -> Self {
        let live = io::stdout().is_terminal();
        Screen::new(io::stdout(), live)
    }
}

impl<W: Write> Screen<W> {
    /// A live screen redraws its table, any other prints it once a claim is reached.
    pub(crate) fn new(out: W, live: bool) -> Self {
        Self { out, live, drawn: 0, last: Vec::new(), told: BTreeMap::new() }
    }

    /// A heading and what is about to be seen.
    pub(crate) fn heading(&mut self, title: &str, about: &str) -> io::Result<()> {
        self.drawn = 0;
        self.last.clear();
        let bar = "─".repeat(title.chars().count());
        writeln!(self.out, "\n{title}\n{bar}\n{about}")?;
        self.out.flush()
    }

    /// What a user would type.
    pub(crate) fn command(&mut self, command: &str) -> io::Result<()> {
        self.drawn = 0;
        writeln!(self.out, "\n  $ {command}")?;
        self.out.flush()
    }

    /// A line of its own.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.drawn = 0;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Shows the pods as they are now; only a live screen is drawn before the end.
    pub(crate) fn show(&mut self, world: &World, now: Timestamp) -> io::Result<()> {
        if !self.live {
            return Ok(());
        }
        let rows = rows(&world.pods, now);
        if rows == self.last {
            return Ok(());
        }
        self.draw(&rows)
    }

    /// Shows the pods, the events since the last claim, and what has been reached.
    pub(crate) fn reached(
        &mut self,
        world: &World,
        now: Timestamp,
        claim: &str,
        took: f64,
    ) -> io::Result<()> {
        self.draw(&rows(&world.pods, now))?;
        self.drawn = 0;
        self.last.clear();
        for event in &world.events {
            if self.told.insert(event.name.clone(), event.count) != Some(event.count) {
                writeln!(self.out, "  event  {}: {}", event.reason, event.message)?;
            }
        }
        writeln!(self.out, "  ✓ {claim} ({took:.1} s)")?;
        self.out.flush()
    }

    fn draw(&mut self, rows: &[Vec<String>]) -> io::Result<()> {
        if self.live && self.drawn > 0 {
            write!(self.out, "{}{}{}", UP_AND_CLEAR.0, self.drawn, UP_AND_CLEAR.1)?;
        }
        let lines = aligned(rows);
        for line in &lines {
            writeln!(self.out, "  {line}")?;
        }
        self.drawn = lines.len();
        self.last = rows.to_vec();
        self.out.flush()
    }
}

fn rows(pods: &[PodRow], now: Timestamp) -> Vec<Vec<String>> {
    let header = ["NAME", "REVISION", "IMAGE", "READY", "STATUS", "RESTARTS", "NODE", "AGE"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(pods.iter().map(|pod| {
        let short = pod.image.rsplit('/').next().unwrap_or_default();
        vec![
            pod.name.clone(),
            pod.revision.clone(),
            short.to_owned(),
            if pod.ready { "yes" } else { "no" }.to_owned(),
            pod.state.clone(),
            pod.restarts.to_string(),
            pod.node.clone(),
            age(pod.created, now),
        ]
    }));
    rows
}

fn age(created: Option<Timestamp>, now: Timestamp) -> String {
    let seconds = created.map_or(0, |created| now.as_second().saturating_sub(created.as_second()).max(0));
    if seconds < 120 { format!("{seconds}s") } else { format!("{}m", seconds / 60) }
}

/// Columns padded to their widest cell.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Told;

    fn pod(name: &str) -> PodRow {
        PodRow {
            name: name.to_owned(),
            uid: "u".to_owned(),
            ip: "10.0.0.1".to_owned(),
            revision: "6c4bf".to_owned(),
            image: "demo/web:1".to_owned(),
            state: "Running".to_owned(),
            ready: true,
            restarts: 0,
            node: "node-1".to_owned(),
            created: Some(Timestamp::UNIX_EPOCH),
            terminating: false,
        }
    }

    fn text(screen: Screen<Vec<u8>>) -> String {
        String::from_utf8(screen.out).unwrap()
    }

    #[test]
    fn columns_stand_below_each_other() {
        let now = Timestamp::from_second(5).unwrap();
        let lines = aligned(&rows(&[pod("web-a"), pod("web-longer")], now));
        let column = lines[0].find("REVISION").unwrap();
        assert!(lines[1..].iter().all(|line| line[column..].starts_with("6c4bf")), "{lines:#?}");
        assert!(lines[1].ends_with("5s"));
    }

    #[test]
    fn a_log_gets_each_table_once_and_no_escape_codes() {
        let mut screen = Screen::new(Vec::new(), false);
        let world = World { pods: vec![pod("web-a")], ..World::default() };
        screen.show(&world, Timestamp::UNIX_EPOCH).unwrap();
        screen.show(&world, Timestamp::UNIX_EPOCH).unwrap();
        screen.reached(&world, Timestamp::UNIX_EPOCH, "one pod runs", 0.3).unwrap();
        let text = text(screen);
        assert_eq!(text.matches("web-a").count(), 1, "{text}");
        assert!(!text.contains('\x1b') && text.contains("✓ one pod runs (0.3 s)"), "{text}");
    }

    #[test]
    fn a_terminal_redraws_the_table_only_when_it_changed() {
        let mut screen = Screen::new(Vec::new(), true);
        let mut world = World { pods: vec![pod("web-a")], ..World::default() };
        screen.show(&world, Timestamp::UNIX_EPOCH).unwrap();
        screen.show(&world, Timestamp::UNIX_EPOCH).unwrap();
        world.pods.push(pod("web-b"));
        screen.show(&world, Timestamp::UNIX_EPOCH).unwrap();
        let text = text(screen);
        assert_eq!(text.matches("\x1b[2A\x1b[J").count(), 1, "{text:?}");
    }

    #[test]
    fn an_event_is_shown_each_time_it_is_told() {
        let mut screen = Screen::new(Vec::new(), false);
        let mut world = World::default();
        let (name, reason, message) = ("e", "SuccessfulCreate", "pod web-a");
        world.events.push(Told {
            name: name.into(),
            reason: reason.into(),
            message: message.into(),
            count: 1,
        });
        screen.reached(&world, Timestamp::UNIX_EPOCH, "first", 0.1).unwrap();
        screen.reached(&world, Timestamp::UNIX_EPOCH, "second", 0.1).unwrap();
        world.events[0].count = 2;
        screen.reached(&world, Timestamp::UNIX_EPOCH, "third", 0.1).unwrap();
        assert_eq!(text(screen).matches("SuccessfulCreate").count(), 2);
    }
}
