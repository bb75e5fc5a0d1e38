//! The .proto contracts and what is generated from them.

/// `io.cloudevents`
pub mod cloudevents {
    /// `io.cloudevents.v1`: the protobuf format of CloudEvents 1.0.2.
    #[allow(clippy::doc_markdown, reason = "generated")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/io.cloudevents.v1.rs"));
    }
}
