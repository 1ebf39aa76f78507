//! System calls that std does not offer, declared against the libc that std links. Constants have
//! their kernel names. The only unsafe code of the services: the result of each call is checked at
//! once, and a descriptor is owned at once. Linux on `x86_64` and `aarch64`, glibc and musl.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

// linux/eventpoll.h
pub(crate) const EPOLLIN: u32 = 0x001;
pub(crate) const EPOLLOUT: u32 = 0x004;
pub(crate) const EPOLLERR: u32 = 0x008;
pub(crate) const EPOLLHUP: u32 = 0x010;
pub(crate) const EPOLLRDHUP: u32 = 0x2000;
pub(crate) const EPOLLEXCLUSIVE: u32 = 1 << 28;
pub(crate) const EPOLLET: u32 = 1 << 31;
pub(crate) const EPOLL_CTL_ADD: c_int = 1;
pub(crate) const EPOLL_CTL_DEL: c_int = 2;
pub(crate) const EPOLL_CTL_MOD: c_int = 3;
const EPOLL_CLOEXEC: c_int = O_CLOEXEC;

// asm-generic/fcntl.h
const O_NONBLOCK: c_int = 0o4_000;
const O_CLOEXEC: c_int = 0o2_000_000;

// linux/socket.h, linux/net.h, asm-generic/socket.h, linux/in.h, linux/in6.h, linux/tcp.h
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const SOCK_STREAM: c_int = 1;
const SOCK_CLOEXEC: c_int = O_CLOEXEC;
const SOCK_NONBLOCK: c_int = O_NONBLOCK;
const SOL_SOCKET: c_int = 1;
const SO_REUSEADDR: c_int = 2;
const SO_LINGER: c_int = 13;
const SO_BINDTOIFINDEX: c_int = 62;
const IPPROTO_TCP: c_int = 6;
const IPPROTO_IPV6: c_int = 41;
const TCP_NODELAY: c_int = 1;
const IPV6_V6ONLY: c_int = 26;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_MORE: c_int = 0x8000;

// netdb.h
const EAI_NONAME: c_int = -2;
const EAI_NODATA: c_int = -5;

// asm-generic/errno.h
pub(crate) const ECONNREFUSED: i32 = 111;
const EINPROGRESS: i32 = 115;

// asm-generic/signal.h, linux/signalfd.h
/// The terminal is gone.
pub const SIGHUP: i32 = 1;
/// Interrupt from a terminal.
pub const SIGINT: i32 = 2;
/// Quit from a terminal.
pub const SIGQUIT: i32 = 3;
const SIGALRM: i32 = 14;
/// Termination request.
pub const SIGTERM: i32 = 15;
/// A child process has ended.
pub const SIGCHLD: i32 = 17;
const SIGXFSZ: i32 = 25;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGSTKFLT: i32 = 16;
const SIGVTALRM: i32 = 26;
const SIGPROF: i32 = 27;
const SIGIO: i32 = 29;
const SIGPWR: i32 = 30;
/// The real-time signals that no C library uses for its threads.
const SIGRTMIN: i32 = 35;
const SIGRTMAX: i32 = 64;
const SIG_BLOCK: c_int = 0;
const SFD_CLOEXEC: c_int = O_CLOEXEC;
const SFD_NONBLOCK: c_int = O_NONBLOCK;

// asm-generic/resource.h, linux/time.h, linux/wait.h
const RLIMIT_NOFILE: c_int = 7;
const CLOCK_PROCESS_CPUTIME_ID: c_int = 2;
const WNOHANG: c_int = 1;

/// Events taken from the kernel in one call.
pub(crate) const EVENTS_MAX: usize = 256;

/// The kernel's `struct epoll_event`, packed on `x86_64` alone.
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy)]
pub(crate) struct EpollEvent {
    pub(crate) events: u32,
    pub(crate) data: u64,
}

/// `sigset_t`: 1,024 bits in both C libraries, signal 1 the lowest.
#[repr(C)]
struct SignalSet([u64; 16]);

/// `struct rlimit`: the soft limit and the hard one.
type ResourceLimit = [u64; 2];

/// `struct timespec`: seconds and nanoseconds.
type TimeSpec = [i64; 2];

/// `sockaddr_in`, of 16 bytes, or `sockaddr_in6`, of 28.
#[repr(C, align(4))]
struct SocketAddress([u8; 28]);

