//! The calls that std does not offer, declared by hand against the libc that std links anyway.
//! The only unsafe code of the services: one call a function, its result checked at once and
//! what it gave owned at once. Linux on `x86_64` and `aarch64`, glibc and musl.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

// linux/eventpoll.h
pub(crate) const EPOLLIN: u32 = 0x001;
pub(crate) const EPOLLOUT: u32 = 0x004;
pub(crate) const EPOLLERR: u32 = 0x008;
pub(crate) const EPOLLHUP: u32 = 0x010;
pub(crate) const EPOLLRDHUP: u32 = 0x2000;
pub(crate) const EPOLLEXCLUSIVE: u32 = 1 << 28;
pub(crate) const EPOLLET: u32 = 1 << 31;
const EPOLL_CTL_ADD: c_int = 1;
const EPOLL_CTL_DEL: c_int = 2;
const EPOLL_CTL_MOD: c_int = 3;
const EPOLL_CLOEXEC: c_int = O_CLOEXEC;

// asm-generic/fcntl.h
const O_NONBLOCK: c_int = 0o4_000;
const O_CLOEXEC: c_int = 0o2_000_000;

// linux/socket.h, linux/net.h, asm-generic/socket.h
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const SOCK_STREAM: c_int = 1;
const SOCK_CLOEXEC: c_int = O_CLOEXEC;
const SOCK_NONBLOCK: c_int = O_NONBLOCK;
const SOL_SOCKET: c_int = 1;
const SO_BINDTOIFINDEX: c_int = 62;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_MORE: c_int = 0x8000;

// asm-generic/errno.h
const EINPROGRESS: i32 = 115;

// asm-generic/signal.h, linux/signalfd.h
/// Interrupt from a terminal.
pub const SIGINT: i32 = 2;
/// Kill; cannot be caught.
pub const SIGKILL: i32 = 9;
/// Termination request.
pub const SIGTERM: i32 = 15;
/// A child process has ended.
pub const SIGCHLD: i32 = 17;
const SIG_BLOCK: c_int = 0;
const SFD_CLOEXEC: c_int = O_CLOEXEC;
const SFD_NONBLOCK: c_int = O_NONBLOCK;

// asm-generic/resource.h, linux/time.h, linux/timerfd.h
const RLIMIT_NOFILE: c_int = 7;
const CLOCK_MONOTONIC: c_int = 1;
const TFD_CLOEXEC: c_int = O_CLOEXEC;
const TFD_NONBLOCK: c_int = O_NONBLOCK;

/// Events taken from the kernel in one call.
const BATCH: usize = 256;

/// The kernel's `struct epoll_event`, packed on `x86_64` alone.
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy)]
struct EpollEvent {
    ready: u32,
    token: u64,
}

/// `sigset_t`: 1,024 bits in both C libraries, signal 1 the lowest.
#[repr(C)]
struct SignalSet([u64; 16]);

#[repr(C)]
struct Limit {
    soft: u64,
    hard: u64,
}

/// `struct itimerspec`: how often again, and how soon first.
#[repr(C)]
struct Timer {
    interval: TimeSpan,
    value: TimeSpan,
}

#[repr(C)]
struct TimeSpan {
    seconds: i64,
    nanoseconds: i64,
}

/// `sockaddr_in` and `sockaddr_in6` in one: the first is 16 bytes long, the second 28.
#[repr(C, align(4))]
struct Address([u8; 28]);

unsafe extern "C" {
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut EpollEvent) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut EpollEvent, max: c_int, timeout_ms: c_int) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn setsockopt(
        fd: c_int,
        level: c_int,
        option: c_int,
        value: *const c_int,
        length: c_uint,
    ) -> c_int;
    fn accept4(fd: c_int, address: *mut c_void, length: *mut c_uint, flags: c_int) -> c_int;
    fn send(fd: c_int, bytes: *const c_void, length: usize, flags: c_int) -> isize;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const Address, length: c_uint) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SignalSet, flags: c_int) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn timerfd_create(clock: c_int, flags: c_int) -> c_int;
    fn timerfd_settime(fd: c_int, flags: c_int, new: *const Timer, old: *mut Timer) -> c_int;
}

