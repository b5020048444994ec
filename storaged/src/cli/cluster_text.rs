//! The text of a cluster file, changed as a person would: what is not changed stays, comments and order included.

use std::path::Path;

use anyhow::{Context, bail};
use proto::id::{DiskId, Generation};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, Value};

/// A cluster file, as its text.
pub(crate) struct ClusterText(DocumentMut);

impl ClusterText {
    /// Of a text that is a cluster file.
    ///
    /// # Errors
    /// When it is no TOML, or its slots are not tables of their own.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut text = Self(text.parse().context("it is no TOML")?);
        text.slots()?;
        Ok(text)
    }

    fn slots(&mut self) -> anyhow::Result<&mut ArrayOfTables> {
        let slots = self.0.get_mut("slot").and_then(Item::as_array_of_tables_mut);
        match slots {
            Some(slots) => Ok(slots),
            None => bail!("its slots are not written as [[slot]]"),
        }
    }

    /// Says that it is of this generation.
    pub(crate) fn raise(&mut self, generation: Generation) -> anyhow::Result<()> {
        let number = i64::try_from(generation.0).context("its generation is too large")?;
        set(self.0.as_table_mut(), "generation", number);
        Ok(())
    }

    /// Puts a disk in the place of the one that the `nth` slot is on, in a directory where the old one was named by
    /// that.
    pub(crate) fn replace(
        &mut self,
        nth: usize,
        disk: DiskId,
        stands_for: DiskId,
        dir: &Path,
    ) -> anyhow::Result<()> {
        let slot = self.slots()?.get_mut(nth).context("it has no such slot")?;
        set(slot, "disk", disk.to_string());
        set(slot, "replaces", stands_for.to_string());
        // It was the old one that had to be emptied.
        drop(slot.remove("drain"));
        if slot.contains_key("path") {
            set(slot, "path", dir.to_str().context("the directory's name is no text")?);
        }
        Ok(())
    }

    /// Says of the `nth` slot that its disk is to be emptied, or no more.
    pub(crate) fn drain(&mut self, nth: usize, drain: bool) -> anyhow::Result<()> {
        let slot = self.slots()?.get_mut(nth).context("it has no such slot")?;
        match drain {
            true => set(slot, "drain", true),
            false => drop(slot.remove("drain")),
        }
        Ok(())
    }

    /// Takes the `nth` slot out.
    pub(crate) fn remove(&mut self, nth: usize) -> anyhow::Result<()> {
        self.slots()?.remove(nth);
        Ok(())
    }

    /// The lines of the `nth` slot.
    pub(crate) fn slot(&mut self, nth: usize) -> anyhow::Result<String> {
        let slot = self.slots()?.get(nth).context("it has no such slot")?;
        Ok(format!("[[slot]]\n{slot}"))
    }
}

impl std::fmt::Display for ClusterText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Sets a key; what is written around its value stays.
fn set(table: &mut Table, key: &str, value: impl Into<Value>) {
    let mut value = value.into();
    if let Some(before) = table.get(key).and_then(Item::as_value) {
        *value.decor_mut() = before.decor().clone();
    }
    table.insert(key, Item::Value(value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::cluster::Cluster;

    const TEXT: &str = r#"# Ours, in the cellar.
cluster = "5ad0c2f0-0000-4000-8000-000000000000"
generation = 7 # since May

[[slot]] # the old one
disk = "0b6c0000-0000-4000-8000-000000000001"   # a label
path = "/srv/a"
# Next to the door.
[[slot]]
disk = "0b6c0000-0000-4000-8000-000000000002"
path = "b"   # relative
domain = "shelf"
# The end.
"#;

    fn disk(n: u8) -> DiskId {
        format!("0b6c0000-0000-4000-8000-0000000000{n:02}").parse().unwrap()
    }

    #[test]
    fn what_is_not_changed_stays_as_it_was_written() {
        let mut text = ClusterText::parse(TEXT).unwrap();
        assert_eq!(text.to_string(), TEXT);
        text.raise(Generation(8)).unwrap();
        text.replace(1, disk(9), disk(2), Path::new("/srv/new")).unwrap();
        let changed = TEXT
            .replace("generation = 7 #", "generation = 8 #")
            .replace("000000000002\"\n", "000000000009\"\n")
            .replace("path = \"b\" ", "path = \"/srv/new\" ")
            .replace(
                "domain = \"shelf\"\n",
                "domain = \"shelf\"\nreplaces = \"0b6c0000-0000-4000-8000-000000000002\"\n",
            );
        assert_eq!(text.to_string(), changed);
        let cluster = Cluster::parse(&text.to_string(), Path::new("/")).unwrap();
        assert_eq!((cluster.generation, cluster.slots[1].disk), (Generation(8), disk(9)));
        assert_eq!(cluster.slots[1].stands_for(), disk(2));
        let lines = text.slot(1).unwrap();
        assert!(lines.starts_with("[[slot]]\ndisk = ") && lines.contains("replaces = "), "{lines}");
        // The next one in that place, and the first one goes.
        text.replace(1, disk(4), disk(2), Path::new("/srv/newer")).unwrap();
        text.remove(0).unwrap();
        let cluster = Cluster::parse(&text.to_string(), Path::new("/")).unwrap();
        assert_eq!(cluster.slots.len(), 1);
        assert_eq!((cluster.slots[0].disk, cluster.slots[0].stands_for()), (disk(4), disk(2)));
        assert!(text.to_string().contains("# Ours, in the cellar."));
    }

    #[test]
    fn a_disk_is_to_be_emptied_until_somebody_says_otherwise() {
        let mut text = ClusterText::parse(TEXT).unwrap();
        text.drain(1, true).unwrap();
        let drained = text.to_string();
        let cluster = Cluster::parse(&drained, Path::new("/")).unwrap();
        assert_eq!((cluster.slots[0].drain, cluster.slots[1].drain), (false, true));
        assert_eq!(Cluster::parse(&cluster.to_toml(), Path::new("/")), Ok(cluster));
        assert!(drained.contains("path = \"b\"   # relative"), "{drained}");
        text.drain(1, false).unwrap();
        assert_eq!(text.to_string(), TEXT);
        // It was the old one that was to be emptied, not the one in its place.
        text.drain(1, true).unwrap();
        text.replace(1, disk(9), disk(2), Path::new("/srv/new")).unwrap();
        let replaced = text.to_string();
        let cluster = Cluster::parse(&replaced, Path::new("/")).unwrap();
        assert_eq!((cluster.slots[1].disk, cluster.slots[1].drain), (disk(9), false));
        assert!(!replaced.contains("drain"), "{replaced}");
    }

    #[test]
    fn a_file_without_a_generation_gets_one_and_daemons_keep_their_address() {
        let text = TEXT.replace("generation = 7 # since May\n", "").replace("path", "address");
        let mut text = ClusterText::parse(&text.replace("\"b\"", "\"h:1\"")).unwrap();
        text.raise(Generation(2)).unwrap();
        text.replace(1, disk(9), disk(2), Path::new("/srv/new")).unwrap();
        let text = text.to_string().replace("\"/srv/a\"", "\"h:2\"");
        let cluster = Cluster::parse(&text, Path::new("/")).unwrap();
        assert_eq!(cluster.generation, Generation(2));
        assert_eq!(cluster.slots[1].address.as_deref(), Some("h:1"));
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, said) in
            [("slot = 3", "[[slot]]"), ("slot = [{ disk = 3 }]", "[[slot]]"), ("[", "TOML")]
        {
            let error = ClusterText::parse(text).map(drop).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
