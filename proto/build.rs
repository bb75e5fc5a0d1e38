//! Compiles the .proto contracts. protox is written in Rust, so building needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/io/cloudevents/v1/cloudevents.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // Sorted maps, so that the same event is always the same bytes.
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
