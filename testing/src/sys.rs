//! System calls that only tests need: namespaces, mounts, the loopback device and limits. The only unsafe
//! code of this crate. Linux on `x86_64` and `aarch64`, glibc and musl.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_short, c_uint, c_ulong, c_void};
use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

const CLONE_NEWNS: c_int = 0x0002_0000;
const CLONE_NEWUSER: c_int = 0x1000_0000;
const CLONE_NEWPID: c_int = 0x2000_0000;
const CLONE_NEWNET: c_int = 0x4000_0000;

const MS_BIND: c_ulong = 1 << 12;
const MS_REC: c_ulong = 1 << 14;
const MS_PRIVATE: c_ulong = 1 << 18;

const RLIMIT_NOFILE: c_uint = 7;

const PR_SET_PDEATHSIG: c_int = 1;
const SIGKILL: c_ulong = 9;

const SIOCSIFFLAGS: c_ulong = 0x8914;
const IFF_UP: c_short = 0x1;
const IFF_RUNNING: c_short = 0x40;

/// `struct ifreq` with the flags of its union.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

/// `struct rlimit64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Limit {
    soft: u64,
    hard: u64,
}

unsafe extern "C" {
    fn unshare(flags: c_int) -> c_int;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, argument: *const InterfaceFlags) -> c_int;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    fn prctl(option: c_int, argument: c_ulong) -> c_int;
    fn _exit(code: c_int) -> !;
    fn prlimit(pid: c_int, resource: c_uint, new: *const Limit, old: *mut Limit) -> c_int;
    fn getuid() -> c_uint;
    fn getgid() -> c_uint;
}

/// Runs the command as root of new user, network and mount namespaces.
pub(crate) fn isolate(command: &mut Command) -> &mut Command {
    // SAFETY: no pointer is passed.
    let uid_map = format!("0 {} 1", unsafe { getuid() });
    // SAFETY: no pointer is passed.
    let gid_map = format!("0 {} 1", unsafe { getgid() });
    let prepare = move || {
        // SAFETY: no pointer is passed.
        check(unsafe { unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) })?;
        // user_namespaces(7): without privileges, a gid can be mapped only once this is denied.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", &uid_map)?;
        fs::write("/proc/self/gid_map", &gid_map)
    };
    // SAFETY: between fork and exec it makes system calls alone: std builds such short paths on the
    // stack.
    unsafe { command.pre_exec(prepare) }
}

/// Runs the command as process 1 of a new pid namespace: as the only child of the process that is
/// started, which then ends with the same exit code.
pub(crate) fn run_as_process_1(command: &mut Command) -> &mut Command {
    let prepare = || {
        // SAFETY: no pointer is passed.
        check(unsafe { unshare(CLONE_NEWPID) })?;
        // SAFETY: this process has one thread, as it was forked itself.
        let child = check(unsafe { fork() })?;
        if child == 0 {
            // SAFETY: this option takes one number.
            return check(unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL) }).map(drop);
        }
        // Else pipes stay open, among them the one on which `spawn` waits for the exec.
        // SAFETY: nothing here uses a descriptor from now on.
        unsafe { close_range(0, c_uint::MAX, 0) };
        let mut status = 0;
        // SAFETY: the status is written before the call returns.
        unsafe { waitpid(child, &raw mut status, 0) };
        let (signal, code) = (status & 0x7f, status >> 8 & 0xff);
        // SAFETY: it does not return.
        unsafe { _exit(if signal == 0 { code } else { 128 + signal }) }
    };
    // SAFETY: between fork and exec it makes system calls alone.
    unsafe { command.pre_exec(prepare) }
}

/// Keeps later mounts of this mount namespace out of all others.
pub(crate) fn make_mounts_private() -> io::Result<()> {
    let (flags, none) = (MS_REC | MS_PRIVATE, std::ptr::null());
    // SAFETY: the target ends with a zero; without a source, kind and data are not read.
    check(unsafe { mount(none, c"/".as_ptr(), none, flags, none.cast()) }).map(drop)
}

/// Makes a file appear in the place of another.
pub(crate) fn bind_mount(source: &CStr, target: &CStr) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: both paths end with a zero; kind and data of a bind mount are not read.
    check(unsafe { mount(source.as_ptr(), target.as_ptr(), none, MS_BIND, none.cast()) }).map(drop)
}

/// Starts the loopback device of this network namespace.
pub(crate) fn set_loopback_up() -> io::Result<()> {
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    let argument = InterfaceFlags { name, flags: IFF_UP | IFF_RUNNING, rest: [0; 22] };
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: the request reads one `struct ifreq`.
    check(unsafe { ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &raw const argument) }).map(drop)
}

/// Sets the soft limit of open descriptors of a running process. Returns the one before.
pub fn limit_open_files(pid: u32, limit: u64) -> io::Result<u64> {
    let pid = c_int::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut before = Limit { soft: 0, hard: 0 };
    // SAFETY: without a new limit, the call writes the old one before it returns.
    check(unsafe { prlimit(pid, RLIMIT_NOFILE, std::ptr::null(), &raw mut before) })?;
    let new = Limit { soft: limit, ..before };
    // SAFETY: the new limit lives through the call; a null old one is not written.
    check(unsafe { prlimit(pid, RLIMIT_NOFILE, &raw const new, std::ptr::null_mut()) })?;
    Ok(before.soft)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