/// An epoll instance and the batch of events it last gave.
pub(crate) struct Epoll {
    fd: OwnedFd,
    batch: Box<[EpollEvent; BATCH]>,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointer is passed.
        let fd = owned(unsafe { epoll_create1(EPOLL_CLOEXEC) })?;
        let batch = Box::new([EpollEvent { ready: 0, token: 0 }; BATCH]);
        Ok(Epoll { fd, batch })
    }

    /// Watches `fd` until it is closed; its events carry `token`. One that is `known` is watched
    /// already, and now for this.
    pub(crate) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        known: bool,
        interest: u32,
        token: u64,
    ) -> io::Result<()> {
        self.control(if known { EPOLL_CTL_MOD } else { EPOLL_CTL_ADD }, fd, interest, token)
    }

    /// Watches `fd` no more.
    pub(crate) fn unwatch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(
        &self,
        operation: c_int,
        fd: BorrowedFd<'_>,
        interest: u32,
        token: u64,
    ) -> io::Result<()> {
        let mut event = EpollEvent { ready: interest, token };
        // SAFETY: the event lives through the call, and both descriptors are open.
        let done =
            unsafe { epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) };
        checked(done).map(drop)
    }

    /// Waits until something is ready or the time is over (-1: for ever); how many events came.
    pub(crate) fn wait(&mut self, timeout_ms: i32) -> io::Result<usize> {
        let (epoll, room) = (self.fd.as_raw_fd(), self.batch.as_mut_ptr());
        // SAFETY: the kernel writes at most `BATCH` events into the array.
        let count = checked(unsafe { epoll_wait(epoll, room, BATCH as c_int, timeout_ms) })?;
        Ok(count.unsigned_abs() as usize)
    }

    /// What is ready, and the token, of an event of the last batch.
    pub(crate) fn event(&self, index: usize) -> (u32, u64) {
        let event = self.batch[index];
        (event.ready, event.token)
    }
}

/// A listener's queue of connections not yet accepted; std asks for 128 at most.
pub(crate) fn lengthen_backlog(listener: &TcpListener, backlog: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and no pointer is passed.
    checked(unsafe { listen(listener.as_raw_fd(), backlog) }).map(drop)
}

/// Has the kernel refuse whoever is not connecting yet, while those who are can still be accepted.
pub(crate) fn refuse_newcomers(listener: &TcpListener) -> io::Result<()> {
    // By this number there is none: what arrives at any other finds no listener.
    let interface = c_int::MAX;
    let length = size_of::<c_int>() as c_uint;
    let fd = listener.as_raw_fd();
    // SAFETY: the value lives through the call and is `length` bytes long.
    let done =
        unsafe { setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &raw const interface, length) };
    checked(done).map(drop)
}

/// The next connection, non-blocking already: std's `accept` costs one more call for that.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let fd = listener.as_raw_fd();
    // SAFETY: a null address tells the kernel not to write one.
    let peer = unsafe {
        accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), SOCK_CLOEXEC | SOCK_NONBLOCK)
    };
    owned(peer).map(TcpStream::from)
}

