//! This machine: which process listens on a port, by what the kernel shows in `/proc`, and the lock
//! that lets one marker at a time have the ports of the exercise.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::words::{Words, words};

/// The process that listens on a port; `None` if none does.
pub(crate) fn listener(port: u16) -> Option<Words> {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        _ => return None,
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    let socket = tables.iter().flat_map(|table| table.lines()).find_map(|line| socket(line, port));
    let process = socket.and_then(|inode| process(&inode));
    Some(process.map_or_else(
        || words("a process of another user", "un processus d'un autre utilisateur"),
        Words::quoted,
    ))
}

/// The lock of the machine. The kernel releases it with the process, however that ends.
pub(crate) struct Lock(#[allow(dead_code)] UnixListener);

impl Lock {
    /// Takes the lock; `None` if another marker has it.
    pub(crate) fn acquire() -> io::Result<Option<Lock>> {
        // An abstract name is one of a network namespace, as the ports are.
        let name = SocketAddr::from_abstract_name("grade.marking")?;
        match UnixListener::bind_addr(&name) {
            Ok(listener) => Ok(Some(Lock(listener))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The number of this machine's network namespace: what the lock is for.
pub(crate) fn machine() -> String {
    let link = fs::read_link("/proc/self/ns/net").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// The inode of a listening socket, from its line in `/proc/net/tcp`.
fn socket(line: &str, port: u16) -> Option<String> {
    const LISTENING: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, LISTENING, _, _, _, _, _, inode, ..] = fields[..] else { return None };
    let (_, number) = local.rsplit_once(':')?;
    (u16::from_str_radix(number, 16) == Ok(port)).then(|| inode.to_owned())
}

/// Name and pid of the process that has this socket, if we may look.
fn process(inode: &str) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(open) = fs::read_dir(entry.path().join("fd")) else { continue };
        let has =
            |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*socket);
        if open.flatten().any(has) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", command.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Lang;

    #[test]
    fn a_process_that_listens_is_named() {
        let own = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let port = own.local_addr().expect("an address").port();
        let process = listener(port).expect("a process");
        let pid = format!("(pid {})", std::process::id());
        assert!(process.text(Lang::English).ends_with(&pid), "{process:?}");
    }

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let line = "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        assert_eq!(socket(line, 8000).as_deref(), Some("4711"));
        assert_eq!(socket(line, 8001), None);
        assert_eq!(socket(&line.replace(" 0A ", " 01 "), 8000), None);
    }
}
