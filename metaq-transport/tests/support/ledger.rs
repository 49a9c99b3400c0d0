//! An account of the requests of many threads.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use metaq_transport::{
    Completions, Progress, ReceivedResponse, Reservation, TransportError, TransportErrorKind,
};
use tokio::{
    runtime::{Builder, Handle},
    time::Instant,
};

use super::after;

/// The time by which a request may be late.
pub const LATE: Duration = Duration::from_millis(100);

/// The outcome of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    result: Result<(), (TransportErrorKind, Progress)>,
    at: Instant,
}

#[derive(Debug, Default)]
pub struct Request {
    deadline: Option<Instant>,
    has_listener: bool,
    pub outcomes: Vec<Outcome>,
    released: usize,
}

/// The requests of one connection and all reports about them.
#[derive(Debug, Default)]
pub struct Ledger {
    pub requests: Mutex<HashMap<u64, Request>>,
    next: AtomicU64,
    pub reservations: Mutex<Vec<Reservation>>,
}

impl Ledger {
    pub fn new_token(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn len(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub fn accepted(&self, token: u64, deadline: Instant, has_listener: bool) {
        let mut requests = self.requests.lock().unwrap();
        let request = requests.entry(token).or_default();
        (request.deadline, request.has_listener) = (Some(deadline), has_listener);
    }

    pub fn ended(&self, token: u64, result: Result<ReceivedResponse, TransportError>) {
        let result = result.map(drop).map_err(|error| (error.kind(), error.progress()));
        let outcome = Outcome { result, at: Instant::now() };
        self.requests.lock().unwrap().entry(token).or_default().outcomes.push(outcome);
    }
}

impl Completions for Ledger {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        completed.drain(..).for_each(|(token, result)| Self::ended(self, token, result));
    }

    fn capacity(&self, _: u64, granted: Result<Reservation, TransportError>) {
        if let Ok(reservation) = granted {
            self.reservations.lock().unwrap().push(reservation);
        }
    }

    fn released(&self, tokens: &mut Vec<u64>) {
        let mut requests = self.requests.lock().unwrap();
        for token in tokens.drain(..) {
            let request = requests.entry(token).or_default();
            // Before it ended it counts twice, which is found wrong later.
            request.released += if request.outcomes.is_empty() { 2 } else { 1 };
        }
    }
}

/// The longest delay of threads and tasks, because others have the processors.
#[derive(Debug, Default)]
pub struct Lateness(AtomicU64);

impl Lateness {
    pub fn note(&self, due: Instant) {
        self.0.fetch_max(due.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    pub fn most(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    pub async fn watch(self: Arc<Self>) {
        loop {
            let due = after(1);
            tokio::time::sleep_until(due).await;
            self.note(due);
        }
    }
}

/// The connection's runtime, on a thread of its own that can be stopped.
pub struct Home {
    pub handle: Handle,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Home {
    pub fn new(lateness: &Arc<Lateness>) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, stop) = (runtime.handle().clone(), Arc::new(AtomicBool::new(false)));
        let (stopped, lateness) = (Arc::clone(&stop), Arc::clone(lateness));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let due = after(1);
                runtime.block_on(async { tokio::time::sleep_until(due).await });
                lateness.note(due);
            }
        });
        Self { handle, stop, thread }
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// The requests that the broker has received, and the time at which it answered each.
pub type Received = HashMap<u64, Option<Instant>>;

#[expect(
    clippy::disallowed_methods,
    reason = "chance decides when something happens here, and nothing is awaited"
)]
pub fn pause(micros: u64) {
    thread::sleep(Duration::from_micros(micros));
}

pub fn token_of(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().trim_start_matches('x').parse().unwrap()
}

pub fn account_for(ledger: &Ledger, received: &Received, dials: usize, scheduling: Duration) {
    let requests = ledger.requests.lock().unwrap();
    let mut begun_only = 0;
    let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
    for (token, request) in &*requests {
        let says = || format!("{token}: {request:?}, received: {:?}", received.get(token));
        assert_eq!(request.outcomes.len(), 1, "each ends once: {}", says());
        let outcome = &request.outcomes[0];
        *outcomes.entry(format!("{:?}", outcome.result)).or_default() += 1;
        let Some(deadline) = request.deadline else { panic!("it was not accepted: {}", says()) };
        let late = outcome.at.saturating_duration_since(deadline);
        assert!(
            late <= LATE + scheduling,
            "late by {late:?}, where threads may be by {scheduling:?}: {}",
            says()
        );
        let answered = received.get(token).copied().flatten();
        let mut is_late = false;
        match outcome.result {
            Ok(()) => assert!(answered.is_some(), "nobody answered: {}", says()),
            Err((_, Progress::NotWritten)) => assert!(!received.contains_key(token), "{}", says()),
            Err((kind, Progress::Written)) => {
                is_late = kind == TransportErrorKind::TimedOut;
                begun_only += usize::from(!received.contains_key(token));
                if let Some(answered) = answered {
                    let lay = outcome.at.saturating_duration_since(answered);
                    assert!(lay <= LATE + scheduling, "an answer was here for {lay:?}: {}", says());
                }
            }
        }
        assert_eq!(request.released, usize::from(is_late && request.has_listener), "{}", says());
    }
    #[expect(clippy::print_stdout, reason = "a test shows what it counts")]
    {
        println!("{dials} connections, threads may be late by {scheduling:?}: {outcomes:?}");
    }
    // A connection that is lost has begun one frame at most without finishing it.
    assert!(begun_only <= dials, "{begun_only} requests were begun and not received, on {dials} connections");
}
