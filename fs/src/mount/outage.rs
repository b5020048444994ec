//! Disks that are away, in words: which, why, and what works without them.

use std::fmt;

use proto::scheme::Scheme;
use proxy::{Group, SlotStatus};

/// What the disks that are not up take away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    up: usize,
    all: usize,
    effect: &'static str,
    /// Number, place and state of each that is not up.
    disks: Vec<(usize, String, String)>,
}

impl Outage {
    /// Of these slots, for a volume of this scheme. `cut_off`: nothing can be stored on those that
    /// are left. `None`: all are up.
    pub fn of(slots: &[SlotStatus], scheme: Scheme, cut_off: bool) -> Option<Self> {
        let away: Vec<&SlotStatus> = slots.iter().filter(|slot| slot.state != "up").collect();
        if away.is_empty() {
            return None;
        }
        let unread = away.iter().filter(|slot| !slot.state.starts_with("read-only"));
        let lost: Vec<usize> = unread.map(|slot| slot.index).collect();
        let readable = Group::of_slots(slots).is_some_and(|group| group.can_lose(scheme, &lost));
        let effect = match (readable, cut_off) {
            _ if away.len() == slots.len() && !lost.is_empty() => {
                "nothing can be read or stored until they are back"
            }
            (true, false) => "reads and writes go on",
            (true, true) => "everything can be read, and nothing can be stored until more are back",
            (false, false) => {
                "what has too many parts on the others cannot be read until more are back; writes go on"
            }
            (false, true) => {
                "what has too many parts on the others cannot be read, and nothing can be stored, until \
                 more are back"
            }
        };
        let disk = |slot: &&SlotStatus| (slot.index, slot.place.clone(), slot.state.clone());
        let disks = away.iter().map(disk).collect();
        Some(Self { up: slots.len() - away.len(), all: slots.len(), effect, disks })
    }

    /// How many disks are not up.
    pub fn away(&self) -> usize {
        self.disks.len()
    }
}

/// A line of what it means, and one for each disk.
impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} disks are up: {}", self.up, self.all, self.effect)?;
        for (index, place, state) in &self.disks {
            write!(f, "\n  disk {index} at {place}: {state}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scheme: &str, domains: &[&str], states: &[&str], cut_off: bool) -> String {
        let slot = |(index, (domain, state)): (usize, (&&str, &&str))| SlotStatus {
            index,
            disk: format!("0b6c0000-0000-4000-8000-0000000000{index:02}"),
            place: format!("/srv/{index}"),
            domain: (*domain).to_owned(),
            rack: String::new(),
            state: (*state).to_owned(),
            fill: String::new(),
            capacity: 0,
            used: 0,
            available: 0,
        };
        let slots: Vec<_> = domains.iter().zip(states).enumerate().map(slot).collect();
        let outage = Outage::of(&slots, scheme.parse().unwrap(), cut_off);
        outage.map(|outage| outage.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_works_is_said_with_what_is_away_and_why() {
        let all = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(of("ec(4,2)", &all, &["up"; 6], false), "");
        let text = of("ec(4,2)", &all, &["up", "up", "up", "up", "out: gone", "up"], false);
        assert!(text.starts_with("5 of 6 disks are up: reads and writes go on"), "{text}");
        assert!(text.ends_with("\n  disk 4 at /srv/4: out: gone"), "{text}");
        let three = ["out: gone", "out: gone", "up", "up", "out: gone", "up"];
        assert!(of("ec(4,2)", &all, &three, true).contains("cannot be read, and nothing"));
        // Three of the four disks of one host, which has two parts of each blob.
        let together = ["a", "a", "b", "b", "a", "c", "c", "a"];
        let lost = ["refused", "refused", "up", "up", "refused", "up", "up", "up"];
        assert!(of("ec(4,2)", &together, &lost, false).contains("reads and writes go on"));
        let read_only = ["read-only: x"; 6];
        assert!(
            of("ec(4,2)", &all, &read_only, true).contains("everything can be read, and nothing")
        );
        let text = of("ec(4,2)", &all, &["refused"; 6], true);
        assert!(text.starts_with("0 of 6 disks are up: nothing can be read"), "{text}");
    }
}
