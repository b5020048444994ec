//! The roll call: is a cluster file what the volume was stored by, and are its disks where it says?
//!
//! Three know something: the volume's metadata which cluster it belongs to and which disks its blobs
//! are on ([`meta::Members`]), each disk who it is and which generation of the group it knows, the file
//! all the rest. Where they differ so that nothing could work, the file is refused; where some can, it
//! goes on with a warning of what stays so. A disk that does not answer is no difference: it may come.

use std::collections::BTreeSet;
use std::time::Duration;

use meta::{Members, MetaError, Volume, VolumeInfo};
use proto::cluster::{Cluster, Endpoint, Level, Slot, TooNarrow};
use proto::id::{ClusterId, DiskId, Generation, SessionId};
use proto::part_store::{PartError, Standing};
use proto::scheme::Scheme;
use proxy::{Answer, Proxy};

/// How long disks are waited for: who is there answers sooner, even on a busy machine.
pub(crate) const BOUND: Duration = Duration::from_millis(2500);
/// Ids that one sentence names.
const NAMED: usize = 3;

/// Why a cluster file cannot be what the volume was stored by.
#[derive(Debug, thiserror::Error)]
pub enum WrongFile {
    /// It is another cluster's.
    #[error(
        "volume {volume} belongs to cluster {expected}, and the cluster file describes cluster {found}"
    )]
    Cluster {
        /// The volume.
        volume: String,
        /// Its cluster.
        expected: ClusterId,
        /// The file's.
        found: ClusterId,
    },
    /// It has been replaced by another.
    #[error(
        "the cluster file is of generation {file}, and {who} knows generation {known}: use the newer file"
    )]
    Old {
        /// The file's generation.
        file: Generation,
        /// Who knows better.
        who: String,
        /// What it knows.
        known: Generation,
    },
    /// Whoever leads the volume has not taken it yet.
    #[error(
        "the cluster file is of generation {file}, and its disks know generation {known}: the metad that leads the volume has to read it first (SIGHUP)"
    )]
    Ahead {
        /// The file's generation.
        file: Generation,
        /// The newest that disks know.
        known: Generation,
    },
    /// The volume's scheme does not fit on it.
    #[error(
        "volume {volume} is stored with {}, which needs {} disks, and the cluster file has {}: list every disk that it was stored on, lost ones too",
        .why.scheme, .why.needed, .why.have
    )]
    Narrow {
        /// The volume.
        volume: String,
        /// How many disks are missing.
        why: TooNarrow,
    },
    /// The volume's journal cannot lie on it as it does.
    #[error(
        "the metadata of volume {volume} lie apart by {level}, which needs {needed} {level}s, and the cluster file has {have}: list all that it was stored on, lost ones too, and name them as they were"
    )]
    FewUnits {
        /// The volume.
        volume: String,
        /// What each copy has for itself.
        level: Level,
        /// So many there must be.
        needed: usize,
        /// There are.
        have: usize,
    },
    /// It lists other disks.
    #[error(
        "of {disks} disks that volume {volume} is stored on, the cluster file lists only {left}, too few to read it: list all that it was stored on, lost ones too"
    )]
    Strangers {
        /// The volume.
        volume: String,
        /// All of them.
        disks: usize,
        /// Those that are in the file.
        left: usize,
    },
    /// What was spread out would fail together.
    #[error(
        "the cluster file makes one fail domain of {joined} that volume {volume} was stored by, and {scheme} survives the loss of {most} parts only: keep their names apart"
    )]
    Joined {
        /// The volume.
        volume: String,
        /// Its scheme.
        scheme: Scheme,
        /// So many domains have become one.
        joined: usize,
        /// So many may fail together.
        most: usize,
    },
    /// What was spread out is called one now, and some of it is silent.
    #[error(
        "the cluster file makes one {level} of {joined} that volume {volume} was stored by, and {away} of its disks do not answer, which may alone have its newest metadata: bring them back, or call its {level}s as they were called"
    )]
    JoinedAndAway {
        /// The volume.
        volume: String,
        /// What has been joined.
        level: Level,
        /// So many of them have become one.
        joined: usize,
        /// Disks that do not answer.
        away: usize,
    },
    /// Too few disks are where it says.
    #[error("the cluster file is wrong about {wrong} of its {all} disks: {first}")]
    Places {
        /// Slots that are not what the file says.
        wrong: usize,
        /// All of them.
        all: usize,
        /// What is wrong with the first.
        first: String,
    },
}

