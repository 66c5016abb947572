//! Tells the binary which compiler built it, and writes the gRPC service, which has no .proto file.

use std::env;
use std::process::Command;

fn main() {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    if let Ok(output) = Command::new(rustc).arg("--version").output() {
        println!("cargo:rustc-env=PEERS_RUSTC={}", String::from_utf8_lossy(&output.stdout).trim());
    }
    println!("cargo:rustc-env=PEERS_PROFILE={}", env::var("PROFILE").unwrap_or_default());
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "tonic")]
    write_service();
}

#[cfg(feature = "tonic")]
fn write_service() {
    use tonic_build::manual::{Builder, Method, Service};

    let method = |name: &str, route: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type("crate::subjects::tonic::Payload")
            .output_type("crate::subjects::tonic::Payload")
            .codec_path("tonic_prost::ProstCodec")
    };
    let service = Service::builder()
        .name("Peer")
        .package("peers")
        .method(method("call", "Call").build())
        .method(method("stream", "Stream").client_streaming().build())
        .build();
    Builder::new().compile(&[service]);
}
