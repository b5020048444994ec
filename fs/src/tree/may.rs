//! Where permissions are asked for: of [`meta::may`], which decides, with what it has to know of an inode.

use meta::may::{Guarded, Who};
use meta::{Acl, Attr, Ino, Kind, MetaError};

use super::{TreeResult, View};

/// The extended attribute that holds the access list of an inode.
pub(super) const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
/// The one that holds what new entries of a directory start from.
const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";

/// What refines the permission bits of an inode.
pub struct AccessLists {
    /// Who may what with it; `None`: what the mode says.
    pub access: Option<Acl>,
    /// What new entries of a directory start from.
    pub default: Option<Acl>,
}

impl View {
    fn who(&self) -> Who<'_> {
        Who { uid: self.viewer().uid, gids: &self.viewer().gids }
    }

    /// The access list of an inode, where it has to be known.
    async fn access_list_of(&self, attr: &Attr) -> TreeResult<Option<Acl>> {
        if !self.who().needs_acl(attr) {
            return Ok(None);
        }
        match self.stored_access_list(attr.ino).await? {
            Some(value) => Ok(Acl::parse(&value)?),
            None => Ok(None),
        }
    }

    /// The access list of an inode as it is kept, if it has one.
    pub(super) async fn stored_access_list(&self, ino: Ino) -> TreeResult<Option<Vec<u8>>> {
        self.stored_list(ino, ACCESS_LIST).await
    }

    async fn stored_list(&self, ino: Ino, name: &[u8]) -> TreeResult<Option<Vec<u8>>> {
        match self.filesystem.meta.getxattr(ino, name).await {
            Ok(value) => Ok(Some(value)),
            Err(MetaError::NoAttribute) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The lists of an inode. Whoever sees its mode sees them, as on the mount.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn access_lists(&self, attr: &Attr) -> TreeResult<AccessLists> {
        let mut lists = AccessLists { access: None, default: None };
        // Links have none.
        if attr.kind == Kind::Symlink {
            return Ok(lists);
        }
        if let Some(value) = self.stored_list(attr.ino, ACCESS_LIST).await? {
            lists.access = Acl::parse(&value)?;
        }
        if attr.kind == Kind::Directory
            && let Some(value) = self.stored_list(attr.ino, DEFAULT_LIST).await?
        {
            lists.default = Acl::parse(&value)?;
        }
        Ok(lists)
    }

    /// May this viewer do to an inode what `decide` is about?
    pub(super) async fn may<F>(&self, attr: &Attr, decide: F) -> TreeResult<()>
    where
        F: FnOnce(Who<'_>, Guarded<'_>) -> Result<(), MetaError>,
    {
        let list = self.access_list_of(attr).await?;
        Ok(decide(self.who(), Guarded { attr, acl: list.as_ref() })?)
    }

    /// The mode that something new gets in a directory, of a mode that is asked for.
    pub(super) fn mode_to_create(&self, dir: &Attr, kind: Kind, mode: u32) -> u32 {
        self.who().mode_to_create(dir, kind, mode)
    }

    /// May this viewer move `source`, which `from` names, to a name in `to`, where `target` is so far? `swap`: that goes
    /// where `source` was.
    pub(super) async fn may_rename(
        &self,
        (from, source): (&Attr, &Attr),
        (to, target): (&Attr, Option<&Attr>),
        swap: bool,
    ) -> TreeResult<()> {
        let (from_list, source_list) =
            (self.access_list_of(from).await?, self.access_list_of(source).await?);
        let to_list = self.access_list_of(to).await?;
        let from = Guarded { attr: from, acl: from_list.as_ref() };
        let source = Guarded { attr: source, acl: source_list.as_ref() };
        let to = Guarded { attr: to, acl: to_list.as_ref() };
        let target_list = match target {
            Some(target) if swap => self.access_list_of(target).await?,
            // Of what is replaced, its owner alone counts.
            _ => None,
        };
        let target = target.map(|attr| Guarded { attr, acl: target_list.as_ref() });
        Ok(self.who().rename((from, source), (to, target), swap)?)
    }
}
