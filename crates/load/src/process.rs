//! Processes of this machine: those that are started here, and what any of them uses.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

/// How long a process may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(15);
/// How many lines of its log are told of a process that has ended.
const LAST_WORDS: usize = 20;
/// What `/proc/<pid>/stat` counts time in: fixed by the kernel's interface, whatever its timer does.
const TICKS: f64 = 100.0;

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; what it prints goes to `<name>.log` in `logs`.
    pub(crate) fn start(name: &str, mut command: Command, logs: &Path) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.name))
    }

    /// An error once it has ended.
    pub(crate) fn runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} has ended: {status}; its last words:\n{}", self.name, self.last_words())
            }
        }
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LAST_WORDS)..).unwrap_or_default().join("\n")
    }

    /// Ends it at once, as a crash would.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// Asks it to end, and ends it when it does not.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill").arg(self.pid()?.to_string()).status().await?;
        if !asked.success() || tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            return self.kill().await;
        }
        Ok(())
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Seconds of CPU time, in user and kernel mode.
    pub(crate) cpu: f64,
    /// Bytes resident now.
    pub(crate) resident: u64,
    /// Of those, the ones that are no file's: heap and stacks.
    pub(crate) anonymous: u64,
    /// Most bytes that were resident since [`reset_peak`].
    pub(crate) peak: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{file}"))
                .with_context(|| format!("cannot look at process {pid}"))
        };
        let status = read("status")?;
        let kilobytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.map(|number| number * 1024).with_context(|| format!("process {pid} has no {field}"))
        };
        Ok(Self {
            cpu: cpu(&read("stat")?).with_context(|| format!("cannot read /proc/{pid}/stat"))?,
            resident: kilobytes("VmRSS")?,
            anonymous: kilobytes("RssAnon")?,
            peak: kilobytes("VmHWM")?,
        })
    }
}

/// utime and stime, the 14th and 15th field; the second is a name in parentheses that may hold anything.
fn cpu(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

/// Lets the peak begin anew.
pub(crate) fn reset_peak(pid: u32) -> anyhow::Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")
        .with_context(|| format!("cannot reset the peak of {pid}"))
}

/// A port of this machine that nobody uses.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_called_like_a_stat_line_is_read_right() {
        let stat = "7 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(cpu(stat), Some(2.0));
        assert_eq!(cpu("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > usage.anonymous && usage.anonymous > 0 && usage.peak >= usage.resident);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