/// `struct addrinfo`, the same in both C libraries.
#[repr(C)]
#[allow(clippy::struct_field_names)] // as in the header
struct AddrInfo {
    ai_flags: c_int,
    ai_family: c_int,
    ai_socktype: c_int,
    ai_protocol: c_int,
    ai_addrlen: c_uint,
    ai_addr: *const u8,
    ai_canonname: *const c_char,
    ai_next: *mut AddrInfo,
}

unsafe extern "C" {
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut EpollEvent) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut EpollEvent, max: c_int, timeout_ms: c_int) -> c_int;
    #[link_name = "socket"]
    fn c_socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const SocketAddress, length: c_uint) -> c_int;
    #[link_name = "listen"]
    fn c_listen(fd: c_int, backlog: c_int) -> c_int;
    #[link_name = "connect"]
    fn c_connect(fd: c_int, address: *const SocketAddress, length: c_uint) -> c_int;
    fn setsockopt(
        fd: c_int,
        level: c_int,
        option: c_int,
        value: *const c_void,
        length: c_uint,
    ) -> c_int;
    fn send(fd: c_int, bytes: *const c_void, length: usize, flags: c_int) -> isize;
    fn getaddrinfo(
        host: *const c_char,
        service: *const c_char,
        hints: *const AddrInfo,
        list: *mut *mut AddrInfo,
    ) -> c_int;
    fn freeaddrinfo(list: *mut AddrInfo);
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut TimeSpec) -> c_int;
    fn signalfd(fd: c_int, set: *const SignalSet, flags: c_int) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut ResourceLimit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const ResourceLimit) -> c_int;
}

/// An epoll instance, and memory for events.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Box<[EpollEvent; EVENTS_MAX]>,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointer is passed.
        let fd = owned(unsafe { epoll_create1(EPOLL_CLOEXEC) })?;
        let events = Box::new([EpollEvent { events: 0, data: 0 }; EVENTS_MAX]);
        Ok(Epoll { fd, events })
    }

    /// Adds, modifies or removes the interest in `fd`, until it is closed. Its events carry `data`.
    pub(crate) fn control(
        &self,
        operation: c_int,
        fd: BorrowedFd<'_>,
        events: u32,
        data: u64,
    ) -> io::Result<()> {
        let mut event = EpollEvent { events, data };
        let (epoll, fd) = (self.fd.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: the event lives through the call, and both descriptors are open.
        checked(unsafe { epoll_ctl(epoll, operation, fd, &raw mut event) }).map(drop)
    }

    /// Waits for events at most this long (-1: without limit); returns none if it was interrupted.
    pub(crate) fn wait(&mut self, timeout_ms: i32) -> io::Result<&[EpollEvent]> {
        let (epoll, room) = (self.fd.as_raw_fd(), self.events.as_mut_ptr());
        // SAFETY: the kernel writes at most `EVENTS_MAX` events into the array.
        match checked(unsafe { epoll_wait(epoll, room, EVENTS_MAX as c_int, timeout_ms) }) {
            // By SIGCONT, for example. Events may have arrived all the same.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(&[]),
            count => Ok(&self.events[..count?.unsigned_abs() as usize]),
        }
    }
}

/// A non-blocking listener. Its accepted connections inherit `TCP_NODELAY`, which saves a call for
/// each. An IPv6 listener on `::` accepts IPv4 as well, even if `net.ipv6.bindv6only` is set.
pub(crate) fn listen(address: &SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    // Connections of the previous process in TIME-WAIT must not keep the port.
    set_option(&socket, SOL_SOCKET, SO_REUSEADDR, &1)?;
    if address.is_ipv6() {
        set_option(&socket, IPPROTO_IPV6, IPV6_V6ONLY, &0)?;
    }
    set_option(&socket, IPPROTO_TCP, TCP_NODELAY, &1)?;
    let (address, length) = SocketAddress::new(address);
    // SAFETY: the address lives through the call and is at least `length` bytes long.
    checked(unsafe { bind(socket.as_raw_fd(), &raw const address, length) })?;
    // SAFETY: no pointer is passed.
    checked(unsafe { c_listen(socket.as_raw_fd(), backlog) })?;
    Ok(TcpListener::from(socket))
}

/// Has the kernel refuse new connections. Those it has completed can still be accepted.
pub(crate) fn refuse_new_connections(listener: &TcpListener) -> io::Result<()> {
    // No interface has this index: a connection from any other finds no listener.
    set_option(listener, SOL_SOCKET, SO_BINDTOIFINDEX, &c_int::MAX)
}

