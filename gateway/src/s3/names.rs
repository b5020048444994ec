//! Names of a folder in the order of keys. Folders have an order of their own, by hashes of names; a listing wants that of
//! bytes, a page at a time. So a folder is read whole, and of its names the next so many are kept, sorted: memory is
//! bounded however many there are, and a folder of a million is read some eight times for all its pages, not a thousand.
//!
//! What is sorted is kept for the pages that follow, as long as the folder has not changed since. The filesystem's clock
//! is coarse, so a folder that has changed a moment ago might change again without being seen: what was read of such a
//! one serves the request alone that has read it.

use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

use fs::tree::{Folder, TreePath, TreeResult, View};
use lru::LruCache;
use meta::{Attr, Ino, Kind, Time};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Names that are kept of a folder at once, and bytes of them.
const NAMES: usize = 131_072;
const BYTES: usize = 4 << 20;
/// What all that are kept may take, in bytes.
const ALL: usize = 32 << 20;
/// What all names of a folder take beside their bytes, and where each is.
const ENTRY: usize = 256;
/// Folders that are read at once.
const AT_ONCE: usize = 4;
/// For so long after its last change a folder may change without being seen.
const UNSURE_SECS: i64 = 1;

/// A name as it is sorted: that of a folder with a slash behind it, as its keys have it.
pub(super) type Sorted = Box<[u8]>;

/// From where on names are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum From {
    #[default]
    Start,
    /// What is greater than this key, or is a folder that it lies in.
    Within(Vec<u8>),
    /// What is greater than this name.
    Beyond(Vec<u8>),
    /// This name, and what is greater.
    At(Vec<u8>),
}

impl From {
    fn key(&self) -> &[u8] {
        match self {
            Self::Start => b"",
            Self::Within(key) | Self::Beyond(key) | Self::At(key) => key,
        }
    }

    /// From behind all names that begin so. `None`: there can be none.
    pub(super) fn behind(prefix: &[u8]) -> Option<Self> {
        let end = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
        let mut first = prefix[..=end].to_vec();
        first[end] += 1;
        Some(Self::At(first))
    }

    /// Is this name wanted?
    fn wants(&self, name: &[u8]) -> bool {
        match self {
            Self::Start => true,
            Self::Within(key) => name > &key[..] || name.ends_with(b"/") && key.starts_with(name),
            Self::Beyond(key) => name > &key[..],
            Self::At(key) => name >= &key[..],
        }
    }
}

/// Names of one folder, in order.
pub(super) struct Names {
    from: From,
    /// All of them that are wanted, or the first: where each is in `text`.
    sorted: Vec<Range<u32>>,
    text: Vec<u8>,
    complete: bool,
    changed: (Time, Time),
}

impl Names {
    fn new(from: From, sorted: &[Sorted], complete: bool, changed: (Time, Time)) -> Self {
        let text: Vec<u8> = sorted.concat();
        let mut end = 0;
        let place = |name: &Sorted| {
            let start = end;
            end += u32::try_from(name.len()).expect("a name is short");
            start..end
        };
        Self { from, sorted: sorted.iter().map(place).collect(), text, complete, changed }
    }

    fn name(&self, place: &Range<u32>) -> &[u8] {
        &self.text[place.start as usize..place.end as usize]
    }

    /// Where the first name is for which this does not hold, as it does for all before.
    fn behind(&self, is_before: impl Fn(&[u8]) -> bool) -> usize {
        self.sorted.partition_point(|place| is_before(self.name(place)))
    }

    /// Are all that are wanted from there in it, or so many that it is worth to begin with them?
    fn covers(&self, from: &From) -> bool {
        let begins = match (&self.from, from) {
            (From::Start, _) => true,
            (_, From::Start) => false,
            (From::Beyond(own), From::Within(key)) => {
                key > own && !(own.ends_with(b"/") && key.starts_with(own))
            }
            // The folder that it lies in is wanted, too.
            (From::At(own), From::Within(key)) => {
                let end = key.iter().position(|byte| *byte == b'/').map_or(key.len(), |at| at + 1);
                key[..end] >= own[..]
            }
            (From::Beyond(own) | From::Within(own), From::At(key)) => key > own,
            (own, from) => from.key() >= own.key(),
        };
        let goes_on = self.sorted.last().is_some_and(|last| self.name(last) > from.key());
        begins && (self.complete || goes_on)
    }

    /// The next name that is wanted from there. `None`: there is none among these.
    pub(super) fn next(&self, from: &From) -> Option<&[u8]> {
        let key = from.key();
        if let From::Within(key) = from
            && let Some(end) = key.iter().position(|byte| *byte == b'/')
            && let Ok(at) = self.sorted.binary_search_by(|place| self.name(place).cmp(&key[..=end]))
        {
            return Some(self.name(&self.sorted[at]));
        }
        let at = match from {
            From::Start => 0,
            From::At(_) => self.behind(|name| name < key),
            _ => self.behind(|name| name <= key),
        };
        self.sorted.get(at).map(|place| self.name(place))
    }

