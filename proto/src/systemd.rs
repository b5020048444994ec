//! What a daemon tells systemd of itself (sd_notify(3)). Started by anything else, it tells nobody.

use std::future::Future;
use std::time::Duration;

use sd_notify::NotifyState;

/// How often systemd hears that a start goes on, and how long it then waits for the next word.
const GOES_ON: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_secs(30);

/// The daemon does its work from now on.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The daemon is ending, in order.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Does what comes before [`ready`], however long it takes: replaying a log, or waiting for others.
/// Must be called within a tokio runtime.
pub async fn starting<T>(work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut again = tokio::time::interval(GOES_ON);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = again.tick() => {
                let wait = u32::try_from(WAIT.as_micros()).expect("seconds, not hours");
                tell(NotifyState::ExtendTimeoutUsec(wait));
            }
        }
    }
}

/// A word that does not arrive must not end what works.
fn tell(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!("telling systemd: {e}");
    }
}
