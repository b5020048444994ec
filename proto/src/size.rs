//! Sizes as people write them: `4096`, `512MiB`, `10GiB`, `10G`, `10GB`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Text that is not a size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSize {
    /// Something else.
    #[error(
        "not a size: {0:?} (expected a whole number with K, M, G or T, as in 10G or 10GiB; 10GB is 10,000,000,000)"
    )]
    Text(String),
    /// No number of ours is so large.
    #[error("{0} is more than any disk has")]
    TooLarge(String),
}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let bad = || BadSize::Text(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let (base, letter) = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')) {
            Some(letter) if unit.ends_with("ib") => (1024u64, letter),
            Some("") => (1, ""),
            Some(letter) => (1000, letter),
            None => (1024, unit.as_str()),
        };
        let power = match (letter, unit.as_str()) {
            ("", "" | "b") => 0,
            ("k", _) => 1,
            ("m", _) => 2,
            ("g", _) => 3,
            ("t", _) => 4,
            ("p", _) => 5,
            _ => return Err(bad()),
        };
        if number.is_empty() {
            return Err(bad());
        }
        let bytes = number.parse().ok().and_then(|n: u64| n.checked_mul(base.pow(power)));
        bytes.map(Self).ok_or_else(|| BadSize::TooLarge(trimmed.to_owned()))
    }
}

impl fmt::Display for Size {
    /// So that it can be typed again: in the largest binary unit that needs no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["TiB", "GiB", "MiB", "KiB"].into_iter().zip([40, 30, 20, 10]);
        for (unit, shift) in units {
            if self.0 >> shift > 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_or_refused() {
        let good = [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("1k", 1024),
            ("10GiB", 10 << 30),
            ("10G", 10 << 30),
            ("10GB", 10_000_000_000),
            ("5 mb", 5_000_000),
            (" 2 TiB ", 2 << 40),
        ];
        for (text, bytes) in good {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "big", "-1", "1.5G", "G", "GiB", "ib", "10GiBs", "10Gb/s", "10 G iB", "1Z"]
        {
            let error = text.parse::<Size>().expect_err(text).to_string();
            assert!(error.contains("10GiB"), "{text}: {error}");
        }
        for text in ["99999999999T", "99999999999999999999999"] {
            let error = text.parse::<Size>().expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
