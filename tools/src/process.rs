//! Processes of this machine: their memory, free ports for them, and why none can be started.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// The memory that a process occupies, in bytes (`VmRSS`).
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.unwrap_or_default() << 10)
}

/// A port that is free on 127.0.0.1 now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The error's text, with the next step where it is known.
pub fn explain(error: &io::Error) -> String {
    match error.kind() {
        // EAGAIN of clone(2): RLIMIT_NPROC or the pids controller of a control group.
        io::ErrorKind::WouldBlock => {
            "the limit of threads and processes is reached: raise --pids-limit of the container, \
             or ulimit -u"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_occupies_memory_and_a_free_port_can_be_bound() {
        assert!(resident_bytes(std::process::id()).expect("our own") > 100_000);
        let port = free_port().expect("a port");
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("it is free");
    }
}
