//! The limits of the process: descriptors and memory, and the connections that fit them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sys;

/// Descriptors for the log, the epolls and pipes of the workers, and connections beyond the limit.
/// Where there are few descriptors, at most half of them.
const RESERVED_DESCRIPTORS: u64 = 32;
const RESERVED_DESCRIPTORS_PER_WORKER: u64 = 24;
/// Memory of a connection: some kilobytes here, a few in the kernel, and as much for all else.
const MEMORY_PER_CONNECTION: u64 = 16 << 10;

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Descriptors that may be open.
    pub descriptors: u64,
    /// Bytes of memory; `u64::MAX` without a limit.
    pub memory: u64,
    /// Workers.
    pub workers: u64,
}

impl ProcessLimits {
    /// Raises the limit of descriptors as far as it may be, and reads that of memory.
    pub(super) fn read(workers: usize) -> ProcessLimits {
        ProcessLimits {
            descriptors: sys::raise_descriptor_limit().unwrap_or(u64::MAX),
            memory: memory_limit(Path::new("/")),
            workers: workers as u64,
        }
    }

    /// Descriptors for connections.
    fn free_descriptors(self) -> u64 {
        let reserved = RESERVED_DESCRIPTORS + RESERVED_DESCRIPTORS_PER_WORKER * self.workers;
        self.descriptors - reserved.min(self.descriptors / 2)
    }

    /// Connections to the backend of one worker: at most a quarter of those that descriptors and
    /// memory allow, as each belongs to a client's, and the backend needs fewer.
    pub fn backend_connections(self, wanted: u64) -> usize {
        let connections = self.free_descriptors().min(self.memory / MEMORY_PER_CONNECTION);
        wanted.min(connections / 4 / self.workers).max(1) as usize
    }

    /// Connections of clients. Descriptors go to those of all workers to the backend too, and to a
    /// quarter of these that may wait for the backend to close; the memory of each client's has
    /// room for its part of these.
    pub fn client_connections(self, wanted: u64, backend: u64) -> u64 {
        let descriptors = self.free_descriptors().saturating_sub(backend + backend / 4);
        wanted.min(descriptors).min(self.memory / MEMORY_PER_CONNECTION).max(1)
    }
}

/// The lowest memory limit of the control group and its ancestors, as far as they are visible, in
/// version 2 or 1. `root` is `/`, or another folder in tests.
fn memory_limit(root: &Path) -> u64 {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mount = root.join("sys/fs/cgroup");
    let mut limit = u64::MAX;
    // Lines such as `0::/a/b` (version 2) and `4:memory:/a/b` (version 1).
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (folder, files): (_, &[&str]) = match controllers {
            "" => (mount.clone(), &["memory.max", "memory.high"]),
            _ if controllers.split(',').any(|it| it == "memory") => {
                (mount.join("memory"), &["memory.limit_in_bytes"])
            }
            _ => continue,
        };
        // In a container the path may be that on the host. The mount is then the group itself.
        let path = path.trim_start_matches('/');
        let own = folder.join(path);
        let own = if own.is_dir() { own } else { folder.clone() };
        for group in own.ancestors().take_while(|group| group.starts_with(&folder)) {
            limit = limit.min(group_limit(group, files));
        }
    }
    limit
}

fn group_limit(group: &Path, files: &[&str]) -> u64 {
    let read = |name: &str| fs::read_to_string(PathBuf::from(group).join(name)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let limits = files.iter().filter_map(|name| number(read(name)?));
    // Of ancestors that are not visible too.
    let hierarchical = read("memory.stat").and_then(|stat| {
        let line = stat.lines().find_map(|it| it.strip_prefix("hierarchical_memory_limit "));
        number(line?.to_owned())
    });
    limits.chain(hierarchical).min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files, and its memory limit.
    fn limit_of(name: &str, files: &[(&str, &str)]) -> u64 {
        let root = std::env::temp_dir().join(format!("limits-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a new folder");
            fs::write(path, text).expect("a new file");
        }
        let limit = memory_limit(&root);
        fs::remove_dir_all(&root).expect("the folder");
        limit
    }

    #[test]
    fn takes_the_lowest_memory_limit_up_to_the_root() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], u64);
        const CASES: &[Case] = &[
            ("no group", &[("etc/x", "")], u64::MAX),
            (
                "version 2, own limit",
                &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "16777216\n")],
                16 << 20,
            ),
            (
                "version 2, no limit",
                &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")],
                u64::MAX,
            ),
            (
                "version 2, the parent's limit",
                &[
                    ("proc/self/cgroup", "0::/ecs/task\n"),
                    ("sys/fs/cgroup/ecs/task/memory.max", "max\n"),
                    ("sys/fs/cgroup/ecs/memory.max", "16777216\n"),
                ],
                16 << 20,
            ),
            (
                "version 2, memory.high",
                &[
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "33554432\n"),
                    ("sys/fs/cgroup/memory.high", "8388608\n"),
                ],
                8 << 20,
            ),
            (
                "version 1, own limit",
                &[
                    ("proc/self/cgroup", "3:cpu,cpuacct:/x\n2:memory:/docker/1\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "16777216\n"),
                ],
                16 << 20,
            ),
            (
                "version 1, the limit of an invisible ancestor",
                &[
                    ("proc/self/cgroup", "2:memory:/ecs/task\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                    (
                        "sys/fs/cgroup/memory/memory.stat",
                        "cache 0\nhierarchical_memory_limit 16777216\n",
                    ),
                ],
                16 << 20,
            ),
            (
                "not a number",
                &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "-1\n")],
                u64::MAX,
            ),
        ];
        for (index, (case, files, limit)) in CASES.iter().enumerate() {
            assert_eq!(limit_of(&index.to_string(), files), *limit, "{case}");
        }
    }

    #[test]
    fn shares_connections_between_clients_and_backend() {
        let limits = |descriptors, memory, workers| ProcessLimits { descriptors, memory, workers };
        for (limits, backend, clients) in [
            (limits(1 << 20, u64::MAX, 1), 1024, 10_000),
            (limits(1 << 20, u64::MAX, 2), 1024, 10_000),
            (limits(1 << 20, 16 << 20, 1), 256, 1024),
            (limits(1024, u64::MAX, 1), 242, 666),
            (limits(64, u64::MAX, 1), 8, 22),
            (limits(3, u64::MAX, 256), 1, 1),
        ] {
            let found = limits.backend_connections(1024);
            assert_eq!(found, backend, "{limits:?}");
            let all = found as u64 * limits.workers;
            assert_eq!(limits.client_connections(10_000, all), clients, "{limits:?}");
        }
    }
}