/// Makes close reset the connection: no TIME-WAIT, no port in use.
pub(crate) fn set_reset_on_close(stream: &TcpStream) -> io::Result<()> {
    // `struct linger`: on, 0 seconds.
    set_option(stream, SOL_SOCKET, SO_LINGER, &[1, 0])
}

fn socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = c_int::from(if address.is_ipv4() { AF_INET } else { AF_INET6 });
    // SAFETY: no pointer is passed.
    owned(unsafe { c_socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) })
}

/// Sets a socket option to a value of a C type.
fn set_option<T>(socket: &impl AsFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let (fd, length) = (socket.as_fd().as_raw_fd(), size_of::<T>() as c_uint);
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the value lives through the call and is `length` bytes long.
    checked(unsafe { setsockopt(fd, level, option, value, length) }).map(drop)
}

/// Sends bytes that the kernel may hold back until more follow, or the end of this half.
pub(crate) fn send_more(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let (fd, from, length) = (stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
    // SAFETY: the kernel reads the bytes of the slice, during the call.
    let sent = unsafe { send(fd, from, length, MSG_MORE | MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Starts a non-blocking connection. It is writable once it is made or has failed.
pub(crate) fn connect(to: &SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(to)?;
    let (address, length) = SocketAddress::new(to);
    // SAFETY: the address lives through the call and is at least `length` bytes long.
    match checked(unsafe { c_connect(socket.as_raw_fd(), &raw const address, length) }) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from(socket)),
    }
}

impl SocketAddress {
    /// The address and its length in bytes.
    fn new(to: &SocketAddr) -> (SocketAddress, c_uint) {
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
        (SocketAddress(bytes), length)
    }
}

/// The address family of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressFamily {
    V4,
    V6,
}

/// Why a look-up found no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// The name does not exist, or has no address.
    NoName,
    /// No name server responded, or none with success.
    Temporary,
}

/// Looks up the addresses of a name. Blocks, for some seconds if name servers are silent.
pub(crate) fn lookup(host: &str, family: AddressFamily) -> Result<Vec<IpAddr>, LookupError> {
    let Ok(host) = CString::new(host) else { return Err(LookupError::NoName) };
    let ai_family = c_int::from(match family {
        AddressFamily::V4 => AF_INET,
        AddressFamily::V6 => AF_INET6,
    });
    // One entry for each address, not one for each socket type as well.
    let hints = AddrInfo {
        ai_flags: 0,
        ai_family,
        ai_socktype: SOCK_STREAM,
        ai_protocol: 0,
        ai_addrlen: 0,
        ai_addr: std::ptr::null(),
        ai_canonname: std::ptr::null(),
        ai_next: std::ptr::null_mut(),
    };
    let mut first: *mut AddrInfo = std::ptr::null_mut();
    // SAFETY: the strings and the hints live through the call; a null service is none.
    let error =
        unsafe { getaddrinfo(host.as_ptr(), std::ptr::null(), &raw const hints, &raw mut first) };
    match error {
        0 => {}
        EAI_NONAME | EAI_NODATA => return Err(LookupError::NoName),
        _ => return Err(LookupError::Temporary),
    }
    let mut addresses = Vec::new();
    let mut next = first;
    // SAFETY: the list ends with null, and each entry lives until it is freed below.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: `ai_addr` points to `ai_addrlen` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(entry.ai_addr, entry.ai_addrlen as usize) };
        addresses.extend(ip_address(bytes));
        next = entry.ai_next;
    }
    // SAFETY: the list came from `getaddrinfo` and is used no more.
    unsafe { freeaddrinfo(first) };
    Ok(addresses)
}

