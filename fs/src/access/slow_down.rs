//! How long who has failed must wait: a decision, with the time passed in.
//!
//! Failures with passwords are counted by the name and the address that tried, by the address alone, and by the name alone. A few are
//! free of each kind: people mistype, an address may be that of many, and whoever tries a name from everywhere must not keep the one
//! out whose name it is. After each further failure nothing is tried for a second, two, four and so on up to a minute. A quarter of an
//! hour without a failure forgets them; who comes in has those of his name forgotten, not his address's, so that nobody
//! clears it by an account of his own. What is remembered is bounded: those that failed longest ago go first. Addresses of
//! IPv6 count by their network of 64 bits, of which a stranger has as many addresses as he likes.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use meta::ACCOUNT_NAME_MAX;

/// Failures that cost nothing: of a name from an address, of an address whatever the name, of a name wherever from.
const FREE: u32 = 5;
const FREE_OF_ADDRESS: u32 = 50;
const FREE_OF_NAME: u32 = 100;
/// Wait after the first that costs something.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// Without a failure for so long, all is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// Most that are remembered of each kind; about 100 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// What is remembered of one.
#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(self, free: u32, now: Instant) -> Duration {
        let beyond = self.count.saturating_sub(free);
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

/// Those of one kind.
struct Table<K: Hash + Eq> {
    free: u32,
    all: LruCache<K, Failures>,
}

impl<K: Hash + Eq> Table<K> {
    fn new(free: u32) -> Self {
        Self { free, all: LruCache::new(REMEMBERED) }
    }

    fn wait(&self, key: &K, now: Instant) -> Duration {
        self.all.peek(key).map_or(Duration::ZERO, |failures| failures.wait(self.free, now))
    }

    fn count(&mut self, key: K, now: Instant) {
        let failures = self.all.get_or_insert_mut(key, || Failures { count: 0, last: now });
        let before = if failures.is_forgotten(now) { 0 } else { failures.count };
        *failures = Failures { count: before.saturating_add(1), last: now };
    }
}

/// What is remembered of all.
pub(crate) struct SlowDown {
    both: Table<(String, IpAddr)>,
    addresses: Table<IpAddr>,
    names: Table<String>,
}

impl Default for SlowDown {
    fn default() -> Self {
        let (both, names) = (Table::new(FREE), Table::new(FREE_OF_NAME));
        Self { both, addresses: Table::new(FREE_OF_ADDRESS), names }
    }
}

impl SlowDown {
    /// How long nothing is tried for this name from this address. Zero: it is.
    pub(crate) fn wait(&self, name: &str, from: IpAddr, now: Instant) -> Duration {
        let (name, network) = (kept(name), network(from));
        let both = self.both.wait(&(name.clone(), network), now);
        both.max(self.addresses.wait(&network, now)).max(self.names.wait(&name, now))
    }

    /// This was tried, and failed.
    pub(crate) fn failed(&mut self, name: &str, from: IpAddr, now: Instant) {
        let (name, network) = (kept(name), network(from));
        self.both.count((name.clone(), network), now);
        self.addresses.count(network, now);
        self.names.count(name, now);
    }

    /// He of this name has come in from this address.
    pub(crate) fn succeeded(&mut self, name: &str, from: IpAddr) {
        self.both.all.pop(&(kept(name), network(from)));
        self.names.all.pop(&kept(name));
    }
}

/// A name as it is remembered: longer ones, which nobody has, are one.
fn kept(name: &str) -> String {
    if name.len() <= ACCOUNT_NAME_MAX { name.to_owned() } else { String::new() }
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
            slow.failed("ann", here, now);
            assert_eq!(slow.wait("ann", here, now), secs(expected));
            now += secs(expected);
            assert_eq!(slow.wait("ann", here, now), Duration::ZERO);
        }
        now += FORGOTTEN;
        slow.failed("ann", here, now);
        assert_eq!(slow.wait("ann", here, now), Duration::ZERO);
    }

    #[test]
    fn who_tries_a_name_keeps_neither_its_owner_out_nor_others_who_come_from_there() {
        let (mut slow, now) = (SlowDown::default(), Instant::now());
        let (here, there) = (address("10.0.0.1"), address("10.0.0.2"));
        for _ in 0..7 {
            slow.failed("ann", here, now);
        }
        assert_eq!(slow.wait("ann", here, now), secs(2));
        assert_eq!(slow.wait("ann", there, now), Duration::ZERO, "from elsewhere");
        assert_eq!(slow.wait("bob", here, now), Duration::ZERO, "another");
        slow.succeeded("ann", here);
        assert_eq!(slow.wait("ann", here, now), Duration::ZERO);
        // Whoever tries many names from one address, or one name from many, waits as well.
        for n in 0..50 {
            slow.failed(&format!("u{n}"), here, now);
        }
        assert!(slow.wait("new", here, now) > Duration::ZERO);
        for n in 0..101 {
            slow.failed("bob", address(&format!("10.0.1.{n}")), now);
        }
        assert_eq!(slow.wait("bob", there, now), secs(1));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (mut slow, now) = (SlowDown::default(), Instant::now());
        for n in 0..6 {
            slow.failed("ann", address(&format!("2001:db8::{n:x}")), now);
        }
        assert_eq!(slow.wait("ann", address("2001:db8::ffff"), now), secs(1));
        assert_eq!(slow.wait("ann", address("2001:db8:0:1::1"), now), Duration::ZERO);
        for _ in 0..6 {
            slow.failed("bob", address("::ffff:10.0.0.1"), now);
        }
        assert_eq!(slow.wait("bob", address("10.0.0.1"), now), secs(1), "IPv4, told as IPv6");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_is_kept() {
        let (mut slow, now) = (SlowDown::default(), Instant::now());
        let strangers = u32::try_from(REMEMBERED.get()).unwrap() + 10;
        let ann = address("192.168.0.1");
        for n in 0..strangers {
            slow.failed(&format!("u{n}"), IpAddr::from(n.to_be_bytes()), now);
            if n % 1000 == 0 {
                slow.failed("ann", ann, now);
            }
        }
        slow.failed(&"x".repeat(999), ann, now);
        assert_eq!(slow.names.all.len(), REMEMBERED.get());
        assert_eq!(slow.addresses.all.len(), REMEMBERED.get());
        assert_eq!(slow.both.all.len(), REMEMBERED.get());
        assert!(slow.wait("ann", ann, now) > Duration::ZERO);
        assert_eq!(slow.names.all.iter().map(|(name, _)| name.len()).max(), Some(6));
    }
}
