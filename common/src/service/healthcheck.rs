//! The verb `healthcheck`: requests `GET /healthz` of the service that runs here.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::Config;
use crate::http::Limits;
use crate::http::client::ClientConn;

/// The time that a health check may take.
const TIMEOUT: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits { head_bytes_max: 16 << 10, body_bytes_max: 1 << 10 };

/// Succeeds if the service is healthy. The error says in one line why it is not.
pub(super) fn run(config: &Config) -> io::Result<()> {
    let host: IpAddr = config.text("HOST").parse().unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    let host = if host.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { host };
    let address = SocketAddr::new(host, config.port("PORT"));
    let unhealthy = |error: io::Error| {
        io::Error::new(error.kind(), format!("http://{address}/healthz: {error}"))
    };
    match request_status(address).map_err(unhealthy)? {
        200 => Ok(()),
        status => Err(unhealthy(io::Error::other(format!("status {status}")))),
    }
}

/// The arguments of process 1, if it is the same program.
pub(super) fn process_1_arguments(name: &str) -> Vec<OsString> {
    let line = std::fs::read("/proc/1/cmdline").unwrap_or_default();
    let mut words = line.split(|&byte| byte == 0).map(OsStr::from_bytes);
    let program = words.next().map(Path::new).and_then(Path::file_name);
    if program != Some(OsStr::new(name)) {
        return Vec::new();
    }
    words.filter(|word| !word.is_empty()).map(OsStr::to_owned).collect()
}

fn request_status(address: SocketAddr) -> io::Result<u16> {
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    let mut conn = ClientConn::new(LIMITS);
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    conn.request(request.as_bytes());
    stream.write_all(conn.outgoing())?;
    let mut bytes = [0; 1024];
    loop {
        let response = conn.response().map_err(|error| io::Error::other(error.to_string()))?;
        if let Some(response) = response {
            return Ok(response.status);
        }
        // At least a moment: bytes may have arrived while this process was stopped.
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut bytes) {
            Ok(0) => conn.close(),
            Ok(count) => conn.receive(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
}
