//! Drives futures while signals arrive, and two futures at once.

use std::future::Future;
use std::io;
use std::pin::pin;

use common::rt::{self, Either, Signals};
use common::sys::SIGCHLD;

/// Drives a future to its end (`Ok`), or until a signal arrives (`Err`). SIGCHLD ends nothing: the
/// future is polled again, as it may wait for a child.
pub async fn until_signal<T>(
    signals: &Signals,
    future: impl Future<Output = T>,
) -> io::Result<Result<T, i32>> {
    let mut future = pin!(future);
    loop {
        match rt::select(signals.next(), future.as_mut()).await {
            Either::First(Ok(SIGCHLD)) => {}
            Either::First(Ok(signal)) => return Ok(Err(signal)),
            Either::First(Err(error)) => return Err(error),
            Either::Second(output) => return Ok(Ok(output)),
        }
    }
}

/// Drives a future to its end. Returns its output and the last signal that arrived in the meantime.
/// Every signal but SIGCHLD is passed to `on_signal`.
pub async fn despite_signals<T>(
    signals: &Signals,
    future: impl Future<Output = T>,
    on_signal: impl Fn(i32),
) -> io::Result<(T, Option<i32>)> {
    let mut future = pin!(future);
    let mut last = None;
    loop {
        match until_signal(signals, future.as_mut()).await? {
            Ok(output) => return Ok((output, last)),
            Err(signal) => {
                on_signal(signal);
                last = Some(signal);
            }
        }
    }
}

/// Drives both futures to their ends.
pub async fn both(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    match rt::select(a.as_mut(), b.as_mut()).await {
        Either::First(()) => b.await,
        Either::Second(()) => a.await,
    }
}
