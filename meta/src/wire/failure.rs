//! Why an op failed, on its way: each [`MetaError`] by a number, with its words where it has any.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use proto::rpc::metad as wire;

use crate::store::MetaError;

/// How many different texts of [`MetaError::Invalid`] are kept for good, and how long one may be, in bytes: those of a
/// metad are parts of its program, so that there are few.
const TEXTS: usize = 512;
const LONGEST_TEXT: usize = 256;
/// Longest other words, in bytes.
const LONGEST: usize = 4096;

pub(crate) fn failure_to_wire(error: &MetaError) -> wire::Failure {
    let (kind, message) = match error {
        MetaError::NotFound => (1, ""),
        MetaError::Exists => (2, ""),
        MetaError::NotDirectory => (3, ""),
        MetaError::IsDirectory => (4, ""),
        MetaError::NotEmpty => (5, ""),
        MetaError::NotPermitted => (6, ""),
        MetaError::AccessDenied => (7, ""),
        MetaError::NameTooLong => (8, ""),
        MetaError::Invalid(why) => (9, *why),
        MetaError::TooManyLinks => (10, ""),
        MetaError::NoAttribute => (11, ""),
        MetaError::AttributeTooLarge => (12, ""),
        MetaError::FileTooLarge => (13, ""),
        MetaError::NotSupported => (14, ""),
        MetaError::NoSpace => (15, ""),
        MetaError::Engine(why) => (16, why.as_str()),
        MetaError::Ended(why) => (17, why.as_str()),
        MetaError::Damaged(why) => (18, why.as_str()),
        // No session lets it out: it is run again instead.
        MetaError::Elsewhere(_) => (16, "metadata that an operation needed were not fetched"),
    };
    wire::Failure { kind, message: cut(message).to_owned() }
}

pub(crate) fn failure_from_wire(failure: wire::Failure) -> MetaError {
    let wire::Failure { kind, message } = failure;
    match kind {
        1 => MetaError::NotFound,
        2 => MetaError::Exists,
        3 => MetaError::NotDirectory,
        4 => MetaError::IsDirectory,
        5 => MetaError::NotEmpty,
        6 => MetaError::NotPermitted,
        7 => MetaError::AccessDenied,
        8 => MetaError::NameTooLong,
        9 => MetaError::Invalid(kept(&mut KEPT.lock(), message)),
        10 => MetaError::TooManyLinks,
        11 => MetaError::NoAttribute,
        12 => MetaError::AttributeTooLarge,
        13 => MetaError::FileTooLarge,
        14 => MetaError::NotSupported,
        15 => MetaError::NoSpace,
        17 => MetaError::Ended(message),
        18 => MetaError::Damaged(message),
        _ => MetaError::Engine(message),
    }
}

/// The words, or as many as are sent.
fn cut(message: &str) -> &str {
    let mut end = message.len().min(LONGEST);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// Texts for as long as the process lives.
type Texts = BTreeSet<&'static str>;

static KEPT: Mutex<Texts> = Mutex::new(Texts::new());

/// The text that is kept for these words.
fn kept(texts: &mut Texts, message: String) -> &'static str {
    if let Some(text) = texts.get(message.as_str()).copied() {
        return text;
    }
    if texts.len() >= TEXTS || message.len() > LONGEST_TEXT {
        return "metad says so";
    }
    let text: &'static str = Box::leak(message.into_boxed_str());
    texts.insert(text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_read_back() {
        let why = || "why".to_owned();
        for error in [
            MetaError::NotFound,
            MetaError::Exists,
            MetaError::NotDirectory,
            MetaError::IsDirectory,
            MetaError::NotEmpty,
            MetaError::NotPermitted,
            MetaError::AccessDenied,
            MetaError::NameTooLong,
            MetaError::Invalid("why"),
            MetaError::TooManyLinks,
            MetaError::NoAttribute,
            MetaError::AttributeTooLarge,
            MetaError::FileTooLarge,
            MetaError::NotSupported,
            MetaError::NoSpace,
            MetaError::Engine(why()),
            MetaError::Ended(why()),
            MetaError::Damaged(why()),
        ] {
            assert_eq!(failure_from_wire(failure_to_wire(&error)), error);
        }
    }

    #[test]
    fn words_are_bounded() {
        let error = MetaError::Damaged("ä".repeat(LONGEST));
        assert_eq!(failure_to_wire(&error).message.len(), LONGEST);
        let mut texts = Texts::new();
        let mut kept = |message: String| kept(&mut texts, message);
        assert_eq!(kept("x".repeat(LONGEST_TEXT + 1)), "metad says so");
        let before = kept("kept".to_owned());
        (0..2 * TEXTS).for_each(|n| _ = kept(n.to_string()));
        assert_eq!(kept("another".to_owned()), "metad says so");
        assert!(std::ptr::eq(kept("kept".to_owned()), before), "the same, and not once more");
    }
}
