//! Free TCP ports.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

/// A port that is free on every address.
pub fn free_port() -> u16 {
    *free_ports(1).start()
}

/// Consecutive ports that are free on every address. Below those that the kernel gives to clients: in
/// the moment in which a service is down, a client could get its port.
pub fn free_ports(count: u16) -> RangeInclusive<u16> {
    const FIRST: u16 = 10_000;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let end: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    assert!(end > FIRST + count, "no ports are left below {end}");
    loop {
        let random = RandomState::new().hash_one(0) % u64::from(end - count - FIRST);
        let first = FIRST + u16::try_from(random).unwrap();
        let ports = first..=first + count - 1;
        if ports.clone().all(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()) {
            return ports;
        }
    }
}

/// Closes a listener at once. If it is only dropped, it stays open for a moment in every process
/// that another test has just forked.
pub fn stop_listening(listener: TcpListener) {
    // std has `shutdown` for streams alone; to the kernel both are sockets.
    TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both).unwrap();
}
