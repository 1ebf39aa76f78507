//! Files of a stranger's checkout: which are inside of it, which can be read, and how much a build
//! would send to the engine.

use std::fs;
use std::path::{Component, Path};

use crate::words::{Words, words};

/// The longest compose file that we have seen has 100 kB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Returns true if a builder or Compose would fetch it.
pub(crate) fn is_remote(path: &str) -> bool {
    path.contains("://")
        || path.starts_with("git@")
        || path.starts_with("github.com/")
        || path.starts_with("oci:")
        || path.starts_with("docker-image:")
}

/// Returns true if a path leads out of the checkout, by `..`, from the root, or by a symbolic link.
/// `root` has no symbolic links.
pub(crate) fn escapes(root: &Path, path: &Path) -> bool {
    let path = root.join(path);
    if path.components().any(|part| part.as_os_str().to_string_lossy().starts_with('~')) {
        return true;
    }
    let mut known = &*path;
    loop {
        match known.canonicalize() {
            Ok(real) => return !real.starts_with(root),
            // A missing file leads nowhere, but the folders before it may. Steps upwards from
            // nowhere are another matter: Compose would take them.
            Err(_) if path.components().any(|part| part == Component::ParentDir) => return true,
            Err(_) if known.is_symlink() => return true,
            Err(_) => match known.parent() {
                Some(parent) => known = parent,
                None => return true,
            },
        }
    }
}

/// Returns true if a path is inside of the checkout, and a regular file if anything is there: a
/// pipe or a socket would be waited for.
pub(crate) fn is_own_file(root: &Path, path: &Path) -> bool {
    !escapes(root, path) && path.metadata().map_or(true, |about| about.is_file())
}

/// Where a path outside of the checkout leads, for a report.
pub(crate) fn outside(said: &str, path: &Path) -> Words {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    words(
        format!("{said}: {} is outside of the repository, or no regular file", real.display()),
        format!("{said} : {} est hors du dépôt, ou n'est pas un fichier ordinaire", real.display()),
    )
}

/// A path as seen from the checkout.
pub(crate) fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// A file's bytes; `None` if it is no regular file, or longer than what people write.
pub(crate) fn bytes(path: &Path) -> Option<Vec<u8>> {
    let about = path.metadata().ok()?;
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        return None;
    }
    fs::read(path).ok()
}

/// A file's text; `None` as above, or if it has NUL bytes.
pub(crate) fn text(path: &Path) -> Option<String> {
    let bytes = bytes(path).filter(|bytes| !bytes.contains(&0))?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
