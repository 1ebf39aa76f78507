//! Tests in namespaces of their own, without any tool. Not every machine lets its users, or every
//! container its root, make namespaces: such a test is `#[ignore = "needs namespaces"]`.

use std::env;
use std::ffi::CString;
use std::fs;
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tools::sys::die_with_parent;

use crate::process::scratch_folder;
use crate::sys;

/// Runs the body of a test as root in new user, network and mount namespaces, in which only a
/// loopback device is. A process with threads cannot enter a user namespace: the test's program is
/// run again, for this test alone.
pub fn run(body: impl FnOnce()) {
    const INSIDE: &str = "TESTING_INSIDE_NAMESPACES";
    if env::var_os(INSIDE).is_some() {
        sys::make_mounts_private().unwrap();
        sys::set_loopback_up().unwrap();
        return body();
    }
    let thread = thread::current();
    let name = thread.name().expect("the test's name");
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([name, "--exact", "--include-ignored", "--nocapture"]).env(INSIDE, "1");
    let output = die_with_parent(sys::isolate(&mut command)).output();
    let output = output.expect("this user may make namespaces");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    eprint!("{stderr}");
    assert!(output.status.success(), "inside: {}\n{stdout}{stderr}", output.status);
    assert!(stdout.contains("test result: ok. 1 passed"), "{stdout}");
}

/// Sets a parameter of the kernel, such as `net/ipv4/tcp_tw_reuse`, in these namespaces.
pub fn set_sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/{name}"), value).unwrap();
}

/// Makes a file have other contents, in this mount namespace alone.
pub fn replace_file(path: &str, contents: &str) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let other = scratch_folder().join(format!("replaced-{}-{number}", process::id()));
    fs::write(&other, contents).unwrap();
    let source = CString::new(other.to_str().unwrap()).unwrap();
    sys::bind_mount(&source, &CString::new(path).unwrap()).unwrap();
    // The mount keeps it.
    fs::remove_file(other).unwrap();
}
