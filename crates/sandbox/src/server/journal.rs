//! The state of a server in a directory: what was answered is still there after the process was killed.
//!
//! `state.json` is a whole state, written anew now and then and put in place by a rename. Every change after it is a
//! line of a `journal-….jsonl`, written before the change is answered. The kernel has it then: a killed process loses
//! nothing. There is no fsync per change: a machine that loses power may lose the last changes, never older ones.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::storage::{Store, Stored, lock};
use super::{Config, Server};

const STATE: &str = "state.json";
const UNFINISHED: &str = "state.json.new";
const LOCK: &str = "lock";
/// A journal of this size is folded into the state, unless the state itself is much larger.
const ENOUGH: u64 = 8 << 20;

/// One change, as a line.
#[derive(Serialize)]
struct Line<'a> {
    rv: u64,
    table: &'a str,
    /// Absent when a whole table goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// Absent when the object goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a Value>,
}

/// A line that was read back.
#[derive(Deserialize)]
struct Change {
    rv: u64,
    table: String,
    key: Option<String>,
    object: Option<Value>,
}

#[derive(Serialize)]
struct State<'a> {
    #[serde(rename = "resourceVersion")]
    rv: u64,
    objects: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    table: &'a str,
    key: &'a str,
    object: &'a Value,
}

#[derive(Deserialize)]
struct StateRead {
    #[serde(rename = "resourceVersion")]
    rv: u64,
    objects: Vec<EntryRead>,
}

#[derive(Deserialize)]
struct EntryRead {
    table: String,
    key: String,
    object: Value,
}

type Objects = BTreeMap<(String, String), Value>;
type Held = (Arc<str>, Arc<str>, Arc<Stored>);

/// Where a store writes its changes down.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    /// Journals are numbered in the order they are written.
    number: u64,
    file: File,
    written: u64,
    state_size: u64,
    folding: Arc<AtomicBool>,
    /// The thread that folds, or has folded.
    folder: Option<JoinHandle<()>>,
    failed: watch::Sender<Option<String>>,
    /// Held as long as the directory is in use.
    _lock: File,
}

impl Journal {
    /// Writes down that an object is now this, or gone; without a key, that the whole table is gone.
    pub(crate) fn note(&mut self, rv: u64, table: &str, key: Option<&str>, object: Option<&Value>) {
        let written = serde_json::to_vec(&Line { rv, table, key, object }).map_err(io::Error::from);
        let written = written.and_then(|mut line| {
            line.push(b'\n');
            // One write, so that a kill leaves a whole line or the beginning of one.
            self.file.write_all(&line).map(|()| line.len() as u64)
        });
        match written {
            Ok(size) => self.written += size,
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, error: &io::Error) {
        self.failed.send_replace(Some(format!("cannot write to {}: {error}", self.dir.display())));
    }

    fn is_long(&self) -> bool {
        self.written > ENOUGH.max(self.state_size * 2)
    }

    /// Starts a new journal; what came before is to be folded into the state.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = start(&self.dir, self.number + 1)?;
        self.number += 1;
        self.written = 0;
        Ok(())
    }
}

impl Drop for Journal {
    /// Waits until nobody writes to the directory any more, which the next to open it must not see happen.
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            // A thread that panicked has put no state in place: the journals still have everything.
            let _ = folder.join();
        }
    }
}

impl Store {
    /// Folds a long journal into the state, on a thread of its own.
    pub(crate) fn fold_if_long(&mut self) {
        let rv = self.rv();
        let Some(journal) = &mut self.journal else { return };
        if !journal.is_long() || journal.folding.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = journal.rotate() {
            return journal.fail(&error);
        }
        let (dir, number) = (journal.dir.clone(), journal.number);
        let (failed, folding) = (journal.failed.clone(), Arc::clone(&journal.folding));
        // Rough, and good enough to tell when to fold next.
        journal.state_size = journal.state_size.max(ENOUGH / 2);
        let objects = self.held();
        let folder = std::thread::spawn(move || {
            if let Err(error) = fold(&dir, number, rv, &objects) {
                failed.send_replace(Some(error.to_string()));
            }
            folding.store(false, Ordering::Release);
        });
        if let Some(journal) = &mut self.journal {
            journal.folder = Some(folder);
        }
    }

    fn held(&self) -> Vec<Held> {
        self.all()
            .map(|(table, key, stored)| (Arc::clone(table), Arc::clone(key), Arc::clone(stored)))
            .collect()
    }
}