    /// This name, and those of files that come next: so many at most.
    pub(super) fn files(&self, from: &[u8], most: usize) -> Vec<Vec<u8>> {
        let at = self.behind(|name| name < from);
        let names = self.sorted[at..].iter().map(|place| self.name(place));
        names.filter(|name| !name.ends_with(b"/")).take(most).map(<[u8]>::to_vec).collect()
    }

    /// There are no more than these.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    fn bytes(&self) -> usize {
        let places = self.sorted.len() * size_of::<Range<u32>>();
        ENTRY + self.from.key().len() + self.text.len() + places
    }
}

/// The first names of any number in any order, of which no more are kept than may be.
struct Gather {
    found: BinaryHeap<Sorted>,
    bytes: usize,
    complete: bool,
}

impl Gather {
    fn add(&mut self, name: Sorted) {
        if !self.complete && self.found.peek().is_some_and(|last| name >= *last) {
            return;
        }
        self.bytes += name.len();
        self.found.push(name);
        while self.found.len() > NAMES || self.bytes > BYTES && self.found.len() > 1 {
            self.bytes -= self.found.pop().map_or(0, |name| name.len());
            self.complete = false;
        }
    }
}

/// Whose names: of this folder, that begin so, and, if they are not sure, for this request alone.
type Whose = (Ino, Vec<u8>, Option<u64>);

/// What is kept for these takes so many bytes.
fn cost(whose: &Whose, names: &Names) -> usize {
    whose.1.len() + names.bytes()
}

/// What is kept of all folders.
pub(super) struct NameCache {
    kept: Mutex<(LruCache<Whose, Arc<Names>>, usize)>,
    reading: Semaphore,
}

impl Default for NameCache {
    fn default() -> Self {
        Self { kept: Mutex::new((LruCache::unbounded(), 0)), reading: Semaphore::new(AT_ONCE) }
    }
}

impl NameCache {
    /// Names of a folder that begin with `prefix`, from somewhere on, for this request.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn names(
        &self,
        (view, path, folder): (&View, &TreePath, &Folder),
        prefix: &[u8],
        (from, request): (&From, u64),
    ) -> TreeResult<Arc<Names>> {
        let attr = folder.attr();
        let shared: Whose = (attr.ino, prefix.to_vec(), None);
        let own: Whose = (attr.ino, prefix.to_vec(), Some(request));
        let known = || {
            let mut kept = self.kept.lock();
            let fits = |names: &&Arc<Names>| names.covers(from) && names.changed == changed(attr);
            let found = kept.0.get(&shared).filter(fits).cloned();
            found.or_else(|| kept.0.get(&own).filter(|names| names.covers(from)).cloned())
        };
        if let Some(names) = known() {
            return Ok(names);
        }
        let _turn = self.reading.acquire().await.expect("it is never closed");
        // Somebody else may have read it meanwhile.
        if let Some(names) = known() {
            return Ok(names);
        }
        // Every change has its time of the machine's clock there; the other time, of content, anybody may set.
        let is_sure = attr.ctime.secs.saturating_add(UNSURE_SECS) < meta::wall_clock().secs;
        let names = Arc::new(read((view, path, attr), prefix, from.clone()).await?);
        self.keep(if is_sure { shared } else { own }, names.clone());
        Ok(names)
    }

    fn keep(&self, whose: Whose, names: Arc<Names>) {
        let mut kept = self.kept.lock();
        let (all, bytes) = &mut *kept;
        *bytes += cost(&whose, &names);
        if let Some((whose, before)) = all.push(whose, names) {
            *bytes -= cost(&whose, &before);
        }
        while *bytes > ALL {
            let Some((whose, oldest)) = all.pop_lru() else { return };
            *bytes -= cost(&whose, &oldest);
        }
    }

    /// This request wants no names of this folder any more: those that served it alone go.
    pub(super) fn forget(&self, folder: Ino, prefix: &[u8], request: u64) {
        let whose: Whose = (folder, prefix.to_vec(), Some(request));
        let mut kept = self.kept.lock();
        if let Some(names) = kept.0.pop(&whose) {
            kept.1 -= cost(&whose, &names);
        }
    }
}

fn changed(attr: &Attr) -> (Time, Time) {
    (attr.mtime, attr.ctime)
}

