//! A mounted volume with a door by S3, and what such a door says.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::accounts::Accounts;
use crate::cluster::{Demo, Mode, Setup};
use crate::door::{Answer, Door, PASSWORD, free_address};

/// A mounted volume, with its door.
pub struct Site {
    /// The volume.
    pub demo: Demo,
    /// Its door by S3.
    pub door: Door,
}

impl Site {
    /// With an empty bucket `photos`, and without accounts.
    pub fn start(mode: Mode) -> Result<Self> {
        let s3 = free_address()?;
        let words = vec!["--s3".to_owned(), s3.clone()];
        let (mount_arguments, demo_arguments) = (words.clone(), words);
        let demo = Demo::start(Setup { mount_arguments, demo_arguments, ..Setup::new(mode) })?;
        let site = Self { demo, door: Door::at(&s3) };
        site.door.put("/photos", b"")?.expect(200)?;
        Ok(site)
    }

    /// The same with an account that may do anything, and a key of it: its id, and its secret.
    pub fn with_key() -> Result<(Self, (String, String))> {
        let site = Self::start(Mode::Embedded)?;
        let accounts = Accounts(&site.demo);
        accounts.with_password("user add root --uid 0 --gid 0", PASSWORD)?;
        let key = accounts.access_key("root")?;
        // Else aws signs addresses in a way of long ago.
        fs::write(site.aws_settings(), "[default]\ns3 =\n  signature_version = s3v4\n")?;
        Ok((site, key))
    }

    /// A file of settings that aws goes by, once there is a key.
    pub fn aws_settings(&self) -> PathBuf {
        self.demo.outside("aws")
    }

    /// Asks for something.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer> {
        self.door.ask(method, path, headers, body.as_bytes())
    }

    /// All keys and folders of a list, in pages of this size.
    pub fn listed(&self, words: &str, page: usize) -> Result<Vec<String>> {
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("/photos?list-type=2&max-keys={page}{words}{token}");
            let said = text(&self.door.get(&path)?.expect(200)?);
            let mut found = between(&said, "<Key>", "</Key>");
            found.extend(between(&said, "<CommonPrefixes><Prefix>", "</Prefix>"));
            ensure!(found.len() <= page);
            // A page has them by kind, and pages follow one another.
            found.sort();
            all.extend(found);
            match between(&said, "<NextContinuationToken>", "</").first() {
                Some(next) => token = format!("&continuation-token={next}"),
                None => return Ok(all),
            }
        }
    }

    /// Begins an upload by parts.
    pub fn begin(&self, path: &str) -> Result<String> {
        let begun = text(&self.ask("POST", &format!("{path}?uploads"), &[], "")?.expect(200)?);
        between(&begun, "<UploadId>", "<").pop().context("an upload has an id")
    }

    /// Sends a part; its tag.
    pub fn part(&self, path: &str, id: &str, number: u32, bytes: &[u8]) -> Result<String> {
        let path = format!("{path}?partNumber={number}&uploadId={id}");
        Ok(self.door.put(&path, bytes)?.expect(200)?.headers["etag"].clone())
    }

    /// Completes it, with parts by their numbers and tags.
    pub fn complete(&self, path: &str, id: &str, parts: &[(u32, String)]) -> Result<Answer> {
        complete(&self.door, path, id, parts)
    }
}

/// Completes an upload by parts.
pub fn complete(door: &Door, path: &str, id: &str, parts: &[(u32, String)]) -> Result<Answer> {
    let of = |(number, tag): &(u32, String)| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>")
    };
    let list: String = parts.iter().map(of).collect();
    let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    door.post(&format!("{path}?uploadId={id}"), body.as_bytes())
}

/// The body of an answer.
pub fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// The code of an error.
pub fn code(answer: &Answer) -> String {
    between(&text(answer), "<Code>", "</Code>").pop().unwrap_or_default()
}

/// All that stands between these.
pub fn between(text: &str, begin: &str, end: &str) -> Vec<String> {
    let rests = text.split(begin).skip(1);
    let plain = |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    rests.filter_map(|rest| Some(plain(rest.split_once(end)?.0))).collect()
}
