//! Threads that do what may take long. They are started when they are first needed.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The most threads: how many reads a guest can wait for at the same time.
const THREADS: usize = 16;

/// The bytes of a thread's stack. What is large is on the heap.
const STACK: usize = 256 << 10;

/// Threads that work on jobs, in the order in which they come.
pub(super) struct Workers<J> {
    shared: Arc<Shared<J>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Does a job. It is called by one thread for many jobs, with a buffer that belongs to the thread.
type Work<J> = dyn Fn(J, &mut [u8]) + Send + Sync;

struct Shared<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
    work: Box<Work<J>>,
    buffer: usize,
}

struct State<J> {
    waiting: VecDeque<J>,
    idle: usize,
    ended: bool,
}

impl<J: Send + 'static> Workers<J> {
    /// Creates the workers, each of which will have a buffer of `buffer` bytes.
    pub(super) fn new(buffer: usize, work: impl Fn(J, &mut [u8]) + Send + Sync + 'static) -> Self {
        let state = Mutex::new(State { waiting: VecDeque::new(), idle: 0, ended: false });
        let shared = Shared { state, changed: Condvar::new(), work: Box::new(work), buffer };
        Self { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// Gives a job to a thread. If the host has no thread for it, it is done before this returns.
    pub(super) fn submit(&self, job: J) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.lock();
        state.waiting.push_back(job);
        let needs_another = state.waiting.len() > state.idle && threads.len() < THREADS;
        drop(state);
        if needs_another {
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name("vhost-user-blk-read".to_owned()).stack_size(STACK);
            match builder.spawn(move || shared.run()) {
                Ok(thread) => threads.push(thread),
                Err(error) if threads.is_empty() => {
                    tracing::warn!(%error, "a disk is read by one thread");
                    let job = self.shared.lock().waiting.pop_back();
                    if let Some(job) = job {
                        (self.shared.work)(job, &mut vec![0; self.shared.buffer]);
                    }
                }
                // One of the others does it.
                Err(_) => {}
            }
        }
        self.shared.changed.notify_one();
    }
}

impl<J> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut buffer = vec![0; self.buffer];
        while let Some(job) = self.next() {
            (self.work)(job, &mut buffer);
        }
    }

    /// Waits for a job. Returns `None` at the end.
    fn next(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(job) = state.waiting.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl<J> Drop for Workers<J> {
    /// Forgets the jobs that no thread has begun, and waits for the others.
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.ended = true;
            std::mem::take(&mut state.waiting)
        };
        self.shared.changed.notify_all();
        drop(waiting);
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            drop(thread.join());
        }
    }
}
