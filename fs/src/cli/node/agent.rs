//! What keeps a machine one of its cluster: its certificate is renewed, what roots have to say is kept in its files, where
//! every process of the machine finds it, and its disks have slots.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::cluster::Cluster;
use proto::program::sentence;
use proto::rpc::root as wire;
use proto::tls::Connector;
use proto::tls::authority::{request, validity};
use proto::tls::credentials::Credentials;
use proto::tls::files::{certificates, replace};
use proto::tls::identity::{Revoked, Role};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use storaged::superblock::Superblock;
use tokio_util::sync::CancellationToken;

use super::ask::Roots;
use super::root::renew_own;
use super::state::{Settings, State};

/// How often roots are asked what is new.
const EVERY: Duration = Duration::from_secs(10);

/// Of one machine.
pub(super) struct Agent {
    pub(super) state: State,
    pub(super) settings: Settings,
    pub(super) credentials: Arc<Credentials>,
}

impl Agent {
    /// Lasts until told to stop. What fails is tried again, and said once.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let mut said = None;
        loop {
            let failed = self.once().await.err().map(|why| sentence(why.as_ref()));
            if failed != said {
                match &failed {
                    Some(why) => tracing::warn!("not up to date with the cluster: {why}"),
                    None => tracing::info!("up to date with the cluster"),
                }
                said = failed;
            }
            if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                return;
            }
        }
    }

    async fn once(&self) -> Result<()> {
        let roots = self.roots();
        self.renew(&roots).await?;
        let news = roots.ask(async |mut root| root.look(wire::LookRequest {}).await).await?;
        self.take(news)?;
        self.offer_disks(&roots).await
    }

    fn roots(&self) -> Roots<'_> {
        let connector = Connector::to_roots(self.credentials.clone());
        Roots { addresses: &self.settings.roots, connector }
    }

    /// Renews the certificate, at half of its time.
    async fn renew(&self, roots: &Roots<'_>) -> Result<()> {
        let files = self.state.files();
        if !is_due(&files.certificate(), SystemTime::now())? {
            return Ok(());
        }
        let key = fs::read_to_string(files.key()).context("this machine's key")?;
        let request = Bytes::from(request(&key)?);
        let admission = if self.credentials.identity().is(Role::Root) {
            let state = self.state.clone();
            // It waits for files.
            tokio::task::spawn_blocking(move || renew_own(&state, &request)).await??
        } else {
            let asked = wire::RenewRequest { request };
            roots.ask(async |mut root| root.renew(asked.clone()).await).await?
        };
        replace(&files.certificate(), &admission.certificate, 0o644)?;
        tracing::info!("this machine's certificate was renewed");
        Ok(())
    }

    /// Keeps what roots say, where it is news. A root has said it itself.
    fn take(&self, news: wire::News) -> Result<()> {
        if self.credentials.identity().is(Role::Root) {
            return Ok(());
        }
        keep(&self.state, &news)?;
        let known = self.state.settings()?;
        if !news.roots.is_empty() && known.roots != news.roots {
            self.state.keep_settings(&Settings { roots: news.roots, ..known })?;
        }
        Ok(())
    }

    /// Has a root give this machine's disks slots, and says where they are.
    async fn offer_disks(&self, roots: &Roots<'_>) -> Result<()> {
        let cluster = self.state.cluster()?;
        let is_known = |disk: &wire::add_disks_request::Disk| {
            cluster.slots.iter().any(|slot| {
                slot.disk.as_bytes()[..] == disk.disk[..]
                    && slot.address.as_deref() == Some(&*disk.address)
            })
        };
        // One that is away just now has been offered before, or will be.
        let disks: Vec<_> = self.settings.disk.iter().filter_map(|disk| self.offer(disk)).collect();
        if disks.iter().all(is_known) {
            return Ok(());
        }
        let asked = wire::AddDisksRequest { disks };
        let news = roots.ask(async |mut root| root.add_disks(asked.clone()).await).await?;
        self.take(news)
    }

    fn offer(&self, disk: &Path) -> Option<wire::add_disks_request::Disk> {
        let Superblock { cluster, disk, .. } = Superblock::read_soon(disk).ok()?;
        (cluster == self.credentials.identity().cluster).then(|| wire::add_disks_request::Disk {
            disk: Bytes::copy_from_slice(disk.as_bytes()),
            address: self.settings.address.clone(),
            domain: self.settings.host.clone(),
        })
    }
}

/// Is half of a certificate's time over?
fn is_due(certificate: &Path, now: SystemTime) -> Result<bool> {
    let own = certificates(certificate)?;
    let valid = own.first().and_then(validity).context("this machine's certificate")?;
    let lasts = valid.end.duration_since(valid.start).unwrap_or_default();
    Ok(valid.start + lasts / 2 <= now)
}