/// Why a roll call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RollCallError {
    /// The file is wrong.
    #[error(transparent)]
    File(#[from] WrongFile),
    /// What the volume was stored on cannot be read or noted.
    #[error("the list of the volume's disks: {0}")]
    Meta(#[from] MetaError),
}

/// What the file says, held against what the volume knows; answers with warnings.
///
/// # Errors
/// When nothing could work, or what is stored would be in danger.
pub fn check_file(
    volume: &VolumeInfo,
    known: Option<&Members>,
    cluster: &Cluster,
) -> Result<Vec<String>, WrongFile> {
    let name = || volume.name.clone();
    if volume.cluster != cluster.cluster {
        let (expected, found) = (volume.cluster, cluster.cluster);
        return Err(WrongFile::Cluster { volume: name(), expected, found });
    }
    let file = cluster.generation;
    if let Some(known) = known.map(|members| members.generation)
        && known > file
    {
        return Err(WrongFile::Old { file, who: format!("volume {}", volume.name), known });
    }
    cluster.check_scheme(volume.scheme).map_err(|why| WrongFile::Narrow { volume: name(), why })?;
    check_units(volume, cluster)?;
    let Some(known) = known else { return Ok(Vec::new()) };
    let difference = known.difference(cluster, known_by(volume));
    let mut warnings = Vec::new();
    if difference.changed && known.generation == file {
        warnings.push(format!(
            "the slots of the cluster file have changed, and its generation is still {file}: raise it, so \
             that nobody goes on with the old file"
        ));
    }
    let (disks, gone) = (difference.disks, difference.gone.len());
    if gone > 0 && disks - gone < volume.scheme.data_parts() {
        return Err(WrongFile::Strangers { volume: name(), disks, left: disks - gone });
    }
    let (scheme, joined, layout) = (volume.scheme, difference.joined, volume.rules.layout);
    let most = match (layout.unit, layout.whole) {
        // Only the journal rests on names; data on none.
        (Level::Disk, 0) => usize::MAX,
        (Level::Disk, _) => 1,
        _ => scheme.parity_parts().max(1),
    };
    if joined > most {
        return Err(WrongFile::Joined { volume: name(), scheme, joined, most });
    }
    if !difference.gone.is_empty() {
        let spare = scheme.parity_parts();
        // Parts of one blob: a host has one where hosts are enough, else each of its disks.
        let apart = difference.domains >= scheme.units();
        let lost = if apart { difference.gone_domains } else { gone };
        let ids = some_of(difference.gone.iter().map(ToString::to_string));
        let what = match spare.checked_sub(lost) {
            Some(0) => "older data cannot lose another disk".to_owned(),
            Some(more) => format!("older data can lose only {more} more"),
            None => "some of the older data cannot be read (ashlar fsck tells which)".to_owned(),
        };
        warnings.push(format!(
            "{gone} disks that hold parts of this volume are not in the cluster file ({ids}): {what}; \
             list them again if they are only away"
        ));
    }
    if difference.joined_racks > 1 && layout.rests_on(Level::Rack) {
        warnings.push(format!(
            "{} racks that data were stored by are one rack now: until repair has put them apart, its loss may be more \
             than the volume bears",
            difference.joined_racks
        ));
    }
    if let Some((disk, old, new)) = difference.moved.first() {
        warnings.push(format!(
            "{} disks are in other fail domains than when data were stored (disk {disk} was in {old}, is in \
             {new}): older data are slower to find, with up to {joined} parts in one domain",
            difference.moved.len()
        ));
    }
    Ok(warnings)
}

/// The level by whose names a volume remembers where its disks were.
fn known_by(volume: &VolumeInfo) -> Level {
    volume.rules.layout.unit.max(Level::Host)
}

/// Has the file as many of what copies of the journal lie apart on as it takes for two who take the volume over to
/// hear of one another?
fn check_units(volume: &VolumeInfo, cluster: &Cluster) -> Result<(), WrongFile> {
    let level = volume.rules.layout.unit;
    let (needed, have) = (volume.scheme.as_copies().units(), cluster.count(level));
    match level > Level::Disk && have < needed {
        true => Err(WrongFile::FewUnits { volume: volume.name.clone(), level, needed, have }),
        false => Ok(()),
    }
}

/// What the disks say, held against the file. Which of them are away, or are others than it says, is told
/// by [`crate::mount::outage`] for as long as that is so.
///
/// # Errors
/// When the file is old, or wrong about so many disks that nothing could be read.
pub fn check_answers(
    scheme: Scheme,
    cluster: &Cluster,
    answers: &[Answer],
) -> Result<(), WrongFile> {
    let mut possible = BTreeSet::new();
    let mut wrong = Vec::new();
    for (index, (slot, answer)) in cluster.slots.iter().zip(answers).enumerate() {
        match answer {
            Some(Err(PartError::StaleGeneration(known))) => {
                let (file, who) = (cluster.generation, named(index, slot));
                return Err(WrongFile::Old { file, who, known: *known });
            }
            Some(Err(
                why @ (PartError::WrongAddress(_) | PartError::Invalid(_) | PartError::Corrupt(_)),
            )) => wrong.push(format!("{}: {why}", named(index, slot))),
            // It is the right one, or may come.
            _ => drop(possible.insert(slot.disk)),
        }
    }
    let hopeless = possible.len() < scheme.data_parts();
    match wrong.first().filter(|_| hopeless) {
        Some(first) => {
            let (wrong, all) = (wrong.len(), cluster.slots.len());
            Err(WrongFile::Places { wrong, all, first: first.clone() })
        }
        None => Ok(()),
    }
}

/// What disks have said before anything was asked of them that they would remember.
pub struct Called {
    answers: Vec<Answer>,
    served: Vec<Served>,
}

/// Whether a slot had served the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    /// Nobody knows: it is away.
    Away,
    /// It never had.
    Never,
    /// It had, under this generation last.
    Under(Generation),
}