async fn read(
    (view, path, attr): (&View, &TreePath, &Attr),
    prefix: &[u8],
    from: From,
) -> TreeResult<Names> {
    let mut gather = Gather { found: BinaryHeap::new(), bytes: 0, complete: true };
    let mut listing = view.list_only(path, attr.ino).await?;
    loop {
        let entries = listing.next().await?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let mut name = entry.name;
            match entry.attr.kind {
                Kind::Directory => name.push(b'/'),
                Kind::File | Kind::Symlink => {}
                // Pipes, sockets and devices are no objects.
                _ => continue,
            }
            if name.starts_with(prefix) && from.wants(&name) {
                gather.add(name.into());
            }
        }
        // A long listing lets others go in between.
        tokio::task::yield_now().await;
    }
    let Gather { found, complete, .. } = gather;
    Ok(Names::new(from, &found.into_sorted_vec(), complete, changed(attr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(from: From, sorted: &[&str], complete: bool) -> Names {
        let sorted: Vec<Sorted> = sorted.iter().map(|name| name.as_bytes().into()).collect();
        Names::new(from, &sorted, complete, Default::default())
    }

    fn within(key: &str) -> From {
        From::Within(key.into())
    }

    fn beyond(key: &str) -> From {
        From::Beyond(key.into())
    }

    #[test]
    fn names_go_on_where_they_were() {
        let all = names(From::Start, &["a", "b/", "b0", "c"], true);
        let mut from = From::Start;
        let mut seen = Vec::new();
        while let Some(name) = all.next(&from) {
            seen.push(String::from_utf8(name.to_vec()).unwrap());
            from = From::Beyond(name.to_vec());
        }
        assert_eq!(seen, ["a", "b/", "b0", "c"]);
        assert_eq!(all.files(b"a", 2), [&b"a"[..], b"b0"]);
        assert_eq!(all.files(b"b0", 9), [&b"b0"[..], b"c"]);
        for (from, expected) in [
            (within("a"), Some("b/")),
            (within("b/x"), Some("b/")),
            (within("b/"), Some("b/")),
            (within("b."), Some("b/")),
            (within("b00"), Some("c")),
            (within("c"), None),
            (beyond("b/"), Some("b0")),
        ] {
            let found = all.next(&from).map(|name| String::from_utf8(name.to_vec()).unwrap());
            assert_eq!(found.as_deref(), expected, "{from:?}");
            for name in ["a", "b/", "b0", "c"] {
                let first = from.wants(name.as_bytes()) && expected == Some(name);
                assert!(
                    first || !from.wants(name.as_bytes()) || expected.is_some_and(|e| name > e)
                );
            }
        }
    }

    #[test]
    fn what_is_kept_is_used_where_it_is_enough() {
        let some = names(beyond("b"), &["c/", "d", "e"], false);
        assert!(
            some.covers(&beyond("b")) && some.covers(&within("c/x")) && some.covers(&beyond("d"))
        );
        assert!(
            !some.covers(&From::Start) && !some.covers(&beyond("a")) && !some.covers(&beyond("e"))
        );
        let behind = names(beyond("c/"), &["d", "e"], true);
        assert!(
            !behind.covers(&within("c/x"))
                && behind.covers(&beyond("c/"))
                && behind.covers(&within("z"))
        );
    }

    #[test]
    fn names_that_begin_alike_are_passed_over() {
        let at = |name: &[u8]| Some(From::At(name.to_vec()));
        assert_eq!(From::behind(b"b"), at(b"c"));
        assert_eq!(From::behind(b"b/"), at(b"b0"));
        assert_eq!(From::behind(b"b\xff\xff"), at(b"c"));
        assert!(From::behind(b"\xff").is_none() && From::behind(b"").is_none());
        let all = names(From::Start, &["a", "b-", "b/", "b0", "c"], true);
        let next = |prefix: &str| {
            let found = all.next(&From::behind(prefix.as_bytes()).unwrap());
            found.map(|name| String::from_utf8(name.to_vec()).unwrap())
        };
        assert_eq!(next("b").as_deref(), Some("c"));
        assert_eq!(next("b/").as_deref(), Some("b0"));
        assert_eq!(next("b.").as_deref(), Some("b/"));
        assert_eq!(next("c"), None);
        let some = names(From::At(b"c".to_vec()), &["c", "d/", "e"], true);
        let from = |name: &str| From::At(name.into());
        assert!(some.covers(&from("c")) && some.covers(&beyond("c")) && !some.covers(&from("b")));
        assert!(some.covers(&within("d/x")) && !some.covers(&within("b/x")));
        assert!(!names(beyond("c"), &["d"], true).covers(&from("c")));
    }

    #[test]
    fn what_is_kept_is_bounded_whatever_it_is_asked_by() {
        let cache = NameCache::default();
        let long = vec![b'p'; 4096];
        for request in 0..20_000 {
            let names = Arc::new(names(From::At(long.clone()), &[], true));
            cache.keep((Ino(1), long.clone(), Some(request)), names);
        }
        let kept = cache.kept.lock();
        assert!(kept.1 <= ALL && kept.0.len() <= ALL / (2 * long.len()));
        drop(kept);
        for request in 0..20_000 {
            cache.forget(Ino(1), &long, request);
        }
        let kept = cache.kept.lock();
        assert_eq!((kept.0.len(), kept.1), (0, 0));
    }

    #[test]
    fn the_first_names_are_kept_whatever_the_order_they_come_in() {
        let mut gather = Gather { found: BinaryHeap::new(), bytes: 0, complete: true };
        for n in 0..300_000u32 {
            gather.add(format!("{:06}", n.wrapping_mul(7919) % 300_000).into_bytes().into());
            assert!(gather.found.len() <= NAMES && gather.bytes <= BYTES);
        }
        let sorted = gather.found.into_sorted_vec();
        assert!(!gather.complete && sorted.len() == NAMES);
        assert!(sorted.iter().enumerate().all(|(n, name)| **name == *format!("{n:06}").as_bytes()));
    }
}
