//! How long who has failed must wait: a decision, with the time passed in.
//!
//! Failures are counted by the name that was tried and by the address that tried. The first five are free; after each
//! further one nothing is tried for a second, two, four and so on up to a minute. A quarter of an hour without a failure
//! forgets all; who comes in has his name's forgotten, not his address's, so that nobody clears it by an account of his
//! own. What is remembered is bounded: the names and addresses that failed longest ago go first. Addresses of IPv6 count
//! by their network of 64 bits, of which a stranger has as many addresses as he likes.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use meta::ACCOUNT_NAME_MAX;

/// Failures that cost nothing: people mistype.
const FREE: u32 = 5;
/// Wait after the first that costs something.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// Without a failure for so long, all is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// Most names, and most addresses, that are remembered; about 100 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// What is remembered of one.
#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(self, now: Instant) -> Duration {
        let beyond = self.count.saturating_sub(FREE);
        if beyond == 0 || self.is_forgotten(now) {
            return Duration::ZERO;
        }
        let whole = FIRST.saturating_mul(1 << (beyond - 1).min(16)).min(LONGEST);
        whole.saturating_sub(now.saturating_duration_since(self.last))
    }

    fn is_forgotten(self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= FORGOTTEN
    }
}

/// What is remembered of all.
pub(crate) struct SlowDown {
    names: LruCache<String, Failures>,
    addresses: LruCache<IpAddr, Failures>,
}

impl Default for SlowDown {
    fn default() -> Self {
        Self { names: LruCache::new(REMEMBERED), addresses: LruCache::new(REMEMBERED) }
    }
}

impl SlowDown {
    /// How long nothing is tried for this name, or from this address. Zero: it is.
    pub(crate) fn wait(&self, name: Option<&str>, from: IpAddr, now: Instant) -> Duration {
        let by_name = name.and_then(|name| self.names.peek(name));
        let by_address = self.addresses.peek(&network(from));
        let waits = [by_name, by_address].into_iter().flatten();
        waits.map(|failures| failures.wait(now)).max().unwrap_or_default()
    }

    /// This was tried, and failed.
    pub(crate) fn failed(&mut self, name: Option<&str>, from: IpAddr, now: Instant) {
        // Nobody has a longer name.
        if let Some(name) = name.filter(|name| name.len() <= ACCOUNT_NAME_MAX) {
            count(self.names.get_or_insert_mut(name.to_owned(), || Failures::none(now)), now);
        }
        count(self.addresses.get_or_insert_mut(network(from), || Failures::none(now)), now);
    }

    /// He of this name has come in.
    pub(crate) fn succeeded(&mut self, name: &str) {
        self.names.pop(name);
    }
}

impl Failures {
    fn none(now: Instant) -> Self {
        Self { count: 0, last: now }
    }
}

fn count(failures: &mut Failures, now: Instant) {
    let before = if failures.is_forgotten(now) { 0 } else { failures.count };
    *failures = Failures { count: before.saturating_add(1), last: now };
}

/// What an address counts as.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let upper = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(upper))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn each_failure_beyond_five_doubles_the_wait_up_to_a_minute() {
        let (mut slow, here, mut now) = (SlowDown::default(), address("10.0.0.1"), Instant::now());
        for expected in [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60] {
            slow.failed(Some("ann"), here, now);
            assert_eq!(slow.wait(Some("ann"), here, now), secs(expected));
            now += secs(expected);
            assert_eq!(slow.wait(Some("ann"), here, now), Duration::ZERO);
        }
        now += FORGOTTEN;
        slow.failed(Some("ann"), here, now);
        assert_eq!(slow.wait(Some("ann"), here, now), Duration::ZERO);
    }

    #[test]
    fn names_and_addresses_count_apart() {
        let (mut slow, now) = (SlowDown::default(), Instant::now());
        let (here, there) = (address("10.0.0.1"), address("10.0.0.2"));
        for _ in 0..7 {
            slow.failed(Some("ann"), here, now);
        }
        assert_eq!(slow.wait(Some("ann"), there, now), secs(2), "the name, wherever from");
        assert_eq!(slow.wait(Some("bob"), here, now), secs(2), "the address, whoever it is");
        assert_eq!(slow.wait(Some("bob"), there, now), Duration::ZERO);
        slow.succeeded("ann");
        assert_eq!(slow.wait(Some("ann"), there, now), Duration::ZERO);
        assert_eq!(
            slow.wait(None, here, now),
            secs(2),
            "an account of one's own clears no address"
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (mut slow, now) = (SlowDown::default(), Instant::now());
        for n in 0..6 {
            slow.failed(None, address(&format!("2001:db8::{n:x}")), now);
        }
        assert_eq!(slow.wait(None, address("2001:db8::ffff"), now), secs(1));
        assert_eq!(slow.wait(None, address("2001:db8:0:1::1"), now), Duration::ZERO);
        for _ in 0..6 {
            slow.failed(None, address("::ffff:10.0.0.1"), now);
        }
        assert_eq!(slow.wait(None, address("10.0.0.1"), now), secs(1), "IPv4, told as IPv6");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_is_kept() {
        let (mut slow, now) = (SlowDown::default(), Instant::now());
        let strangers = u32::try_from(REMEMBERED.get()).unwrap() + 10;
        let ann = address("192.168.0.1");
        for n in 0..strangers {
            slow.failed(Some(&format!("u{n}")), IpAddr::from(n.to_be_bytes()), now);
            if n % 1000 == 0 {
                slow.failed(Some("ann"), ann, now);
            }
        }
        slow.failed(Some(&"x".repeat(999)), ann, now);
        assert_eq!(slow.names.len(), REMEMBERED.get());
        assert_eq!(slow.addresses.len(), REMEMBERED.get());
        assert!(slow.wait(Some("ann"), ann, now) > Duration::ZERO);
        assert_eq!(slow.names.iter().map(|(name, _)| name.len()).max(), Some(6));
    }
}
