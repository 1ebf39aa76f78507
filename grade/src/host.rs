//! Who on this machine listens on a port, by what the kernel shows in `/proc`.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use crate::words::{Words, words};

/// Whoever listens there; `None` if nobody does.
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
        || words("a process of somebody else", "un processus de quelqu'un d'autre"),
        Words::quoted,
    ))
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
    fn who_listens_is_named() {
        let own = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let port = own.local_addr().expect("an address").port();
        let who = listener(port).expect("somebody");
        let pid = format!("(pid {})", std::process::id());
        assert!(who.text(Lang::English).ends_with(&pid), "{who:?}");
    }

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let line = "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        assert_eq!(socket(line, 8000).as_deref(), Some("4711"));
        assert_eq!(socket(line, 8001), None);
        assert_eq!(socket(&line.replace(" 0A ", " 01 "), 8000), None);
    }
}
