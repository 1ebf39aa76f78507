//! The process that listens on a port, for error messages: read from `/proc`.

use std::fs;

/// The state of a listening socket in `/proc/net/tcp` (`TCP_LISTEN` of `tcp_states.h`).
const TCP_LISTEN: &str = "0A";

/// The process that listens on a port, in words. `None` if there is none in this network namespace.
pub(super) fn describe(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let inodes: Vec<String> =
        tables.iter().flatten().flat_map(|table| listening_inodes(table, port)).collect();
    if inodes.is_empty() {
        return None;
    }
    let Some(pid) = process_of(&inodes) else {
        return Some("a process of another user, such as Docker's".to_owned());
    };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{}, pid {pid}", name.trim_end()))
}

/// The inodes of the sockets that listen on this port.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let rows = table.lines().skip(1).filter_map(|row| {
        let columns: Vec<&str> = row.split_whitespace().collect();
        let (_, local_port) = columns.get(1)?.rsplit_once(':')?;
        let is_match =
            u16::from_str_radix(local_port, 16) == Ok(port) && columns.get(3) == Some(&TCP_LISTEN);
        is_match.then(|| columns.get(9).map(|inode| (*inode).to_owned()))?
    });
    rows.collect()
}

/// The process that has a descriptor of one of these sockets, if this user may see it.
fn process_of(inodes: &[String]) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| {
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
            inode.is_some_and(|inode| inodes.iter().any(|known| known == inode))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listening_port_has_a_process_and_a_free_one_has_none() {
        for host in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((host, 0)).expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let description = describe(port).expect("it is in use");
            assert!(
                description.ends_with(&format!(", pid {}", std::process::id())),
                "{description}"
            );
            drop(listener);
            assert_eq!(describe(port), None);
        }
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1
   1: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1
   2: 0100007F:1F40 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 333 1
   3: broken
";
        assert_eq!(listening_inodes(table, 8000), ["111"]);
        assert_eq!(listening_inodes(table, 8001), ["222"]);
        assert_eq!(listening_inodes("", 8000), [""; 0]);
    }
}