/// Writes what the kernel shall keep until the end of our half goes with it, in one segment: half
/// the work for both sides.
pub(crate) fn write_before_end(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let (fd, from, length) = (stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
    // SAFETY: the kernel reads the bytes of the slice, during the call.
    let sent = unsafe { send(fd, from, length, MSG_MORE | MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A non-blocking connection that is being made: writable once it is, or has failed.
pub(crate) fn dial(to: &SocketAddr) -> io::Result<TcpStream> {
    let (family, address, length) = address(to);
    // SAFETY: no pointer is passed.
    let fd = owned(unsafe { socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) })?;
    // SAFETY: the address lives through the call and is at least `length` bytes long.
    match checked(unsafe { connect(fd.as_raw_fd(), &raw const address, length) }) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from(fd)),
    }
}

fn address(to: &SocketAddr) -> (c_int, Address, c_uint) {
    let mut bytes = [0; 28];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(2, &to.port().to_be_bytes());
    let (family, length) = match to {
        SocketAddr::V4(v4) => {
            put(4, &v4.ip().octets());
            (AF_INET, 16)
        }
        SocketAddr::V6(v6) => {
            put(4, &v6.flowinfo().to_be_bytes());
            put(8, &v6.ip().octets());
            put(24, &v6.scope_id().to_ne_bytes());
            (AF_INET6, 28)
        }
    };
    put(0, &u16::from(family).to_ne_bytes());
    (c_int::from(family), Address(bytes), length)
}

/// Takes these signals out of their default course, in this thread and all that it starts, and
/// gives a descriptor to read them from. A blocked signal reaches a process 1 too, to which the
/// kernel delivers no signal that has only a default action.
pub fn signals(wanted: &[i32]) -> io::Result<OwnedFd> {
    let set = SignalSet::of(wanted);
    // SAFETY: the set lives through the call; a null old set is not written.
    let failed = unsafe { pthread_sigmask(SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    // SAFETY: as above; -1 asks for a new descriptor.
    owned(unsafe { signalfd(-1, &raw const set, SFD_CLOEXEC | SFD_NONBLOCK) })
}

impl SignalSet {
    fn of(signals: &[i32]) -> SignalSet {
        let mut words = [0; 16];
        words[0] = signals.iter().fold(0, |set, signal| set | 1 << (signal - 1));
        SignalSet(words)
    }
}

/// Raises the soft limit of open descriptors to the hard one, if it may; the limit in force.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = Limit { soft: 0, hard: 0 };
    // SAFETY: the kernel writes one `Limit`.
    checked(unsafe { getrlimit(RLIMIT_NOFILE, &raw mut limit) })?;
    let raised = Limit { soft: limit.hard, hard: limit.hard };
    // SAFETY: the limit lives through the call.
    match checked(unsafe { setrlimit(RLIMIT_NOFILE, &raw const raised) }) {
        Ok(_) => Ok(raised.soft),
        Err(_) => Ok(limit.soft),
    }
}

/// A descriptor that becomes readable when its time is over, as often as that is set.
pub(crate) fn timer() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    owned(unsafe { timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK) })
}

/// Sets a timer anew. Zero would stop it, and is taken for the shortest time there is.
pub(crate) fn set_timer(timer: BorrowedFd<'_>, left: Duration) -> io::Result<()> {
    let left = left.max(Duration::from_nanos(1));
    let value =
        TimeSpan { seconds: left.as_secs() as i64, nanoseconds: left.subsec_nanos().into() };
    let new = Timer { interval: TimeSpan { seconds: 0, nanoseconds: 0 }, value };
    // SAFETY: the new setting lives through the call; a null old one is not written.
    let done =
        unsafe { timerfd_settime(timer.as_raw_fd(), 0, &raw const new, std::ptr::null_mut()) };
    checked(done).map(drop)
}

fn checked(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(result),
    }
}

fn owned(result: c_int) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: the call that gave this descriptor has just opened it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets `TCP_NODELAY` on a listener, from which accepted connections inherit it: no call for each.
pub(crate) fn without_delay(listener: TcpListener) -> io::Result<TcpListener> {
    // std offers the option on streams alone; to the kernel both are sockets.
    let socket = TcpStream::from(OwnedFd::from(listener));
    socket.set_nodelay(true)?;
    Ok(TcpListener::from(OwnedFd::from(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};

    #[test]
    fn newcomers_are_refused_while_whoever_waits_is_still_accepted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a listener");
            listener.set_nonblocking(true).expect("a socket that can");
            let address = listener.local_addr().expect("its address");
            let mut first = TcpStream::connect(address).expect("it listens");
            refuse_newcomers(&listener).expect("a kernel that can");
            let second = TcpStream::connect(address).map_err(|error| error.kind());
            assert_eq!(second.err(), Some(ErrorKind::ConnectionRefused));
            let mut accepted = accept(&listener).expect("the first");
            accepted.write_all(b"x").expect("sent");
            first.read_exact(&mut [0]).expect("received");
            assert_eq!(
                accept(&listener).err().map(|error| error.kind()),
                Some(ErrorKind::WouldBlock)
            );
        }
    }
}
