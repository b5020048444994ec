//! How every program of ours speaks and ends: what it has to say goes to stdout, what is wrong is one
//! sentence on stderr, and the exit code is 1 for "no" and 2 for a command line that makes no sense, where 2
//! says nothing else.
//!
//! Invariants:
//! * Nobody who reads is no error: `ashlar status | head -1` ends quietly, with the exit code that
//!   it would have had. What cannot be written for another reason (a full disk) is an error.
//! * Words on stderr that cannot be written are lost, and nothing else is.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::health::Health;

/// Wrong usage.
const USAGE: u8 = 2;

/// What was to be said could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing to standard output: {0}")]
pub struct Unsaid(#[from] io::Error);

/// Says a line, or several, on stdout. Answers whether anybody may still read: one who has much to
/// say stops when nobody does.
pub fn say(text: impl Display) -> Result<bool, Unsaid> {
    write(format!("{text}\n").as_bytes())
}

/// Writes bytes to stdout as they are.
pub fn write(bytes: &[u8]) -> Result<bool, Unsaid> {
    let mut out = io::stdout().lock();
    // Not at exit, where an error would be lost.
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Unsaid(e)),
    }
}

/// Says a line on stderr, under the program's name.
pub fn complain(program: &str, text: impl Display) {
    // One write, so that lines of several processes do not mix. There is nobody else to tell.
    let _ = io::stderr().lock().write_all(format!("{program}: {text}\n").as_bytes());
}

/// Reads the command line. What asks for help or makes no sense is answered here: then the program
/// ends with this code.
pub fn parse<C: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, ExitCode> {
    parse_or::<C>(args, ExitCode::from(USAGE))
}

/// The same, with another code for what makes no sense.
fn parse_or<C: Parser>(
    args: impl IntoIterator<Item = OsString>,
    usage: ExitCode,
) -> Result<C, ExitCode> {
    C::try_parse_from(args).map_err(|e| {
        let name = C::command().get_name().to_owned();
        if e.use_stderr() {
            // To a closed pipe, for all one can do about it.
            let _ = e.print();
            return usage;
        }
        let text = e.render().to_string();
        exit_code(&name, write(text.as_bytes()).map(|_| ExitCode::SUCCESS), ExitCode::FAILURE)
    })
}

/// The same, of a program with commands that say by their exit code how something is: 2 is an answer of theirs, and of a
/// line that makes no sense they say that nothing is known.
pub fn parse_telling<C: Parser>(
    args: impl IntoIterator<Item = OsString>,
    telling: &[&str],
) -> Result<C, ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    let usage = match tells(&args, telling) {
        true => Health::Unknown.into(),
        false => ExitCode::from(USAGE),
    };
    parse_or(args, usage)
}

/// Is it one of these commands?
fn tells(args: &[OsString], telling: &[&str]) -> bool {
    let mut words = args.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        match &*word {
            "--log" => drop(words.next()),
            option if option.starts_with('-') => {}
            command => return telling.contains(&command),
        }
    }
    false
}

/// The program's end: why it did not do what it was asked for is one sentence.
pub fn exit_code<E>(program: &str, result: Result<ExitCode, E>, failure: ExitCode) -> ExitCode
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    result.unwrap_or_else(|e| {
        complain(program, sentence(&*e.into()));
        failure
    })
}

/// An error and its causes as one line. Some errors say their cause themselves: not twice.
pub fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_that_say_how_something_is_end_otherwise_when_they_make_no_sense() {
        for (line, expected) in [
            ("ashlar status --nonsense", true),
            ("ashlar --log info heal nonsense", true),
            ("ashlar --log=info heal", true),
            ("ashlar --log status fsck", false),
            ("ashlar fsck status", false),
            ("ashlar --version", false),
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(tells(&args, &["status", "heal"]), expected, "{line}");
        }
    }
}