/// Keeps what a root says, where it is news.
pub(crate) fn keep(state: &State, news: &wire::News) -> Result<()> {
    let files = state.files();
    // Whatever makes no sense is not kept.
    Revoked::parse(&news.revoked).context("what was revoked")?;
    check_ca(&news.ca)?;
    for (path, text) in [(files.revoked(), &news.revoked), (files.ca(), &news.ca)] {
        if fs::read_to_string(&path).ok().as_ref() != Some(text) {
            replace(&path, text, 0o644)?;
        }
    }
    let new = Cluster::parse(&news.cluster_file, Path::new("/")).context("the cluster file")?;
    let known = state.cluster().ok().map(|known| Cluster { identity: None, ..known });
    // One of another cluster, of which this machine was before, is neither older nor newer.
    let is_older =
        |known: &Cluster| known.cluster == new.cluster && known.generation > new.generation;
    let older = known.as_ref().is_some_and(is_older);
    if !older && known.as_ref() != Some(&new) {
        state.keep_cluster(&new)?;
    }
    Ok(())
}

/// A machine whose CA makes no sense is nobody from its next start on.
fn check_ca(text: &str) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(text.as_bytes()) {
        roots.add(ca.context("the cluster's CA")?).context("the cluster's CA")?;
    }
    ensure!(!roots.is_empty(), "the root says nothing of the cluster's CA");
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::id::{ClusterId, DiskId, NodeId};
    use proto::tls::authority::{Authority, from_now};
    use proto::tls::identity::Identity;

    use super::super::found::found;
    use super::*;

    const DAY: Duration = Duration::from_secs(86400);

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path());
        let cluster = ClusterId::random();
        let identity = Identity { cluster, node: NodeId::random(), roles: [Role::Node].into() };
        let (authority, _) = Authority::make(cluster).unwrap();
        let (files, when) = (state.files(), from_now(30 * DAY));
        authority.equip(files, &identity, &when).unwrap();
        let due = |days: u32| is_due(&files.certificate(), when.start + days * DAY).unwrap();
        assert_eq!([0, 10, 14, 16, 20, 40].map(due), [false, false, false, true, true, true]);
    }

    #[tokio::test]
    async fn a_root_renews_its_own_certificate_also_when_it_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path());
        let (cluster, disk) = (ClusterId::random(), DiskId::random());
        let settings = Settings {
            roots: vec!["127.0.0.1:1".to_owned()],
            address: "127.0.0.1:1".to_owned(),
            host: "here".to_owned(),
            ..Settings::default()
        };
        found(&state, cluster, &settings, &[disk].into()).unwrap();
        let files = state.files();
        let key = fs::read_to_string(files.key()).unwrap();
        let (identity, _) = files.identity().unwrap();
        let now = SystemTime::now();
        let past = now - 2 * DAY..now - DAY;
        let asked = request(&key).unwrap();
        let over = state.authority().unwrap().issue(&asked, &identity, &past).unwrap();
        replace(&files.certificate(), &over.certificate, 0o644).unwrap();
        let credentials = Credentials::open(directory.path()).unwrap();
        let agent = Agent { state: state.clone(), settings, credentials };
        // Nobody answers there.
        agent.renew(&agent.roots()).await.unwrap();
        let own = certificates(&files.certificate()).unwrap();
        assert!(validity(&own[0]).unwrap().end > now + 29 * DAY);
        assert_eq!(files.identity().unwrap().0, identity, "it is who it was");
    }

    #[test]
    fn what_a_root_says_is_kept_unless_it_is_older_or_nonsense() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path());
        let (cluster, disk) = (ClusterId::random(), DiskId::random());
        let ca = Authority::make(cluster).unwrap().1.certificate;
        let news = |generation: u64, revoked: &str| wire::News {
            ca: ca.clone(),
            revoked: revoked.to_owned(),
            cluster_file: format!(
                "cluster = \"{cluster}\"\ngeneration = {generation}\n[[slot]]\ndisk = \"{disk}\"\naddress = \"h:{generation}\"\n"
            ),
            roots: Vec::new(),
        };
        let address = || state.cluster().unwrap().slots[0].address.clone();
        keep(&state, &news(3, "")).unwrap();
        assert_eq!(address().as_deref(), Some("h:3"));
        assert_eq!(state.cluster().unwrap().identity.as_deref(), Some(directory.path()));
        keep(&state, &news(2, "0aff\n")).unwrap();
        assert_eq!(address().as_deref(), Some("h:3"), "an older root knows nothing newer");
        assert_eq!(fs::read_to_string(state.files().revoked()).unwrap(), "0aff\n");
        assert!(keep(&state, &news(4, "nonsense")).is_err());
        assert_eq!(address().as_deref(), Some("h:3"));
        keep(&state, &news(4, "0aff\n")).unwrap();
        assert_eq!(address().as_deref(), Some("h:4"));
        let bad = wire::News { cluster_file: "slots".to_owned(), ..news(5, "") };
        assert!(keep(&state, &bad).is_err() && address().as_deref() == Some("h:4"));
        let broken = ca.replacen("MII", "!", 1);
        assert_ne!(broken, ca);
        for bad in ["", "a CA", &broken] {
            assert!(keep(&state, &wire::News { ca: bad.to_owned(), ..news(5, "") }).is_err());
            assert_eq!(fs::read_to_string(state.files().ca()).unwrap(), ca, "{bad}");
        }
        // A machine that is of another cluster from now on, with fewer changes behind it.
        let other = ClusterId::random();
        let text = news(1, "").cluster_file.replace(&cluster.to_string(), &other.to_string());
        keep(&state, &wire::News { cluster_file: text, ..news(1, "") }).unwrap();
        assert_eq!(state.cluster().unwrap().cluster, other);
    }
}
