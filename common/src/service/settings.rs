//! The settings of every service: one row each.

use crate::cli::{Config, Kind, Setting};
use crate::http::Limits;

/// The table. `port` is the service's own default.
pub const fn settings(port: &'static str) -> [Setting; 15] {
    [
        Setting {
            variable: "HOST",
            kind: Kind::Address,
            default: Some("::"),
            help: "The address to listen on. :: accepts IPv4 too; 0.0.0.0 is used where IPv6 is off.",
        },
        Setting {
            variable: "PORT",
            kind: Kind::Port,
            default: Some(port),
            help: "The port to listen on.",
        },
        Setting {
            variable: "WORKERS",
            kind: Kind::Number(0, 256),
            default: Some("0"),
            help: "Threads that serve. 0: one for each core that the control group grants.",
        },
        Setting {
            variable: "LOG_FORMAT",
            kind: Kind::Word(&["text", "json", "off"]),
            default: Some("text"),
            help: "The access log; /healthz, /readyz and /metrics are never logged.\noff: events of the service alone, such as start and end.",
        },
        Setting {
            variable: "SERVED_BY",
            kind: Kind::Word(&["on", "off"]),
            default: Some("on"),
            help: "on: every response carries X-Served-By with the host name, which tells replicas apart.",
        },
        Setting {
            variable: "HEAD_BYTES_MAX",
            kind: Kind::Number(256, 1 << 20),
            default: Some("16384"),
            help: "The request line and fields. Room for any browser's cookies.",
        },
        Setting {
            variable: "BODY_BYTES_MAX",
            kind: Kind::Number(0, 1 << 30),
            default: Some("1048576"),
            help: "The body of a request, which is read and dropped; and of a backend's response.",
        },
        Setting {
            variable: "CONNECTIONS_MAX",
            kind: Kind::Number(1, 1_000_000),
            default: Some("10000"),
            help: "Clients at once; more receive 503, except for /healthz, /readyz and /metrics. Lower where\nRLIMIT_NOFILE says so, and at most one for each 16 KB of the container's memory.",
        },
        Setting {
            variable: "BUFFER_BYTES_MAX",
            kind: Kind::Number(0, 1 << 40),
            default: Some("16777216"),
            help: "Bytes buffered for slow clients together: parts of requests, and responses not taken.\nA client that needs more receives 503. At most a quarter of the container's memory.",
        },
        Setting {
            variable: "IDLE_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("75000"),
            help: "Silence between two requests. Longer than the 60 s of common load balancers, so that a\nbalancer closes first: otherwise it would send a request to a closed connection.",
        },
        Setting {
            variable: "HEAD_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("10000"),
            help: "A head, from its first byte to its last: enough for any usual client.",
        },
        Setting {
            variable: "BODY_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("30000"),
            help: "The body of a request: the largest at 35 KB/s.",
        },
        Setting {
            variable: "WRITE_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("30000"),
            help: "A client that takes no byte of its responses.",
        },
        Setting {
            variable: "SHUTDOWN_DELAY_MS",
            kind: Kind::Number(0, 86_400_000),
            default: Some("0"),
            help: "From SIGTERM to the drain: /readyz is 503, all else is served as before. Longer than your\nbalancer's check interval times its fall count, or than an endpoint takes to vanish.",
        },
        Setting {
            variable: "DRAIN_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("3000"),
            help: "From the start of the drain to the end, for requests under way: well below the 10 s\nafter which an engine kills.",
        },
    ]
}

/// The limits of a message: of requests and of a backend's responses.
pub fn limits(config: &Config) -> Limits {
    Limits {
        head_bytes_max: config.number("HEAD_BYTES_MAX") as usize,
        body_bytes_max: config.number("BODY_BYTES_MAX"),
    }
}
