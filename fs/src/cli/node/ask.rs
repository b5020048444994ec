//! Asking the roots of a cluster, one after the other until one answers.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use proto::client::channel;
use proto::rpc::root::root_client::RootClient;
use proto::tls::Connector;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// How long one may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The roots of a cluster.
pub(crate) struct Roots<'a> {
    /// `HOST:PORT` of each.
    pub(crate) addresses: &'a [String],
    /// How they are reached.
    pub(crate) connector: Connector,
}

impl Roots<'_> {
    /// Asks the first that answers.
    ///
    /// # Errors
    /// What it refuses, in its words; that none answers, with what became of the last.
    pub(crate) async fn ask<T>(
        &self,
        asking: impl AsyncFn(RootClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T> {
        let mut last = anyhow!("no root is known");
        for address in self.addresses {
            let client = RootClient::new(channel(address, self.connector.clone())?);
            match tokio::time::timeout(ANSWER, asking(client)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if is_away(status.code()) => {
                    last = anyhow!("the root at {address} cannot be asked: {}", words(&status));
                }
                Ok(Err(status)) => bail!("the root at {address}: {}", status.message()),
                Err(_) => last = anyhow!("the root at {address} does not answer in {ANSWER:?}"),
            }
        }
        Err(last).context("asking a root of the cluster")
    }
}

/// Did the transport say so, and not the root?
fn is_away(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

/// All that is known of what went wrong: the innermost says most.
fn words(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut said = status.message().to_owned();
    while let Some(inner) = source {
        said = inner.to_string();
        source = inner.source();
    }
    said
}