impl Server {
    /// A server whose state is kept in a directory: what is there already is served again, and every change is written
    /// down before it is answered.
    ///
    /// # Errors
    /// The directory cannot be used, another process uses it, or what it holds is damaged.
    pub fn durable(config: Config, dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir).map_err(|error| at(dir, &error))?;
        let held = claim(dir)?;
        let server = match read(dir)? {
            Some((rv, objects)) => {
                let server = Self::empty(config);
                {
                    let mut store = lock(&server.0.store);
                    for ((table, key), object) in objects {
                        store.put_back(&table, &key, object);
                    }
                    store.raise(rv);
                    store.compact();
                }
                server.serve_stored();
                server
            }
            None => Self::new(config),
        };
        {
            let mut store = lock(&server.0.store);
            let number = journals(dir)?.into_keys().next_back().map_or(0, |last| last + 1);
            let state_size = fold(dir, number, store.rv(), &store.held())?;
            store.journal = Some(Journal {
                dir: dir.to_owned(),
                number,
                file: start(dir, number)?,
                written: 0,
                state_size,
                folding: Arc::default(),
                folder: None,
                failed: watch::Sender::new(None),
                _lock: held,
            });
        }
        Ok(server)
    }

    /// Resolves with the reason when the state can no longer be written down; never without a directory.
    pub async fn failed_to_save(&self) -> String {
        let failed = lock(&self.0.store).journal.as_ref().map(|journal| journal.failed.subscribe());
        let Some(mut failed) = failed else { return std::future::pending().await };
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Writes the whole state and waits until it is on the disk. Without a directory nothing happens.
    ///
    /// # Errors
    /// It cannot be written; the journal still has it.
    pub fn save(&self) -> io::Result<()> {
        let mut store = lock(&self.0.store);
        let Some(journal) = &mut store.journal else { return Ok(()) };
        if journal.folding.load(Ordering::Acquire) {
            return journal.file.sync_all().map_err(|error| at(&journal.dir, &error));
        }
        journal.rotate()?;
        let (dir, number) = (journal.dir.clone(), journal.number);
        fold(&dir, number, store.rv(), &store.held()).map(|_| ())
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {why}", path.display()))
}

fn claim(dir: &Path) -> io::Result<File> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| at(&path, &error))?;
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => {
            io::Error::new(io::ErrorKind::AddrInUse, format!("{} is used by another process", dir.display()))
        }
        fs::TryLockError::Error(error) => at(&path, &error),
    })?;
    Ok(file)
}

fn start(dir: &Path, number: u64) -> io::Result<File> {
    let path = dir.join(format!("journal-{number:09}.jsonl"));
    OpenOptions::new().create_new(true).append(true).open(&path).map_err(|error| at(&path, &error))
}

