//! Tries one decoder (`ASHLAR_DECODER`, by its name) with what libFuzzer thinks of, as it is and with its checksums made
//! right. Without a name it says which there are.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use proto::decoders::Decoder;

static CHOSEN: LazyLock<&'static Decoder> = LazyLock::new(|| {
    let crates = [
        proto::decoders::DECODERS,
        storaged::decoders::DECODERS,
        meta::decoders::DECODERS,
        gateway::decoders::DECODERS,
    ];
    let all = || crates.into_iter().flatten();
    let name = std::env::var("ASHLAR_DECODER").unwrap_or_default();
    if let Some(decoder) = all().find(|decoder| decoder.name == name) {
        if let Ok(example) = std::env::var("ASHLAR_EXAMPLE") {
            std::fs::write(Path::new(&example), (decoder.example)()).expect("an example is written");
        }
        return decoder;
    }
    all().for_each(|decoder| println!("{}", decoder.name));
    std::process::exit(0);
});

fuzz_target!(|bytes: &[u8]| {
    let Decoder { decode, seal, .. } = **CHOSEN;
    decode(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    decode(&sealed);
});
