//! Futures, time and readiness on one thread.
//!
//! A worker is a thread with its own epoll (`reactor`) and its own tasks and deadlines
//! (`executor`). Each turn of its loop polls the tasks that were woken, sleeps in the kernel until
//! a descriptor is ready or a deadline has come, and wakes the tasks that wait for these.

mod async_fd;
mod executor;
mod reactor;

use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

pub use async_fd::AsyncFd;
pub(crate) use executor::lock;
pub use executor::{Shutdown, Worker, now, poll_deadline, spawn, wake_next_turn};
pub use reactor::Direction;

/// Makes this thread a worker and drives `main` to its end.
pub fn run<T>(shutdown: &Shutdown, main: impl Future<Output = T>) -> io::Result<T> {
    Worker::new(shutdown)?.run(main)
}

/// The future's output, or `None` if it is not ready at that time.
pub async fn timeout_at<F: Future>(at: Instant, future: F) -> Option<F::Output> {
    match select(future, sleep_until(at)).await {
        Either::First(output) => Some(output),
        Either::Second(()) => None,
    }
}

/// Waits until it is `at`.
pub async fn sleep_until(at: Instant) {
    poll_fn(|_| poll_deadline(at)).await;
}

/// Returns after all ready tasks have been polled and new events have been handled.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|_| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        wake_next_turn();
        Poll::Pending
    })
    .await;
}

/// The output of the future that was ready first; the other was dropped.
#[derive(Debug)]
pub enum Either<A, B> {
    /// The first future's output.
    First(A),
    /// The second future's output.
    Second(B),
}

/// Waits for the first of two futures. If both are ready, `a` is.
pub async fn select<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        if let Poll::Ready(output) = a.as_mut().poll(cx) {
            return Poll::Ready(Either::First(output));
        }
        b.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

/// Signals that are read from a descriptor instead of interrupting.
#[derive(Debug)]
pub struct Signals(AsyncFd<File>);

impl Signals {
    /// Reads the signals of a signalfd (see `sys::signals`).
    pub fn new(signalfd: OwnedFd) -> Signals {
        Signals(AsyncFd::new(File::from(signalfd)))
    }