impl Served {
    fn of(told: Option<Option<Standing>>) -> Self {
        let under = |standing: Standing| Self::Under(standing.generation);
        told.map_or(Self::Away, |standing| standing.map_or(Self::Never, under))
    }

    fn generation(self) -> Option<Generation> {
        match self {
            Self::Under(generation) => Some(generation),
            Self::Away | Self::Never => None,
        }
    }
}

impl Called {
    /// Could anything be read by the file, of any volume?
    ///
    /// # Errors
    /// When it is old, or wrong about all of its disks.
    pub fn check(&self, cluster: &Cluster) -> Result<(), WrongFile> {
        check_answers(Scheme::copies(1).expect("one copy is a scheme"), cluster, &self.answers)
    }

    /// Could a volume of this scheme be read by the file?
    ///
    /// # Errors
    /// As of [`check_answers`].
    pub fn check_for(&self, scheme: Scheme, cluster: &Cluster) -> Result<(), WrongFile> {
        check_answers(scheme, cluster, &self.answers)
    }

    /// Are all disks there where names are other than those that the journal was stored by?
    ///
    /// Of a host, or a rack, that is silent it is said that it has no more than one copy of an entry. So it was when
    /// they were stored, by the names of then: of two that are one now both may have one. With all disks there nobody
    /// has to say so, and repair puts the copies apart again.
    ///
    /// # Errors
    /// When some are away.
    pub fn check_joined(
        &self,
        volume: &VolumeInfo,
        known: Option<&Members>,
        cluster: &Cluster,
    ) -> Result<(), WrongFile> {
        let away = self.served.iter().filter(|served| **served == Served::Away).count();
        let (Some(known), true) = (known, away > 0) else { return Ok(()) };
        let (level, layout) = (known_by(volume), volume.rules.layout);
        let difference = known.difference(cluster, level);
        let joined = [(level, difference.joined), (Level::Rack, difference.joined_racks)];
        match joined.into_iter().find(|(level, joined)| layout.rests_on(*level) && *joined > 1) {
            Some((level, joined)) => {
                Err(WrongFile::JoinedAndAway { volume: volume.name.clone(), level, joined, away })
            }
            None => Ok(()),
        }
    }

    /// Is it a file that whoever leads volumes goes by already? Only that one can hold a newer one against what a volume is
    /// stored on.
    ///
    /// # Errors
    /// When it is newer than what disks know.
    pub fn check_known(&self, cluster: &Cluster) -> Result<(), WrongFile> {
        let file = cluster.generation;
        self.known_before(cluster).map_or(Ok(()), |known| Err(WrongFile::Ahead { file, known }))
    }

    /// The newest generation that disks know, if the file's is newer: whoever asks them for anything by the file
    /// teaches it to them, so that no older file works any more.
    pub fn known_before(&self, cluster: &Cluster) -> Option<Generation> {
        let known = self.served.iter().filter_map(|served| served.generation()).max();
        known.filter(|known| *known < cluster.generation)
    }

    /// Waits for the disks a moment, and asks them. To be done before a volume is looked for: whoever is asked for
    /// blobs has served from then on.
    pub async fn of(blobs: &Proxy) -> Self {
        let answers = blobs.roll_call(BOUND).await;
        let served = blobs.standings().await.into_iter().map(Served::of).collect();
        Self { answers, served }
    }
}