/// The journals by their number.
fn journals(dir: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|error| at(dir, &error))? {
        let path = entry.map_err(|error| at(dir, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("journal-").and_then(|rest| rest.strip_suffix(".jsonl"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.insert(number, path);
        }
    }
    Ok(found)
}

/// Puts a whole state in place, then removes the journals before `number`, which it holds. Returns its size.
fn fold(dir: &Path, number: u64, rv: u64, objects: &[Held]) -> io::Result<u64> {
    let mut sorted: Vec<&Held> = objects.iter().collect();
    sorted.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let objects =
        sorted.iter().map(|(table, key, stored)| Entry { table, key, object: &stored.value }).collect();
    let size = put_state(dir, &State { rv, objects })?;
    for (_, journal) in journals(dir)?.range(..number) {
        fs::remove_file(journal).map_err(|error| at(journal, &error))?;
    }
    Ok(size)
}

fn put_state(dir: &Path, state: &State<'_>) -> io::Result<u64> {
    let path = dir.join(UNFINISHED);
    let write = || {
        let mut out = BufWriter::new(File::create(&path)?);
        serde_json::to_writer(&mut out, state)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let size = file.metadata()?.len();
        fs::rename(&path, dir.join(STATE))?;
        // The rename itself has to reach the disk before journals go.
        File::open(dir)?.sync_all()?;
        Ok(size)
    };
    write().map_err(|error: io::Error| at(&path, &error))
}

/// What the directory holds; `None` if nothing.
fn read(dir: &Path) -> io::Result<Option<(u64, Objects)>> {
    let path = dir.join(STATE);
    let (mut rv, mut objects) = match File::open(&path) {
        Ok(file) => {
            let state: StateRead =
                serde_json::from_reader(BufReader::new(file)).map_err(|error| damaged(&path, error))?;
            let objects = state.objects.into_iter().map(|entry| ((entry.table, entry.key), entry.object));
            (state.rv, objects.collect::<Objects>())
        }
        // Nothing is answered before the first state is in place.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path, &error)),
    };
    for journal in journals(dir)?.into_values() {
        replay(&journal, &mut rv, &mut objects)?;
    }
    Ok(Some((rv, objects)))
}

fn replay(path: &Path, rv: &mut u64, objects: &mut Objects) -> io::Result<()> {
    let mut lines = BufReader::new(File::open(path).map_err(|error| at(path, &error))?);
    let mut line = Vec::new();
    loop {
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(|error| at(path, &error))?;
        if line.last() != Some(&b'\n') {
            // The end, or a change that was being written when the process was killed, and never answered.
            return Ok(());
        }
        let change: Change = serde_json::from_slice(&line).map_err(|error| damaged(path, error))?;
        // A dropped table has no version of its own: it comes after the change of that version.
        if change.rv < *rv || (change.rv == *rv && change.key.is_some()) {
            continue;
        }
        *rv = change.rv;
        match (change.key, change.object) {
            (Some(key), Some(object)) => drop(objects.insert((change.table, key), object)),
            (Some(key), None) => drop(objects.remove(&(change.table, key))),
            (None, _) => objects.retain(|(table, _), _| *table != change.table),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("kruise-journal-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&dir));
            Self(dir)
        }

        fn open(&self) -> Server {
            Server::durable(Config::default(), &self.0).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn put(server: &Server, key: &str, size: usize) -> u64 {
        let object = json!({"metadata": {"name": key}, "data": {"x": "y".repeat(size)}});
        lock(&server.0.store).insert("configmaps", key, object).unwrap().rv
    }

    #[test]
    fn what_was_written_is_there_after_a_kill() {
        let dir = Dir::new("kill");
        let server = dir.open();
        put(&server, "a", 1);
        let b = put(&server, "b", 1);
        {
            let mut store = lock(&server.0.store);
            store.remove("configmaps", "b", b, None).unwrap();
            store.insert("gone", "x", json!({"metadata": {}})).unwrap();
            store.drop_table("gone");
        }
        let before = server.snapshot();
        // Dropping does no more than a kill would: nothing is written at the end.
        drop(server);
        assert_eq!(dir.open().snapshot(), before);
        assert_eq!(dir.open().snapshot(), before, "the second start reads the state of the first");
    }

    #[test]
    fn a_torn_line_is_a_change_that_was_never_answered() {
        let dir = Dir::new("torn");
        let server = dir.open();
        put(&server, "a", 1);
        let before = server.snapshot();
        put(&server, "b", 1);
        drop(server);
        let (_, path) = journals(&dir.0).unwrap().pop_last().unwrap();
        let size = fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(size - 5).unwrap();
        assert_eq!(dir.open().snapshot(), before);
    }

    #[test]
    fn damage_is_told_rather_than_passed_over() {
        let dir = Dir::new("damage");
        let server = dir.open();
        put(&server, "a", 1);
        drop(server);
        let (_, path) = journals(&dir.0).unwrap().pop_last().unwrap();
        fs::write(&path, "{\"rv\":\n{}\n").unwrap();
        let error = Server::durable(Config::default(), &dir.0).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn a_directory_serves_one_process_at_a_time() {
        let dir = Dir::new("lock");
        let server = dir.open();
        let error = Server::durable(Config::default(), &dir.0).err().unwrap();
        assert!(error.to_string().ends_with("is used by another process"), "{error}");
        drop(server);
        dir.open();
    }

    #[test]
    fn a_long_journal_is_folded_and_nothing_is_lost_meanwhile() {
        let dir = Dir::new("fold");
        let server = dir.open();
        for number in 0..40 {
            put(&server, &format!("{number:03}"), 1 << 19);
        }
        let before = server.snapshot();
        drop(server);
        assert_eq!(dir.open().snapshot(), before);
        assert_eq!(journals(&dir.0).unwrap().len(), 1);
    }

    #[test]
    fn a_saved_state_is_complete() {
        let dir = Dir::new("save");
        let server = dir.open();
        put(&server, "a", 1);
        server.save().unwrap();
        put(&server, "b", 1);
        let before = server.snapshot();
        drop(server);
        assert_eq!(dir.open().snapshot(), before);
    }

    #[tokio::test]
    async fn a_failure_to_write_is_told() {
        let dir = Dir::new("failure");
        let server = dir.open();
        let (_, path) = journals(&dir.0).unwrap().pop_last().unwrap();
        // A file opened for reading takes no writes.
        lock(&server.0.store).journal.as_mut().unwrap().file = File::open(&path).unwrap();
        put(&server, "a", 1);
        let why = server.failed_to_save().await;
        assert!(why.starts_with("cannot write to "), "{why}");
    }
}
