//! All the waiting of a request, none of the deciding.
//!
//! A [`Machine`] says which calls to make and judges what comes back; a [`Port`] makes them. The
//! driver keeps them in flight, watches the clock, and ends when the machine has settled. What is
//! still in flight then is dropped.
//!
//! Every wait is bounded: a call without an answer is reported slow after the port's patience, and
//! failed after [`SLOT_TIMEOUT`], unless so many are silent that this would fail the whole: then it is
//! waited for until there is just time left to do without it. The machine is told when the deadline of
//! the whole has passed. All of it is time in which this process ran ([`proto::awake`]).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use proto::awake::Awake;
use proto::part_store::PartError;
use tokio::time::{Instant, sleep};

/// Longest wait for one answer of one slot.
pub(crate) const SLOT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait of a whole request: a slot that times out and its stand-in that does so too.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_millis(4500);

/// What is left of a request's time when it stops waiting for more slots than can be lost, and how long
/// it tries each of the others then.
const LAST_TRY: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_millis(250);
/// So long a request waits for one answer at most.
pub(crate) const LONGEST_WAIT: Duration = REQUEST_TIMEOUT.saturating_sub(LAST_TRY);

/// Decides; does no I/O and reads no clock.
pub(crate) trait Machine {
    /// One question to one slot.
    type Call: Copy;
    /// Its answer.
    type Reply;

    /// The next call to make now, if any.
    fn next_call(&mut self) -> Option<Self::Call>;
    /// An answer, possibly of a call that was called failed before.
    fn replied(&mut self, call: Self::Call, reply: Result<Self::Reply, PartError>);
    /// The call takes longer than it should. It may still answer, and if it does not this is
    /// asked again.
    fn slow(&mut self, call: Self::Call);
    /// Can the call, which is late where others were not, fail beside what has failed without more fail
    /// domains being gone than the scheme can lose?
    fn can_lose(&self, call: Self::Call) -> bool;
    /// The deadline has passed: the machine must settle.
    fn timed_out(&mut self);
    /// Is the outcome known?
    fn settled(&self) -> bool;
}

/// Makes a machine's calls.
pub(crate) trait Port<M: Machine> {
    /// Makes one.
    fn send(&self, call: M::Call) -> impl Future<Output = Result<M::Reply, PartError>> + Send;
    /// How long until it counts as slow.
    fn patience(&self, call: M::Call) -> Duration;
}

struct Waiting<C> {
    number: usize,
    call: C,
    slow_at: Instant,
    patience: Duration,
    fails_at: Instant,
}

/// Calls on their way. They are few, and all of them are polled at each wake: what tells them apart by a waker each
/// (`FuturesUnordered`) wakes its own task once more after every poll.
struct Running<F>(Vec<Pin<Box<F>>>);

impl<F: Future> Running<F> {
    /// The answer of one that has any; waits for ever when there are none.
    async fn next(&mut self) -> F::Output {
        poll_fn(|context| {
            for at in 0..self.0.len() {
                if let Poll::Ready(answer) = self.0[at].as_mut().poll(context) {
                    drop(self.0.swap_remove(at));
                    return Poll::Ready(answer);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Runs the machine until it has settled, at `deadline` of `clock` at the latest.
pub(crate) async fn drive<M: Machine, P: Port<M>>(
    machine: &mut M,
    port: &P,
    clock: &Awake,
    deadline: Instant,
) {
    let mut running = Running(Vec::new());
    let mut waiting: Vec<Waiting<M::Call>> = Vec::new();
    let mut sent = 0;
    // A request that has not the time to wait for both waits for the first.
    let begun = clock.now();
    let short = deadline - begun < SLOT_TIMEOUT + LAST_TRY;
    let last_try = if short { deadline } else { deadline - LAST_TRY };
    let mut set_to = deadline;
    let alarm = sleep(deadline - begun);
    tokio::pin!(alarm);
    loop {
        while let Some(call) = machine.next_call() {
            let number = sent;
            sent += 1;
            let answer = port.send(call);
            running.0.push(Box::pin(async move { (number, call, answer.await) }));
            let (now, patience) = (clock.now(), port.patience(call));
            let slow_at = now + patience;
            let fails_at = (now + SLOT_TIMEOUT).min(last_try.max(now + LAST_WAIT));
            waiting.push(Waiting { number, call, slow_at, patience, fails_at });
        }
        if machine.settled() {
            return;
        }
        let due = waiting.iter().map(|w| w.slow_at.min(w.fails_at)).min().unwrap_or(deadline);
        // An alarm that is too early costs a look at the clock; moving it each time would cost more.
        if due < set_to || alarm.is_elapsed() {
            set_to = due.min(deadline);
            alarm.as_mut().reset(Instant::now() + (set_to - clock.now()));
        }
        tokio::select! {
            biased;
            (number, call, reply) = running.next() => {
                waiting.retain(|w| w.number != number);
                machine.replied(call, reply);
            }
            () = alarm.as_mut() => {
                ring(machine, &mut waiting, clock.now(), last_try, deadline);
            }
        }
    }
}

/// Tells the machine whose time is up.
fn ring<M: Machine>(
    machine: &mut M,
    waiting: &mut Vec<Waiting<M::Call>>,
    now: Instant,
    last_try: Instant,
    deadline: Instant,
) {
    if now >= deadline {
        return machine.timed_out();
    }
    waiting.retain_mut(|w| {
        if now >= w.fails_at && now < last_try && !machine.can_lose(w.call) {
            // It is the machine that is slow, more likely than so many disks.
            w.fails_at = last_try;
        }
        if now >= w.fails_at {
            let why = format!("no answer within {SLOT_TIMEOUT:?}");
            machine.replied(w.call, Err(PartError::Unreachable(why)));
            return false;
        }
        if now >= w.slow_at {
            machine.slow(w.call);
            w.slow_at = now + w.patience / 2;
        }
        true
    });
}
