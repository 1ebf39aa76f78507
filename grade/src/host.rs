//! This machine: which process listens on a port, by what the kernel shows in `/proc`, and the lock
//! that lets one marker at a time have the ports of the exercise.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process;

use tools::sys::SIGKILL;

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
    let found = socket.and_then(|inode| holder(&inode));
    Some(found.map_or_else(
        || words("a process of another user", "un processus d'un autre utilisateur"),
        Words::quoted,
    ))
}

/// The lock of the machine. The kernel releases it with the process, however that ends.
pub(crate) struct Lock(#[allow(dead_code)] UnixListener);

impl Lock {
    /// Takes the lock; `None` if another marker has it.
    pub(crate) fn acquire() -> io::Result<Option<Lock>> {
        Lock::named("grade.marking")
    }

    fn named(name: &str) -> io::Result<Option<Lock>> {
        // An abstract name is one of a network namespace, as the ports are.
        let name = SocketAddr::from_abstract_name(name)?;
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

/// Ends the processes that have a folder in their environment: those of a marker that was killed,
/// whose builds would go on.
pub(crate) fn end_processes_of(folder: &Path) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != process::id()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let folder = folder.as_os_str().as_encoded_bytes();
        let has = environment
            .split(|byte| *byte == 0)
            .any(|it| it.strip_prefix(b"TMPDIR=") == Some(folder));
        if has {
            let _ = tools::sys::send_signal(pid, SIGKILL);
        }
    }
}

/// The network of this machine that a subnet such as `10.1.0.0/16` overlaps, if there is one:
/// then the machine would lose its way there.
pub(crate) fn overlapped(subnet: &str) -> Option<String> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    overlapped_in(&routes, subnet)
}

fn overlapped_in(routes: &str, subnet: &str) -> Option<String> {
    let (address, length) = subnet.split_once('/')?;
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    let mask = |length: u32| u32::MAX.checked_shl(32 - length.min(32)).unwrap_or_default();
    let own = mask(length.parse().ok()?);
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [device, to, _, _, _, _, _, theirs, ..] = fields[..] else { return None };
        // The kernel writes addresses in the order of the network, and prints them as numbers.
        let number = |text| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
        let (to, theirs) = (number(to)?, number(theirs)?);
        let both = own & theirs;
        (theirs != 0 && address & both == to & both)
            .then(|| format!("{device} {}/{}", Ipv4Addr::from(to), theirs.count_ones()))
    })
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
fn holder(inode: &str) -> Option<String> {
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
        let pid = format!("(pid {})", process::id());
        assert!(process.text(Lang::English).ends_with(&pid), "{process:?}");
    }

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let line = "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        assert_eq!(socket(line, 8000).as_deref(), Some("4711"));
        assert_eq!(socket(line, 8001), None);
        assert_eq!(socket(&line.replace(" 0A ", " 01 "), 8000), None);
    }

    #[test]
    fn a_subnet_that_this_machine_uses_is_seen() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth0 00000000 0101A8C0 0003 0 0 0 00000000 0 0 0\n\
            eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        for (subnet, found) in [
            ("192.168.1.0/24", true),
            ("192.168.0.0/16", true),
            ("192.168.1.128/25", true),
            ("192.168.2.0/24", false),
            ("10.0.0.0/8", false),
            ("odd", false),
        ] {
            let overlapped = overlapped_in(routes, subnet);
            assert_eq!(overlapped.as_deref(), found.then_some("eth0 192.168.1.0/24"), "{subnet}");
        }
    }

    #[test]
    fn one_marker_at_a_time_has_the_lock() {
        let name = format!("grade.test-{}", process::id());
        let lock = || Lock::named(&name).expect("a socket");
        let first = lock().expect("the lock");
        assert!(lock().is_none());
        drop(first);
        assert!(lock().is_some());
    }

    #[test]
    fn processes_of_a_killed_marker_are_ended() {
        let folder = Path::new("/tmp/grade-of-a-test");
        let mut command = process::Command::new("sleep");
        let mut own = command.arg("1000").env("TMPDIR", folder).spawn().expect("a process");
        // The kernel shows the new environment some time after the new name.
        let environment = format!("/proc/{}/environ", own.id());
        while !fs::read_to_string(&environment).expect("it runs").contains("grade-of-a-test") {
            std::thread::yield_now();
        }
        end_processes_of(Path::new("/tmp/grade-of-another"));
        assert!(own.try_wait().expect("its state").is_none());
        end_processes_of(folder);
        assert!(!own.wait().expect("its end").success());
    }
}
