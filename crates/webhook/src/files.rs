//! The certificate files on disk.
//!
//! Each file is a symlink through `..data` into a directory of its own, and switching `..data` replaces them all
//! at once: a reader never sees a key that does not fit its certificate.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use jiff::Timestamp;

use crate::certs::{CA_CERT, CA_KEY, SERVER_CERT, SERVER_KEY, SecretData, TLS_CERT, TLS_KEY};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";
const NAMES: [&str; 6] = [CA_CERT, CA_KEY, SERVER_CERT, SERVER_KEY, TLS_CERT, TLS_KEY];

/// Reads what [`write`] left; none when there is nothing.
pub fn read(dir: &Path) -> Option<SecretData> {
    let read = |name: &str| Some((name.to_owned(), fs::read(dir.join(name)).ok()?));
    let data: SecretData = NAMES.into_iter().filter_map(read).collect();
    (!data.is_empty()).then_some(data)
}

/// Replaces the files, readable by their owner only. The authority's key stays out unless this is its only home.
pub fn write(dir: &Path, data: &SecretData, with_ca_key: bool, now: Timestamp) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let stamp = now.strftime("%Y_%m_%d_%H_%M_%S_%f").to_string();
    let before = fs::read_link(dir.join(DATA)).ok();
    let mut version = format!("..{stamp}");
    if before.as_deref() == Some(Path::new(&version)) {
        // The one in use must not vanish from under its readers.
        version.push_str("_1");
    }
    let inner = dir.join(&version);
    if inner.exists() {
        fs::remove_dir_all(&inner)?;
    }
    DirBuilder::new().mode(0o700).create(&inner)?;
    let names = || NAMES.into_iter().filter(|name| with_ca_key || *name != CA_KEY);
    for (name, content) in names().filter_map(|name| Some((name, data.get(name)?))) {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(inner.join(name))?;
        file.write_all(content)?;
        file.sync_all()?;
    }
    let next = dir.join(DATA_NEXT);
    remove_if_there(&next)?;
    symlink(&version, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    for name in names() {
        let (link, target) = (dir.join(name), Path::new(DATA).join(name));
        if fs::read_link(&link).ok().as_deref() != Some(target.as_path()) {
            remove_if_there(&link)?;
            symlink(&target, &link)?;
        }
    }
    if let Some(before) = before.filter(|before| *before != Path::new(&version)) {
        fs::remove_dir_all(dir.join(before))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    fn data(mark: &str) -> SecretData {
        NAMES.into_iter().map(|name| (name.to_owned(), format!("{mark} {name}").into_bytes())).collect()
    }

    fn empty_dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("kruise-webhook-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn files_are_replaced_together_private_and_without_the_authority_key() {
        let dir = empty_dir("replace");
        write(&dir, &data("old"), false, at(1)).unwrap();
        write(&dir, &data("new"), false, at(2)).unwrap();
        write(&dir, &data("newest"), false, at(2)).unwrap();
        let mut expected = data("newest");
        expected.remove(CA_KEY);
        assert_eq!(read(&dir), Some(expected));
        let mode = fs::metadata(dir.join(SERVER_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let versions =
            fs::read_dir(&dir).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
        assert_eq!(versions, 2, "only the current directory and the link to it stay");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn certificates_kept_on_disk_come_back_whole() {
        let dir = empty_dir("whole");
        assert_eq!(read(&dir), None);
        write(&dir, &data("x"), true, at(1)).unwrap();
        assert_eq!(read(&dir), Some(data("x")));
        fs::remove_dir_all(dir).unwrap();
    }
}
