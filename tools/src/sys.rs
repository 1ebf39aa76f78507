//! System calls for child processes that std does not offer, declared by hand against the libc
//! that std links. The only unsafe code of the tools: one call a function, its result checked at
//! once. Linux on `x86_64` and `aarch64`, glibc and musl.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

// asm-generic/signal.h
/// Kill; cannot be caught.
pub const SIGKILL: i32 = 9;
const SIG_SETMASK: c_int = 2;

// linux/time.h, linux/timerfd.h
const CLOCK_MONOTONIC: c_int = 1;
const TFD_CLOEXEC: c_int = 0o2_000_000;
const TFD_NONBLOCK: c_int = 0o4_000;

// linux/prctl.h
const PR_SET_PDEATHSIG: c_int = 1;

/// `sigset_t`: 1,024 bits in both C libraries, signal 1 the lowest.
#[repr(C)]
struct SignalSet([u64; 16]);

/// `cpu_set_t`: 1,024 bits in both C libraries, the first core the lowest.
#[repr(C)]
struct CoreSet([u64; 16]);

/// `struct itimerspec`.
#[repr(C)]
struct Timer {
    it_interval: TimeSpec,
    it_value: TimeSpec,
}

/// `struct timespec`.
#[repr(C)]
struct TimeSpec {
    tv_sec: i64,
    tv_nsec: i64,
}

unsafe extern "C" {
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn timerfd_create(clock: c_int, flags: c_int) -> c_int;
    fn timerfd_settime(fd: c_int, flags: c_int, new: *const Timer, old: *mut Timer) -> c_int;
    fn sched_setaffinity(pid: c_int, size: usize, cores: *const CoreSet) -> c_int;
}

/// Sends a signal to a process that the caller started and has not yet waited for.
pub fn send_signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = c_int::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: no pointer is passed.
    checked(unsafe { kill(pid, signal) })
}

/// Kills a process group. The caller has started its leader and has not yet waited for it.
pub fn kill_group(leader: u32) -> io::Result<()> {
    let leader = c_int::try_from(leader).ok().filter(|pid| *pid > 1);
    let group = -leader.ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: no pointer is passed.
    checked(unsafe { kill(group, SIGKILL) })
}

/// Makes the kernel kill the command's process once the thread that starts it has ended, and
/// unblocks all signals for the process.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let prepare = move || {
        let none = SignalSet([0; 16]);
        // SAFETY: the set lives through the call; a null old set is not written.
        unsafe { pthread_sigmask(SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
        // SAFETY: this option takes one number.
        checked(unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL) })?;
        // If the parent ended before the call above, the kernel sends no signal.
        if std::os::unix::process::parent_id() == parent {
            return Ok(());
        }
        Err(io::ErrorKind::BrokenPipe.into())
    };
    // SAFETY: between fork and exec it makes three system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}

/// Makes the command's process and its children run on this core only.
pub fn pin(command: &mut Command, core: usize) -> &mut Command {
    let mut words = [0; 16];
    words[core / 64 % 16] = 1 << (core % 64);
    let cores = CoreSet(words);
    let prepare = move || {
        // SAFETY: the set lives through the call, and its size is the one that is passed.
        checked(unsafe { sched_setaffinity(0, size_of::<CoreSet>(), &raw const cores) })
    };
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}

/// A non-blocking descriptor that becomes readable when its time is over (timerfd).
pub fn timer() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = unsafe { timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK) };
    checked(fd)?;
    // SAFETY: the call above has just opened it, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a timer. Zero would stop it, so the shortest time is one nanosecond.
pub fn set_timer(timer: BorrowedFd<'_>, left: Duration) -> io::Result<()> {
    let left = left.max(Duration::from_nanos(1));
    let tv_sec = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    let it_value = TimeSpec { tv_sec, tv_nsec: left.subsec_nanos().into() };
    let new = Timer { it_interval: TimeSpec { tv_sec: 0, tv_nsec: 0 }, it_value };
    let fd = timer.as_raw_fd();
    // SAFETY: the new setting lives through the call; a null old one is not written.
    checked(unsafe { timerfd_settime(fd, 0, &raw const new, std::ptr::null_mut()) })
}

fn checked(result: c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
