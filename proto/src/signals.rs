//! What signals mean to a program that serves: from the first moment on, none ends it before it has
//! brought everything to rest, and none freezes those whom it serves.
//!
//! | signal | from | means |
//! |---|---|---|
//! | SIGTERM, SIGINT, SIGQUIT, SIGXCPU | kill, Ctrl-C, Ctrl-\\, a limit | end, in good order; again: the same |
//! | SIGHUP | a terminal that closes; logrotate, `systemctl reload` | [`Hangup`] |
//! | SIGTSTP | Ctrl-Z | nothing: a stopped program hangs whoever uses it |
//! | SIGTTIN, SIGTTOU, SIGXFSZ | the terminal; a limit | nothing: the call fails, or does not |
//! | SIGUSR1, SIGUSR2 | somebody | nothing |

use std::fs;
use std::io;

use nix::sys::signal::{SigHandler, Signal};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::program::complain;
use crate::systemd;

/// What SIGHUP means.
pub enum Hangup {
    /// The terminal has gone, and the program with it, in good order. One that was started with
    /// nohup(1) goes on.
    Ends,
    /// This is to be done, and the program goes on.
    Reloads(Box<dyn FnMut() + Send>),
}

impl Hangup {
    /// For a program that may run in the foreground of a terminal, or under a supervisor.
    pub fn of_terminal(reload: impl FnMut() + Send + 'static) -> Self {
        match fs::File::open("/dev/tty") {
            Ok(_) => Self::Ends,
            Err(_) => Self::Reloads(Box::new(reload)),
        }
    }
}

/// Takes all of them over; to be called before anything is opened. Answers what is cancelled when the
/// program shall end. Must be called within a tokio runtime.
pub fn take(program: &'static str, mut hangup: Hangup) -> io::Result<CancellationToken> {
    let inherited = matches!(hangup, Hangup::Ends) && is_ignored(Signal::SIGHUP);
    let ends = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGXCPU];
    let ends = ends.map(|signal| SignalKind::from_raw(signal as i32));
    let [mut terminate, mut interrupt, mut quit, mut limit] = all(ends)?;
    let [mut first, mut second, mut stop] = all([
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::from_raw(Signal::SIGTSTP as i32),
    ])?;
    let mut hung_up = if inherited { None } else { Some(signal(SignalKind::hangup())?) };
    for signal in [Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGXFSZ] {
        ignore(signal)?;
    }
    let token = CancellationToken::new();
    let end = token.clone();
    let work = async move {
        loop {
            let ending = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = quit.recv() => "SIGQUIT",
                _ = limit.recv() => "SIGXCPU",
                _ = heard(&mut hung_up) => match &mut hangup {
                    Hangup::Ends => "SIGHUP",
                    Hangup::Reloads(reload) => {
                        reload();
                        continue;
                    }
                },
                _ = stop.recv() => {
                    complain(program, "not stopped: whoever uses it would hang (end it with Ctrl-C)");
                    continue;
                }
                _ = first.recv() => continue,
                _ = second.recv() => continue,
            };
            if end.is_cancelled() {
                complain(
                    program,
                    "is ending: it stores everything first, and kill -9 would lose it",
                );
            }
            tracing::info!("ending, by {ending}");
            systemd::stopping();
            end.cancel();
        }
    };
    // Ends with the runtime; there is nothing to wait for in it.
    tokio::spawn(work);
    Ok(token)
}

fn all<const N: usize>(kinds: [SignalKind; N]) -> io::Result<[Signals; N]> {
    let taken: Vec<Signals> = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
    Ok(taken.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for")))
}

async fn heard(signal: &mut Option<Signals>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

#[allow(unsafe_code)]
fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: nothing is run when an ignored signal arrives.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    Ok(())
}

/// Was the program started with this signal ignored?
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}
