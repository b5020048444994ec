//! What a volume wants of its blobs, beyond what each says of itself. The volume keeps it in its metadata, and
//! whoever opens it tells the proxy.

use proto::cluster::Level;
use proto::scheme::Scheme;

/// How the copies of a volume's journal lie apart: fixed when it is formatted, as what is told of silent slots
/// rests on how blobs were put, whatever the map has become since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What each copy has for itself. All but m of these are enough to take the volume over.
    pub unit: Level,
    /// The levels above of which one member may be silent, too, however many units it has: none ever holds all
    /// m+1 copies of a blob. A bit for each [`Level`].
    pub whole: u8,
}

impl Layout {
    /// Do answers about the journal rest on what lies together at this level, as the map called it then?
    pub fn rests_on(self, level: Level) -> bool {
        level > Level::Disk && (self.unit == level || self.whole >> level as u8 & 1 == 1)
    }

    /// The levels of which a single member may be silent.
    pub(crate) fn wholes(self) -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(move |level| self.whole >> *level as u8 & 1 == 1)
    }
}

/// More disks to spare than a scheme can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{scheme} survives the loss of {} disks: min-spare cannot be {asked}", scheme.parity_parts())]
pub struct TooManySpare {
    /// The scheme.
    pub scheme: Scheme,
    /// What was asked for.
    pub asked: u8,
}

/// How blobs of one volume may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeRules {
    /// How its journal lies apart.
    pub layout: Layout,
    /// So many more disks must be able to go, without loss, once a blob is stored, however many are away.
    pub min_spare: u8,
    /// The least that this has ever been: blobs of then may be there.
    pub least_spare: u8,
}

impl VolumeRules {
    /// Disks to spare, unless a volume wants it otherwise.
    pub const MIN_SPARE: u8 = 1;

    /// How many disks to spare blobs of a scheme have when so many are asked for: without parity, none.
    ///
    /// # Errors
    /// When the scheme cannot lose as many.
    pub fn spare(scheme: Scheme, asked: u8) -> Result<u8, TooManySpare> {
        match scheme.parity_parts() {
            0 => Ok(0),
            m if usize::from(asked) > m => Err(TooManySpare { scheme, asked }),
            _ => Ok(asked),
        }
    }

    /// Of a volume that is new on a map that suggests such a layout.
    pub fn new(layout: Layout, min_spare: u8) -> Self {
        Self { layout, min_spare, least_spare: min_spare }
    }

    /// Of a volume that nothing is known of: its blobs may lie as any may.
    pub fn unknown(layout: Layout) -> Self {
        Self { layout, min_spare: Self::MIN_SPARE, least_spare: 0 }
    }

    /// From now on.
    #[must_use]
    pub fn with_min_spare(self, min_spare: u8) -> Self {
        Self { min_spare, least_spare: self.least_spare.min(min_spare), ..self }
    }
}

/// Of a volume on disks that each fail alone.
impl Default for VolumeRules {
    fn default() -> Self {
        Self::new(Layout { unit: Level::Disk, whole: 0 }, Self::MIN_SPARE)
    }
}
