//! Compiles the contracts with protox, so that no protoc has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/storaged.proto", "proto/proxyd.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // `bytes` fields become `bytes::Bytes`: a payload is passed on, never copied into a Vec.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