/// Holds what the disks have said against what a volume that was opened knows; answers
/// with warnings of what stays so. What the volume is stored on from now on is noted when it is
/// `mounted`.
///
/// # Errors
/// When the file is refused.
pub async fn call(
    volume: &Volume,
    cluster: &Cluster,
    called: &Called,
    mounted: Option<SessionId>,
) -> Result<Vec<String>, RollCallError> {
    let info = volume.info();
    let known = volume.members().await?;
    let mut warnings = check_file(&info, known.as_ref(), cluster)?;
    check_answers(info.scheme, cluster, &called.answers)?;
    called.check_joined(&info, known.as_ref(), cluster)?;
    let level = known_by(&info);
    let mut members = match &known {
        Some(known) => known.clone(),
        None => Members::of(cluster, mounted.unwrap_or(volume.next_session().await?), level),
    };
    if let Some(session) = mounted {
        members.follow(cluster, session, level);
        // What is to be emptied no more takes parts again.
        let drains =
            |disk| cluster.slots.iter().any(|slot| slot.drain && slot.stands_for() == disk);
        members.note_emptied(|disk| (!drains(disk)).then_some(false));
    }
    for (index, (slot, served)) in cluster.slots.iter().zip(&called.served).enumerate() {
        let emptied = *served == Served::Never && members.has_met(slot.stands_for(), slot.slot);
        if let (true, Some(lost)) = (emptied, slot.replaces) {
            let slot = named(index, slot);
            tracing::info!("{slot} is in the place of disk {lost}, and is taken in to be rebuilt");
        } else if emptied {
            warnings.push(format!(
                "{} has lost what it held: it was emptied since this volume used it, and is taken in to be rebuilt",
                named(index, slot)
            ));
        }
        if *served != Served::Away {
            members.meet(slot.stands_for(), slot.slot);
        }
    }
    if mounted.is_some() && known.as_ref() != Some(&members) {
        volume.note_members(&members).await?;
    }
    Ok(warnings)
}

/// Disks of the file that held nothing when the volume heard of them last; none, where it cannot say.
pub(crate) async fn emptied(volume: &Volume, cluster: &Cluster) -> Vec<DiskId> {
    let members = match volume.members().await {
        Ok(members) => members.map_or(Vec::new(), |members| members.slots),
        Err(why) => {
            tracing::warn!("which disks were emptied is not known: {why}");
            return Vec::new();
        }
    };
    let emptied = |slot: &&Slot| {
        members.iter().any(|member| member.emptied && member.disk == slot.stands_for())
    };
    cluster.slots.iter().filter(emptied).map(|slot| slot.disk).collect()
}

/// A slot as people find it.
pub(crate) fn named(index: usize, slot: &Slot) -> String {
    match slot.endpoint() {
        Endpoint::Remote(address) => format!("slot {index} ({address})"),
        Endpoint::Local(path) => format!("slot {index} ({})", path.display()),
    }
}

/// The first few, and how many more.
fn some_of(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let mut text = all.take(NAMED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text += &format!("; and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn cluster(slots: usize) -> Cluster {
        let mut text =
            String::from("cluster = \"5ad0c2f0-0000-4000-8000-000000000000\"\ngeneration = 3\n");
        for n in 0..slots {
            text += &format!("[[slot]]\ndisk = \"0b6c0000-0000-4000-8000-0000000000{n:02}\"\n");
            text += &format!("address = \"10.0.0.1:{}\"\n", 7000 + n);
        }
        Cluster::parse(&text, Path::new("/")).unwrap()
    }

    #[test]
    fn answers_decide_whether_the_file_is_refused() {
        let away = || Some(Err(PartError::Unreachable("connection refused".to_owned())));
        let wrong = || Some(Err(PartError::WrongAddress("no disk d there".to_owned())));
        let stale = || Some(Err(PartError::StaleGeneration(Generation(7))));
        let (right, read_only) = (|| Some(Ok(())), || Some(Err(PartError::Io("red".to_owned()))));
        type Case<'a> = (&'a [(&'a dyn Fn() -> Answer, usize)], Option<&'a str>);
        let cases: [Case<'_>; 10] = [
            (&[(&right, 6)], None),
            (&[(&right, 5), (&read_only, 1)], None),
            (&[(&right, 4), (&away, 2)], None),
            (&[(&away, 6)], None),
            (&[(&|| None, 6)], None),
            (&[(&right, 4), (&wrong, 2)], None),
            (
                &[(&right, 3), (&wrong, 3)],
                Some("wrong about 3 of its 6 disks: slot 3 (10.0.0.1:7003)"),
            ),
            (&[(&wrong, 1), (&away, 5)], None),
            (&[(&wrong, 6)], Some("wrong about 6 of its 6 disks")),
            (&[(&right, 5), (&stale, 1)], Some("slot 5 (10.0.0.1:7005) knows generation 7")),
        ];
        for (answers, expected) in cases {
            let answers: Vec<Answer> =
                answers.iter().flat_map(|(answer, n)| (0..*n).map(|_| answer())).collect();
            let said = check_answers("ec(4,2)".parse().unwrap(), &cluster(6), &answers);
            let said = said.err().map(|why| why.to_string());
            let as_expected = match (&said, expected) {
                (Some(said), Some(part)) => said.contains(part),
                (said, part) => said.is_none() && part.is_none(),
            };
            assert!(as_expected, "{answers:?}: {said:?}");
        }
    }
}