/// The address in a `sockaddr_in` or `sockaddr_in6`.
fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    match u8::try_from(family).ok()? {
        AF_INET => Some(IpAddr::from(*bytes.get(4..)?.first_chunk::<4>()?)),
        AF_INET6 => Some(IpAddr::from(*bytes.get(8..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// Signals that would end the process by default and mean nothing to it.
pub(crate) fn ignored_signals() -> impl Iterator<Item = i32> {
    let named = [SIGUSR1, SIGUSR2, SIGALRM, SIGSTKFLT, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO, SIGPWR];
    named.into_iter().chain(SIGRTMIN..=SIGRTMAX)
}

/// Blocks these signals in this thread and all that it starts, and returns a signalfd for them.
pub fn signals(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = SignalSet([0; 16]);
    set.0[0] = signals.iter().fold(0, |set, signal| set | 1 << (signal - 1));
    // SAFETY: the set lives through the call; a null old set is not written.
    let failed = unsafe { pthread_sigmask(SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    // SAFETY: as above; -1 requests a new descriptor.
    owned(unsafe { signalfd(-1, &raw const set, SFD_CLOEXEC | SFD_NONBLOCK) })
}

/// Has glibc allocate as musl does: threads share one arena, and large blocks are returned to the
/// system. glibc would reserve 64 MiB of addresses for each thread, and try again and again where a
/// limit forbids it: meanwhile, other allocations fail, which aborts the process. A large block that
/// it keeps says nothing of the memory that is left for the stacks of threads.
pub(crate) fn set_malloc_options() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        const M_MMAP_THRESHOLD: c_int = -3;
        const M_ARENA_MAX: c_int = -8;
        for (parameter, value) in [(M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 128 << 10)] {
            // SAFETY: no pointer is passed. It fails for unknown parameters alone.
            unsafe { mallopt(parameter, value) };
        }
    }
}

/// Reaps the children that have ended.
pub(crate) fn reap_children() {
    // SAFETY: a null status is not written.
    while unsafe { waitpid(-1, std::ptr::null_mut(), WNOHANG) } > 0 {}
}

/// The CPU time of the process.
pub(crate) fn cpu_time() -> io::Result<Duration> {
    let mut time: TimeSpec = [0; 2];
    // SAFETY: the kernel writes one `TimeSpec`.
    checked(unsafe { clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &raw mut time) })?;
    let [seconds, nanoseconds] = time.map(i64::unsigned_abs);
    Ok(Duration::new(seconds, nanoseconds as u32))
}

/// Raises the soft limit of open descriptors to the hard one, if it may; returns the limit in force.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit: ResourceLimit = [0; 2];
    // SAFETY: the kernel writes one `ResourceLimit`.
    checked(unsafe { getrlimit(RLIMIT_NOFILE, &raw mut limit) })?;
    let [soft, hard] = limit;
    let raised: ResourceLimit = [hard; 2];
    // SAFETY: the limit lives through the call.
    let result = checked(unsafe { setrlimit(RLIMIT_NOFILE, &raw const raised) });
    Ok(if result.is_ok() { hard } else { soft })
}

fn checked(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(result),
    }
}

fn owned(result: c_int) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: the call that gave this descriptor has just opened it, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};

    #[test]
    fn accepts_completed_connections_after_new_ones_are_refused() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a listener");
            listener.set_nonblocking(true).expect("a socket that can");
            let address = listener.local_addr().expect("its address");
            let mut first = TcpStream::connect(address).expect("it listens");
            refuse_new_connections(&listener).expect("a kernel that can");
            let second = TcpStream::connect(address).map_err(|error| error.kind());
            assert_eq!(second.err(), Some(ErrorKind::ConnectionRefused));
            let (mut accepted, _) = listener.accept().expect("the first");
            accepted.write_all(b"x").expect("sent");
            first.read_exact(&mut [0]).expect("received");
            let none = listener.accept().map_err(|error| error.kind());
            assert_eq!(none.err(), Some(ErrorKind::WouldBlock));
        }
    }

    #[test]
    fn looks_up_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(lookup("127.0.0.2", AddressFamily::V4), Ok(vec![ip("127.0.0.2")]));
        assert_eq!(lookup("::1", AddressFamily::V6), Ok(vec![ip("::1")]));
        lookup("::1", AddressFamily::V4).expect_err("no IPv4 address");
    }

    #[test]
    fn reports_why_a_look_up_found_nothing() {
        assert_eq!(lookup("a\0b", AddressFamily::V4), Err(LookupError::NoName));
        // RFC 6761 6.4: this name exists nowhere. Without a name server that is not known.
        lookup("no-such-name.invalid", AddressFamily::V4).expect_err("a name that cannot exist");
    }

    #[test]
    fn reads_socket_addresses() {
        for text in ["192.0.2.7:80", "[2001:db8::7]:80", "[fe80::1%3]:80"] {
            let address = text.parse::<SocketAddr>().expect("an address");
            let (bytes, length) = SocketAddress::new(&address);
            let bytes = &bytes.0[..length as usize];
            assert_eq!(ip_address(bytes), Some(address.ip()), "{text}");
            assert_eq!(ip_address(&bytes[..7]), None, "{text}");
        }
        assert_eq!(ip_address(&[]), None);
        assert_eq!(ip_address(&[0; 28]), None);
    }
}