    /// The number of the next signal.
    pub async fn next(&self) -> io::Result<i32> {
        // `struct signalfd_siginfo`: 128 bytes, `ssi_signo` first.
        let mut info = [0; 128];
        self.0.io(Direction::In, |mut file| file.read(&mut info)).await?;
        Ok(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

#[cfg(test)]
mod tests {
    use super::executor::{current, reactor};
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::sync::{Arc, Mutex};
    use std::task::Waker;
    use std::time::Duration;

    /// Runs on a thread of its own, as each thread is one worker.
    fn on_a_worker<T: Send + 'static>(test: impl AsyncFnOnce(Shutdown) -> T + Send + 'static) -> T {
        let shutdown = Shutdown::default();
        std::thread::spawn(move || run(&shutdown.clone(), test(shutdown)).expect("a worker"))
            .join()
            .expect("the test's thread")
    }

    /// Tasks that were ever there at the same time, the main one included.
    fn tasks_len() -> usize {
        current(|executor| executor.tasks.borrow().len())
    }

    fn pair() -> (AsyncFd<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("a socket that can");
        (AsyncFd::new(ours), theirs)
    }

    async fn read(from: &AsyncFd<UnixStream>) -> Vec<u8> {
        let mut bytes = [0; 64];
        let count = poll_fn(|_| from.poll_read(&mut bytes)).await.expect("a read");
        bytes[..count].to_vec()
    }

    #[test]
    fn reads_bytes_in_order_and_then_the_end() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            let thread = std::thread::spawn(move || {
                for word in [&b"first"[..], b"second"] {
                    theirs.write_all(word).expect("a write");
                    theirs.read_exact(&mut [0]).expect("an acknowledgement");
                }
            });
            for word in [&b"first"[..], b"second"] {
                assert_eq!(read(&ours).await, word);
                ours.io(Direction::Out, |mut io| io.write(b"!")).await.expect("a write");
            }
            assert_eq!(read(&ours).await, b"");
            assert_eq!(read(&ours).await, b"", "the end stays the end");
            thread.join().expect("the other side");
        });
    }

    #[test]
    fn reads_an_end_that_comes_with_the_last_bytes() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            // Registered already, so that bytes and end come in one event.
            assert!(timeout_at(now(), read(&ours)).await.is_none());
            theirs.write_all(b"last").expect("a write");
            drop(theirs);
            assert_eq!(read(&ours).await, b"last");
            assert_eq!(read(&ours).await, b"");
        });
    }

    #[test]
    fn continues_to_write_when_a_full_socket_has_room() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            let mut sent = 0;
            let block = vec![7; 64 << 10];
            let write = |mut io: &UnixStream| io.write(&block);
            while let Some(count) = timeout_at(now(), ours.io(Direction::Out, write)).await {
                sent += count.expect("a write");
            }
            let thread = std::thread::spawn(move || {
                let mut taken = 0;
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = theirs.read(&mut bytes) {
                    taken += count;
                }
                taken
            });
            sent += ours.io(Direction::Out, write).await.expect("room again");
            drop(ours);
            assert_eq!(thread.join().expect("the other side"), sent);
        });
    }

    #[test]
    fn a_deadline_ends_a_wait_and_never_too_early() {
        on_a_worker(async |_| {
            let (ours, _theirs) = pair();
            let at = now() + Duration::from_millis(3);
            assert!(timeout_at(at, read(&ours)).await.is_none());
            assert!(Instant::now() >= at);
            let at = now() + Duration::from_millis(1);
            sleep_until(at).await;
            assert!(now() >= at);
        });
    }

    #[test]
    fn wakes_the_task_that_waited_last() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            // This task waits first. Then another does, which passes the wait on.
            assert!(timeout_at(now(), read(&ours)).await.is_none());
            let heard = Rc::new(Cell::new(false));
            let noted = Rc::clone(&heard);
            spawn(async move {
                assert!(timeout_at(now(), read(&ours)).await.is_none());
                spawn(async move {
                    assert_eq!(read(&ours).await, b"x");
                    noted.set(true);
                });
            });
            for _ in 0..3 {
                yield_now().await;
            }
            assert!(!heard.get());
            theirs.write_all(b"x").expect("a write");
            while !heard.get() {
                yield_now().await;
            }
        });
    }

    #[test]
    fn a_task_waits_for_both_directions_at_once() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            let block = vec![7; 64 << 10];
            let write = |mut io: &UnixStream| io.write(&block);
            let mut sent = 0;
            while let Some(count) = timeout_at(now(), ours.io(Direction::Out, write)).await {
                sent += count.expect("a write");
            }
            theirs.write_all(b"x").expect("a write");
            let both = select(ours.io(Direction::Out, write), read(&ours));
            assert!(matches!(both.await, Either::Second(bytes) if bytes == b"x"));
            theirs.read_exact(&mut vec![0; sent]).expect("what was sent");
            let both = select(read(&ours), ours.io(Direction::Out, write));
            assert!(matches!(both.await, Either::Second(Ok(1..))));
        });
    }

    #[test]
    fn each_of_many_deadlines_comes_and_none_too_early() {
        on_a_worker(async |_| {
            let left = Rc::new(Cell::new(4));
            for wait in [7, 1, 5, 3].map(Duration::from_millis) {
                let left = Rc::clone(&left);
                spawn(async move {
                    let at = now() + wait;
                    sleep_until(at).await;
                    assert!(Instant::now() >= at);
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                sleep_until(now() + Duration::from_millis(1)).await;
            }
        });
    }

    #[test]
    fn bytes_that_arrived_before_a_deadline_are_read_although_it_is_over() {
        on_a_worker(async |_| {
            // More than the kernel reports in one call.
            let count = crate::sys::EVENTS_MAX + 8;
            let (results, at) =
                (Rc::new(RefCell::new(Vec::new())), now() + Duration::from_nanos(1));
            let mut peers = Vec::new();
            for _ in 0..count {
                let (ours, theirs) = pair();
                peers.push(theirs);
                let results = Rc::clone(&results);
                spawn(async move {
                    let read = timeout_at(at, read(&ours)).await;
                    results.borrow_mut().push(read);
                });
            }
            // In the same turn, after all of them have begun to wait.
            spawn(async move {
                for mut peer in peers {
                    peer.write_all(b"x").expect("a write");
                }
            });
            while results.borrow().len() < count {
                yield_now().await;
            }
            assert!(results.borrow().iter().all(|read| read.as_deref() == Some(b"x")));
        });
    }

    #[test]
    fn a_dropped_wait_leaves_no_deadline() {
        on_a_worker(async |_| {
            for _ in 0..1000 {
                let at = now() + Duration::from_secs(3600);
                assert!(matches!(select(async {}, sleep_until(at)).await, Either::First(())));
            }
            yield_now().await;
            assert_eq!((current(|it| it.next_deadline.get()), tasks_len()), (None, 1));
        });
    }

    #[test]
    fn a_task_that_yields_lets_the_others_run_first() {
        let order = on_a_worker(async |_| {
            let order = Rc::new(RefCell::new(Vec::new()));
            for name in ["a", "b"] {
                let order = Rc::clone(&order);
                spawn(async move {
                    for _ in 0..2 {
                        order.borrow_mut().push(name);
                        yield_now().await;
                    }
                });
            }
            for _ in 0..4 {
                yield_now().await;
            }
            order.take()
        });
        assert_eq!(order, ["a", "b", "a", "b"]);
    }

    #[test]
    fn a_panic_ends_its_own_task_alone() {
        on_a_worker(async |_| {
            let done = Rc::new(Cell::new(false));
            spawn(async { panic!("wanted by this test") });
            let ours = Rc::clone(&done);
            spawn(async move { ours.set(true) });
            yield_now().await;
            assert!(done.get());
        });
    }

    #[test]
    fn another_thread_wakes_a_task() {
        on_a_worker(async |_| {
            let shared = Arc::new(Mutex::new((false, None::<Waker>)));
            let theirs = Arc::clone(&shared);
            let (waiting, is_waiting) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                is_waiting.recv().expect("a worker that waits");
                let mut state = lock(&theirs);
                state.0 = true;
                state.1.take().expect("a waker").wake();
            });
            poll_fn(|cx| {
                let mut state = lock(&shared);
                if state.0 {
                    return Poll::Ready(());
                }
                state.1 = Some(cx.waker().clone());
                let _ = waiting.send(());
                Poll::Pending
            })
            .await;
            thread.join().expect("the other thread");
        });
    }

    #[test]
    fn a_wake_after_the_end_of_a_task_keeps_no_later_one_from_running() {
        on_a_worker(async |shutdown| {
            let waker = Rc::new(RefCell::new(None));
            let kept = Rc::clone(&waker);
            spawn(poll_fn(move |cx| {
                *kept.borrow_mut() = Some(cx.waker().clone());
                Poll::Ready(())
            }));
            yield_now().await;
            waker.take().expect("the waker of the task that has ended").wake();
            shutdown.begin();
            yield_now().await;
            let is_polled = Rc::new(Cell::new(false));
            let noted = Rc::clone(&is_polled);
            spawn(async move { noted.set(true) });
            yield_now().await;
            assert_eq!((is_polled.get(), tasks_len()), (true, 2));
        });
    }

    #[test]
    fn shutdown_wakes_every_task_of_every_worker() {
        let shutdown = Shutdown::default();
        let (waiting, all_wait) = std::sync::mpsc::channel();
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (shutdown, waiting) = (shutdown.clone(), waiting.clone());
                std::thread::spawn(move || {
                    run(&shutdown.clone(), async {
                        let seen = Rc::new(Cell::new(0));
                        for _ in 0..3 {
                            let (shutdown, seen) = (shutdown.clone(), Rc::clone(&seen));
                            spawn(async move {
                                shutdown.begun().await;
                                seen.set(seen.get() + 1);
                            });
                        }
                        yield_now().await;
                        waiting.send(()).expect("the test waits");
                        shutdown.begun().await;
                        while seen.get() < 3 {
                            yield_now().await;
                        }
                    })
                })
            })
            .collect();
        for _ in &workers {
            all_wait.recv().expect("a worker that waits");
        }
        shutdown.begin();
        for worker in workers {
            worker.join().expect("a worker").expect("its end");
        }
    }

    #[test]
    fn reuses_the_entries_of_tasks_and_descriptors() {
        on_a_worker(async |_| {
            for round in 0..100 {
                let (ours, mut theirs) = pair();
                let done = Rc::new(Cell::new(false));
                let noted = Rc::clone(&done);
                spawn(async move {
                    assert_eq!(read(&ours).await, b"x");
                    noted.set(true);
                });
                yield_now().await;
                theirs.write_all(b"x").expect("a write");
                while !done.get() {
                    yield_now().await;
                }
                let sources = reactor(|it| it.sources.borrow().len());
                assert_eq!((tasks_len(), sources), (2, 1), "round {round}");
            }
        });
    }
}
